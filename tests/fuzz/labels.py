"""Thousands of clusters with hostile names: series and memory stay bounded, and every name is shown exactly.

`python -m tests.fuzz.labels [--names 10000] [--limit 1000]`
"""

import argparse
import asyncio
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from unicodedata import category

import httpx
import uvloop
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.fuzz.caller import Connection
from tests.fuzz.hostile import LIMIT, TEXTS, UNFIT
from tests.fuzz.report import resident_mib
from tests.support.entries import insert, preempted
from tests.support.exporter import OWN
from tests.support.program import Exporter, Samples, body_of, endpoint_of, open_door

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
_CALLERS: Final = 16
_OTHER: Final = "other"


@dataclass(slots=True)
class Report:
    """What became of the names."""

    names: int
    limit: int
    seconds: float = 0.0
    mib_at_first: float = 0.0
    mib_at_limit: float = 0.0
    mib_in_the_end: float = 0.0
    samples: int = 0
    overflowed: float = 0.0
    warnings: int = 0
    promtool: str = ""
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """What was seen, for people."""
        yield f"{self.names:,} clusters created and interrupted, {self.seconds:.0f} s; limit {self.limit:,}"
        yield f"{self.samples:,} samples; {self.overflowed:,.0f} events are under `other`"
        yield f"{self.warnings} warnings in the log"
        yield (
            f"resident {self.mib_at_first:.0f} MiB at first, {self.mib_at_limit:.0f} MiB at the limit, "
            f"{self.mib_in_the_end:.0f} MiB in the end"
        )
        yield f"promtool check metrics: {self.promtool or 'not here'}"


def names(number: int) -> Iterator[str]:
    """Distinct names that are allowed, and that no GKE cluster has."""
    fit = [text for text in TEXTS if not any(category(character) in UNFIT for character in text)]
    for index in range(number):
        text = fit[index % len(fit)]
        yield f"{text[: LIMIT - 8]}{index:08}" if index % 2 else f"{index:08}{text[: LIMIT - 8]}"


def run(directory: Path, *, number: int, limit: int) -> Report:
    """Create and interrupt an instance in each of so many clusters."""
    report = Report(number, limit)
    with open_door() as door, Exporter(directory, door, prometheus={"max_label_sets": limit}) as exporter:
        began, pid, clusters = time.perf_counter(), exporter.process.pid, list(names(number))
        report.mib_at_first = resident_mib(pid)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_push(exporter, clusters[:limit], report))
            exporter.samples()
            report.mib_at_limit = resident_mib(pid)
            runner.run(_push(exporter, clusters[limit:], report))
        samples = exporter.samples()
        report.mib_in_the_end, report.seconds = resident_mib(pid), time.perf_counter() - began
        report.samples = len(samples)
        report.wrong += [*_wrong(samples, clusters, report), *_unreadable(exporter, report)]
    report.warnings = sum(line["severity"] == "WARNING" for line in exporter.logs())
    return report


async def _push(exporter: Exporter, clusters: Sequence[str], report: Report) -> None:
    waiting = iter(clusters)
    async with asyncio.TaskGroup() as group:
        for _ in range(_CALLERS):
            group.create_task(_call(Connection(exporter), waiting, report))


async def _call(connection: Connection, clusters: Iterator[str], report: Report) -> None:
    for cluster in clusters:
        name = f"gke-{sha256(cluster.encode()).hexdigest()[:16]}"
        for entry, outcome in ((insert(name, cluster=cluster), "tracked"), (preempted(name), "counted")):
            document = (await connection.push(endpoint_of(entry), body_of(entry))).document()
            if (document.get("outcome"), document.get("kubernetes_cluster")) != (outcome, cluster):
                report.wrong.append(f"{cluster!r}: {document}, not {outcome}")
    connection.close()


def _wrong(samples: Samples, clusters: Sequence[str], report: Report) -> Iterator[str]:
    for name in ("interruption_events_total", "spot_interruptions_total", "spot_instances_created_total"):
        shown = Counter[str]()
        for (sample, labels), value in samples.items():
            if sample == name:
                shown[dict(labels)["kubernetes_cluster"]] += int(value)
        own = shown.keys() - {_OTHER, "unknown"}
        if len(own) != report.limit or not own <= set(clusters):
            yield f"{name}: {len(own)} clusters have series; not sent: {own - set(clusters)}"
        if any(shown[cluster] != 1 for cluster in own) or shown.total() != len(clusters):
            yield f"{name} is not exact: {shown.total()} of {len(clusters)}, {shown[_OTHER]} under other"
    report.overflowed = samples[f"{OWN}_label_overflow_total", frozenset()]
    if report.overflowed != 2 * (len(clusters) - report.limit):
        yield f"label_overflow_total is {report.overflowed:g}"


def _unreadable(exporter: Exporter, report: Report) -> Iterator[str]:
    """What other readers say of the exposition."""
    url = f"http://{exporter.metrics_address}/metrics"
    text = httpx.get(url, timeout=30, trust_env=False).text
    openly = httpx.get(url, headers={"accept": OPENMETRICS}, timeout=30, trust_env=False).text
    if _values(text_string_to_metric_families(text)) != _values(
        openmetrics.text_string_to_metric_families(openly)
    ):
        yield "OpenMetrics tells otherwise than text"
    if promtool := shutil.which("promtool"):
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=text.encode(), capture_output=True, timeout=60, check=False
        )
        told = (checked.stdout + checked.stderr).decode().strip()
        report.promtool = told or "no complaint"
        if checked.returncode:
            yield f"promtool: {checked.returncode} {told[:500]}"


def _values(families: Iterable[Metric]) -> set[tuple[frozenset[tuple[str, str]], float]]:
    return {
        (frozenset(sample.labels.items()), sample.value)
        for family in families
        for sample in family.samples
        if sample.name in {"interruption_events_total", "spot_interruptions_total"}
    }


def main() -> None:
    """Run the long form, and print what was seen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--names", type=int, default=10_000)
    parser.add_argument("--limit", type=int, default=1_000)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        report = run(Path(folder), number=options.names, limit=options.limit)
    for line in (*report.lines(), *(f"WRONG: {line}" for line in report.wrong[:50])):
        sys.stdout.write(f"{line}\n")
    sys.stdout.write(f"{len(report.wrong):,} wrong\n" if report.wrong else "nothing wrong\n")
    sys.exit(bool(report.wrong))


if __name__ == "__main__":
    main()
