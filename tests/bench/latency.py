"""The latency of pushes at a constant rate, alone and beside each load: readings of a large fleet, scrapes.

`python -m tests.bench.latency [--loads instances operations scrapes] [--rate 1000] [--seconds 15]
[--rounds 3] [--entries 100000] [--series 5000]`; needs two cores or more. Each load has an exporter of its
own. In each round, pushes come alone before each phase of the load, and both are measured, so that other
work on the machine touches both. Latency counts from the scheduled time of a push, not from the time at
which it was sent. A percentile is that of a round; the table has the median of the rounds.
"""

import argparse
import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import uvloop

from tests.bench.constant_rate import ConstantRatePushes, PushResults
from tests.bench.loads import LOADS, PROJECT, Load, opened
from tests.bench.prefilled_store import create_instances
from tests.bench.report import at_most, machine, progress
from tests.bench.wrk import ANY_SUBSCRIPTION, body
from tests.support.measure import cpu_seconds, peak_rss_mib, percentile
from tests.support.output import print_line
from tests.support.program import ExporterProcess, PushCredentials, configuration, issued_credentials

_KNOWN_INSTANCES: Final = 10_000
"""The pushes interrupt them, and each counts at once."""
_ENOUGH_PUSHES: Final = 1_000
"""The 99th percentile of fewer pushes rests on less than ten of them."""
_RATIO_LIMIT: Final = 1.2
"""The limit of the 99th percentile beside a reading, as a multiple of that without it."""
_MIB_LIMIT: Final = 384.0
"""The limit of the shipped pod, which holds for the exporter and its child together."""
_SHARES: Final = (0.5, 0.99, 0.999, 1)


class Run(NamedTuple):
    """The pushes of one round, alone or beside a phase."""

    results: PushResults
    server_cpu_seconds: float

    @property
    def p99_ms(self) -> float:
        return percentile(self.results.latencies_ms, 0.99)


@dataclass(slots=True)
class Phase:
    """The rounds of a phase, and those of the pushes alone before it."""

    alone: list[Run] = field(default_factory=list)
    loaded: list[Run] = field(default_factory=list)

    def ratios(self) -> list[float]:
        """Return the 99th percentile of each round, as a multiple of that alone."""
        return [loaded.p99_ms / alone.p99_ms for alone, loaded in zip(self.alone, self.loaded, strict=True)]


@dataclass(slots=True)
class Report:
    """The figures of one load."""

    phases: dict[str, Phase] = field(default_factory=dict)
    peak_mib: float = 0.0
    """The largest resident memory of the exporter."""
    child_peak_mib: float = 0.0
    figures: Sequence[str] = ()
    """Lines about the load."""
    errors: list[str] = field(default_factory=list)
    """Unexpected answers, wrong totals, and readings that failed."""


