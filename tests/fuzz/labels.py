"""Thousands of clusters with hostile names: series and memory stay bounded, every name is exposed unchanged.

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

from tests.fuzz.hostile_values import FORBIDDEN_CATEGORIES, LIMIT, TEXTS
from tests.fuzz.raw_client import Connection
from tests.support.entries import insert, preempted
from tests.support.exporter import OWN
from tests.support.measure import rss_mib
from tests.support.output import print_line
from tests.support.program import ExporterProcess, body_of, endpoint_of, issued_credentials
from tests.support.samples import Samples

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
_CALLERS: Final = 16
_OTHER: Final = "other"


@dataclass(slots=True)
class Report:
    """The figures and the errors of a run."""

    names: int
    limit: int
    seconds: float = 0.0
    mib_at_start: float = 0.0
    mib_at_limit: float = 0.0
    mib_at_end: float = 0.0
    samples: int = 0
    overflowed: float = 0.0
    warnings: int = 0
    promtool: str = ""
    errors: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yield the printed report."""
        yield f"{self.names:,} clusters created and interrupted, {self.seconds:.0f} s; limit {self.limit:,}"
        yield f"{self.samples:,} samples; {self.overflowed:,.0f} events are under `other`"
        yield f"{self.warnings} warnings in the log"
        yield (
            f"resident {self.mib_at_start:.0f} MiB at the start, {self.mib_at_limit:.0f} MiB at the limit, "
            f"{self.mib_at_end:.0f} MiB at the end"
        )
        yield f"promtool check metrics: {self.promtool or 'not installed'}"


def names(number: int) -> Iterator[str]:
    """Yield distinct names that the contract allows but GKE does not."""
    allowed = [
        text for text in TEXTS if not any(category(character) in FORBIDDEN_CATEGORIES for character in text)
    ]
    for index in range(number):
        text = allowed[index % len(allowed)]
        yield f"{text[: LIMIT - 8]}{index:08}" if index % 2 else f"{index:08}{text[: LIMIT - 8]}"


def run(directory: Path, *, number: int, limit: int) -> Report:
    """Create and interrupt an instance in each of this many clusters."""
    report = Report(number, limit)
    with (
        issued_credentials() as credentials,
        ExporterProcess(directory, credentials, prometheus={"max_label_sets": limit}) as exporter,
    ):
        began, pid, clusters = time.perf_counter(), exporter.process.pid, list(names(number))
        report.mib_at_start = rss_mib(pid)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_push(exporter, clusters[:limit], report))
            exporter.samples()
            report.mib_at_limit = rss_mib(pid)
            runner.run(_push(exporter, clusters[limit:], report))
        samples = exporter.samples()
        report.mib_at_end, report.seconds = rss_mib(pid), time.perf_counter() - began
        report.samples = len(samples)
        report.errors += [*_counter_errors(samples, clusters, report), *_exposition_errors(exporter, report)]
    report.warnings = sum(line["severity"] == "WARNING" for line in exporter.logs())
    return report


async def _push(exporter: ExporterProcess, clusters: Sequence[str], report: Report) -> None:
    remaining = iter(clusters)
    async with asyncio.TaskGroup() as group:
        for _ in range(_CALLERS):
            group.create_task(_run_caller(Connection(exporter), remaining, report))


async def _run_caller(connection: Connection, clusters: Iterator[str], report: Report) -> None:
    for cluster in clusters:
        name = f"gke-{sha256(cluster.encode()).hexdigest()[:16]}"
        for entry, outcome in ((insert(name, cluster=cluster), "tracked"), (preempted(name), "counted")):
            document = (await connection.push(endpoint_of(entry), body_of(entry))).document()
            if (document.get("outcome"), document.get("kubernetes_cluster")) != (outcome, cluster):
                report.errors.append(f"{cluster!r}: {document}, not {outcome}")
    connection.close()


def _counter_errors(samples: Samples, clusters: Sequence[str], report: Report) -> Iterator[str]:
    for name in ("interruption_events_total", "spot_interruptions_total", "spot_instances_created_total"):
        shown = Counter[str]()
        for (sample, labels), value in samples.items():
            if sample == name:
                shown[dict(labels)["kubernetes_cluster"]] += int(value)
        exposed = shown.keys() - {_OTHER, "unknown"}
        if len(exposed) != report.limit or not exposed <= set(clusters):
            yield f"{name}: {len(exposed)} clusters have series; not sent: {exposed - set(clusters)}"
        if any(shown[cluster] != 1 for cluster in exposed) or shown.total() != len(clusters):
            yield f"{name} is not exact: {shown.total()} of {len(clusters)}, {shown[_OTHER]} under other"
    report.overflowed = samples[f"{OWN}_label_overflow_total", frozenset()]
    if report.overflowed != 2 * (len(clusters) - report.limit):
        yield f"label_overflow_total is {report.overflowed:g}"


def _exposition_errors(exporter: ExporterProcess, report: Report) -> Iterator[str]:
    """Read the exposition with two parsers and with promtool; yield their errors."""
    url = f"http://{exporter.metrics_address}/metrics"
    text = httpx.get(url, timeout=30, trust_env=False).text
    openmetrics_text = httpx.get(url, headers={"accept": OPENMETRICS}, timeout=30, trust_env=False).text
    if _values(text_string_to_metric_families(text)) != _values(
        openmetrics.text_string_to_metric_families(openmetrics_text)
    ):
        yield "the values in the OpenMetrics format differ from those in the text format"
    if promtool := shutil.which("promtool"):
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=text.encode(), capture_output=True, timeout=60, check=False
        )
        output = (checked.stdout + checked.stderr).decode().strip()
        report.promtool = output or "no errors"
        if checked.returncode:
            yield f"promtool: exit status {checked.returncode}: {output[:500]}"


def _values(families: Iterable[Metric]) -> set[tuple[frozenset[tuple[str, str]], float]]:
    return {
        (frozenset(sample.labels.items()), sample.value)
        for family in families
        for sample in family.samples
        if sample.name in {"interruption_events_total", "spot_interruptions_total"}
    }


def main() -> None:
    """Run the long form, and print the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--names", type=int, default=10_000)
    parser.add_argument("--limit", type=int, default=1_000)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        report = run(Path(folder), number=options.names, limit=options.limit)
    for line in (*report.lines(), *(f"WRONG: {line}" for line in report.errors[:50])):
        print_line(line)
    print_line(f"{len(report.errors):,} wrong" if report.errors else "nothing wrong")
    sys.exit(bool(report.errors))


if __name__ == "__main__":
    main()