def main() -> None:
    """Measure, and print a table per load."""
    options = _options()
    print_line(f"{machine()}; {options.rate} pushes/s; milliseconds from the scheduled time of a push")
    for name in options.loads:
        with TemporaryDirectory() as folder:
            print_report(run(Path(folder), name, options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The latency of pushes at a constant rate.")
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=LOADS)
    parser.add_argument("--rate", type=int, default=1000, help="pushes per second")
    parser.add_argument("--seconds", type=float, default=15, help="length of a time without a reading")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--entries", type=int, default=100_000, help="instances and operations of a reading")
    parser.add_argument("--series", type=int, default=5_000, help="minimum of samples in the exposition")
    return parser.parse_args()


def run(directory: Path, name: str, options: argparse.Namespace) -> Report:
    """Run all rounds of a load against a new exporter."""
    store = {"url": f"sqlite:///{directory}/store.db"}
    create_instances(store["url"], _KNOWN_INSTANCES)
    sizes = {"entries": options.entries, "rounds": options.rounds, "series": options.series}
    with opened(name, seconds=options.seconds, **sizes) as load, issued_credentials() as credentials:
        configured = configuration(
            directory, credentials, store=store, pubsub=ANY_SUBSCRIPTION, **load.sections()
        )
        configured["projects"] = [PROJECT]
        with (
            ExporterProcess(directory, credentials, configured=configured) as exporter,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            measurement = _Measurement(exporter, credentials, load, options.rate)
            runner.run(measurement.run(options.rounds))
            return measurement.report()


class _Measurement:
    """Runs the rounds of a load, one after the other."""

    def __init__(
        self, exporter: ExporterProcess, credentials: PushCredentials, load: Load, rate: float
    ) -> None:
        self._exporter = exporter
        self._load = load
        self._rate = rate
        self._pid = exporter.process.pid
        self._pushes = ConstantRatePushes(int(exporter.url.rpartition(":")[2]), credentials.token)
        self._bodies = (body(number, _KNOWN_INSTANCES) for number in itertools.count(1))
        self._outcomes: Counter[str] = Counter()
        self._phases = {name: Phase() for name in load.phases}

    async def run(self, rounds: int) -> None:
        async with self._pushes.connected():
            with progress("preparing and warming up", 1):
                await self._measured(lambda: self._load.prepare(self._exporter))
            for number in range(rounds):
                for name, phase in self._phases.items():
                    with progress(f"round {number + 1} of {rounds}: {name}", 2) as update:
                        phase.alone.append(await self._measured(self._load.begins))
                        update(1)
                        phase.loaded.append(await self._measured(self._load.ends))

    def report(self) -> Report:
        errors = [
            f"{number} x {outcome}" for outcome, number in self._outcomes.items() if outcome != "counted"
        ]
        shown = self._exporter.interruptions("shop")
        if shown != self._outcomes["counted"]:
            errors.append(f"{self._outcomes['counted']} answered as counted, {shown} shown")
        return Report(
            self._phases,
            peak_rss_mib(self._pid),
            self._load.peak_mib(),
            self._load.figures(),
            [*errors, *self._load.errors()],
        )

    async def _measured(self, until: Callable[[], Awaitable[object]]) -> Run:
        cpu = cpu_seconds(self._pid)
        results = await self._pushes.run(self._rate, self._bodies, until)
        self._outcomes += results.outcomes
        return Run(results, cpu_seconds(self._pid) - cpu)


def print_report(report: Report) -> None:
    """Print the figures beside their limits."""
    columns = ("s", "pushes", "p50", "p99", "p99.9", "max", "CPU µs", "late p99")
    print_line(
        f"{'medians of the rounds':24}" + "".join(f"{column:>9}" for column in columns) + "  p99 by round"
    )
    for name, phase in report.phases.items():
        _print_runs("alone", phase.alone)
        _print_runs(name, phase.loaded)
    for name, phase in report.phases.items():
        ratios = phase.ratios()
        ratio = median(ratios)
        print_line(
            f"{name}: p99 {ratio:.2f} times that alone {at_most(ratio, _RATIO_LIMIT)},"
            f" {min(ratios):.2f} to {max(ratios):.2f} by round"
        )
    fewest = min(
        len(one.results.latencies_ms)
        for phase in report.phases.values()
        for one in (*phase.alone, *phase.loaded)
    )
    note = "" if fewest >= _ENOUGH_PUSHES else f": too few for a p99, which needs {_ENOUGH_PUSHES:,}"
    print_line(f"at least {fewest:,} pushes in a round{note}")
    both = report.peak_mib + report.child_peak_mib
    print_line(
        f"resident MiB, at most: exporter {report.peak_mib:.0f}, child {report.child_peak_mib:.0f},"
        f" together {both:.0f} {at_most(both, _MIB_LIMIT)}"
    )
    for line in report.figures:
        print_line(line)
    print_line("; ".join(report.errors) or "every counted answer is in the total once")


def _print_runs(name: str, runs: Sequence[Run]) -> None:
    pushes = median(len(one.results.latencies_ms) for one in runs)
    latencies = [median(percentile(one.results.latencies_ms, share) for one in runs) for share in _SHARES]
    cpu = median(one.server_cpu_seconds / len(one.results.latencies_ms) for one in runs)
    late = median(percentile(one.results.late_ms, 0.99) for one in runs)
    print_line(
        f"{name:24}{median(one.results.seconds for one in runs):9.1f}{pushes:9.0f}"
        + "".join(f"{latency:9.2f}" for latency in latencies)
        + f"{cpu * 1e6:9.0f}{late:9.2f}  "
        + " ".join(f"{one.p99_ms:.1f}" for one in runs)
    )


if __name__ == "__main__":
    main()
