"""The latency of pushes while the operations of a project are read, and the memory that a reading takes.

`python -m tests.bench.recovery [--rate 1000] [--seconds 30] [--operations 100000] [--rounds 3]`; needs two
cores or more. In each round, pushes at a constant rate come alone, then during a reading of operations that
are new to the exporter, then during a reading of the same ones. The operations are from before the first
start, so each new one gets a row in the ledger. The child process starts and ends within its phase.

The Compute API runs in a process of its own, and has its pages ready before the first round: Google's
answers take no time of the exporter's machine either.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import uvloop

from tests.bench.constant_rate import ConstantRatePushes, PushResults
from tests.bench.prefilled_store import create_instances
from tests.bench.report import at_most, machine, progress
from tests.bench.wrk import ANY_SUBSCRIPTION, body
from tests.support.compute_api import Answer, ComputeApi, Hold, ManyOperations
from tests.support.measure import cpu_seconds, peak_rss_mib, percentile
from tests.support.output import print_line
from tests.support.process import LOOPBACK
from tests.support.program import (
    ENVIRONMENT,
    ExporterProcess,
    PushCredentials,
    configuration,
    issued_credentials,
)

_PROJECT: Final = "shop-prod"
_KNOWN_INSTANCES: Final = 10_000
"""The pushes interrupt them, and each counts at once."""
_PAST_SECONDS: Final = 86400.0
"""The age of the operations. It is less than the retention, and more than that of the store."""
_WARM_UP_SECONDS: Final = 1.0
_SAMPLE_SECONDS: Final = 0.1
_ALONE, _FIRST, _AGAIN = "alone", "first reading", "same reading again"
PHASES: Final = (_ALONE, _FIRST, _AGAIN)
_P99_LIMIT: Final = 1.2
"""The limit of the 99th percentile during a reading, as a multiple of that without a reading."""
_MIB_LIMIT: Final = 384.0
"""The limit of the shipped pod, which holds for the exporter and its child together."""


@dataclass(slots=True)
class Phase:
    """The figures of a phase, of all rounds together."""

    latencies_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)
    """The delays of the load generator itself."""
    p99_ms: list[float] = field(default_factory=list)
    """The 99th percentile of each round."""
    seconds: float = 0.0
    server_cpu_seconds: float = 0.0


@dataclass(slots=True)
class Report:
    """The figures of all phases."""

    phases: dict[str, Phase] = field(default_factory=lambda: {name: Phase() for name in PHASES})
    peak_mib: float = 0.0
    """The peak of the exporter's resident memory."""
    child_peak_mib: float = 0.0
    errors: list[str] = field(default_factory=list)
    """Pushes and readings with an unexpected result."""


def main() -> None:
    """Measure, and print a table."""
    options = _options()
    with TemporaryDirectory() as folder:
        print_report(run(Path(folder), options), options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The latency of pushes while operations are read.")
    parser.add_argument("--rate", type=int, default=1000, help="pushes per second")
    # The fleet's listing is held meanwhile, and the exporter's timeout per page is 90 s.
    parser.add_argument("--seconds", type=float, default=30, help="length of a phase alone, 80 at most")
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def run(directory: Path, options: argparse.Namespace) -> Report:
    """Run all rounds against one exporter."""
    store = {"url": f"sqlite:///{directory}/store.db"}
    create_instances(store["url"], _KNOWN_INSTANCES)
    with _compute_api(options) as api, issued_credentials() as credentials:
        with progress("the Compute API is made ready", 1) as update:
            url = api.recv()
            update(1)
        configured = configuration(
            directory,
            credentials,
            store=store,
            pubsub=ANY_SUBSCRIPTION,
            inventory={"enabled": True, "endpoint": url, "interval_seconds": 1},
            recovery={"enabled": True, "interval_seconds": 1},
        )
        configured["projects"] = [_PROJECT]
        with (
            ExporterProcess(directory, credentials, configured=configured) as exporter,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            measurement = _Measurement(exporter, credentials, options, api)
            runner.run(measurement.run())
            return measurement.finished()


class _Measurement:
    """Runs the rounds, one after the other."""

    def __init__(
        self,
        exporter: ExporterProcess,
        credentials: PushCredentials,
        options: argparse.Namespace,
        api: Connection,
    ) -> None:
        self._report = Report()
        self._exporter = exporter
        self._options = options
        self._api = api
        self._pid = exporter.process.pid
        self._pushes = ConstantRatePushes(int(exporter.url.rpartition(":")[2]), credentials.token)
        self._bodies = (body(number, _KNOWN_INSTANCES) for number in itertools.count(1))
        self._outcomes: Counter[str] = Counter()
        self._log = exporter.process.output.open("rb")
        self._readings: list[dict[str, Any]] = []
        """The log lines of all readings."""

    async def run(self) -> None:
        async with self._pushes.connected():
            await self._push(_seconds(_WARM_UP_SECONDS))
            for number in range(self._options.rounds):
                for name in PHASES:
                    with progress(f"round {number + 1}, {name}", 1) as update:
                        await self._ask("wait")
                        if name == _ALONE:
                            await self._measure(name, _seconds(self._options.seconds))
                        else:
                            await self._measure(name, self._reading(number))
                        update(1)

    def finished(self) -> Report:
        self._log.close()
        report = self._report
        report.errors += [
            f"{number} pushes were {outcome}"
            for outcome, number in self._outcomes.items()
            if outcome != "counted"
        ]
        shown = self._exporter.interruptions("shop")
        if shown != self._outcomes["counted"]:
            report.errors.append(f"{self._outcomes['counted']} answered as counted, {shown} shown")
        readings = self._readings
        report.errors += [f"a reading: {line}" for line in readings if not self._is_complete(line)]
        report.child_peak_mib = max(line.get("child_peak_mib", 0.0) for line in readings)
        report.peak_mib = peak_rss_mib(self._pid)
        return report

    def _is_complete(self, line: Mapping[str, Any]) -> bool:
        return line.get("operations") == self._options.operations and not line["invalid"]

    def _reading(self, number: int) -> Callable[[], Awaitable[None]]:
        async def read() -> None:
            await self._ask(str(number))
            while not (ended := self._ended_readings()):  # noqa: ASYNC110 - of another process
                await asyncio.sleep(_SAMPLE_SECONDS)
            self._readings += ended

        return read

    def _ended_readings(self) -> list[dict[str, Any]]:
        """Return the new log lines about readings that have ended. The log also has a line per commit."""
        lines = self._log.read().splitlines()
        return [json.loads(line) for line in lines if b'"operations ' in line and b" read" in line]

    async def _ask(self, message: str) -> None:
        """Send the message to the process of the Compute API, and wait for its answer."""
        self._api.send(message)
        await asyncio.to_thread(self._api.recv)

    async def _push(self, until: Callable[[], Awaitable[object]]) -> PushResults:
        results = await self._pushes.run(self._options.rate, self._bodies, until)
        self._outcomes += results.outcomes
        return results

    async def _measure(self, name: str, until: Callable[[], Awaitable[object]]) -> None:
        cpu = cpu_seconds(self._pid)
        results = await self._push(until)
        phase = self._report.phases[name]
        phase.server_cpu_seconds += cpu_seconds(self._pid) - cpu
        phase.seconds += results.seconds
        phase.latencies_ms += results.latencies_ms
        phase.late_ms += results.late_ms
        phase.p99_ms.append(percentile(results.latencies_ms, 0.99))


def _seconds(seconds: float) -> Callable[[], Awaitable[None]]:
    return lambda: asyncio.sleep(seconds)


@contextmanager
def _compute_api(options: argparse.Namespace) -> Iterator[Connection]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve_compute_api, args=(theirs, options.operations, options.rounds)
    )
    process.start()
    try:
        yield ours
    finally:
        ours.send("end")
        process.join()


class _PreparedApi(ComputeApi):
    """An API that keeps its answers."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[tuple[object, ...], Answer] = {}

    def _page(self, of: str, project: str, start: int, stop: int, query: Mapping[str, str]) -> Answer:
        key = (of, self.operations.get(project), start)
        if key not in self._kept:
            self._kept[key] = super()._page(of, project, start, stop, query)
        return self._kept[key]


def _serve_compute_api(pipe: Connection, operations: int, rounds: int) -> None:
    """Serve the Compute API.

    While its only listing is held, the exporter reads nothing. "wait" over the pipe is answered when a
    listing is held; the number of a round lets the listing end, and the reading of that round's operations
    comes before the next listing. The first message over the pipe is the URL.
    """
    os.nice(10)
    inserted = f"{datetime.fromtimestamp(time.time() - _PAST_SECONDS, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
    sets = [ManyOperations(operations, inserted, first=number * operations) for number in range(rounds)]
    with _PreparedApi() as api:
        api.projects[_PROJECT] = ()
        for some in sets:
            api.operations[_PROJECT] = some
            _read_once(api.url)
        hold, answered = Hold(), 0
        api.fail(hold)
        pipe.send(api.url)
        while (message := pipe.recv()) != "end":
            if message == "wait":
                while len(api.requests) == answered and not pipe.poll():
                    time.sleep(_SAMPLE_SECONDS)
            else:
                api.operations[_PROJECT] = sets[int(message)]
                answered = len(api.requests)
                released, hold = hold, Hold()
                api.fail(hold)
                released.until.set()
            pipe.send("done")


def _read_once(url: str) -> None:
    """Let the exporter's child process read all pages, so that they are kept."""
    command = [sys.executable, "-m", "app.gcp.compute", "--read", "operations", "--project", _PROJECT]
    subprocess.run(
        [*command, "--endpoint", url],
        env=os.environ | ENVIRONMENT | {"NO_PROXY": LOOPBACK},
        stdout=subprocess.DEVNULL,
        check=True,
    )


def print_report(report: Report, options: argparse.Namespace) -> None:
    """Print the figures beside their limits."""
    print_line(
        f"{machine()}; {options.rate} pushes/s; {options.operations:,} operations;"
        " milliseconds from the scheduled time of a push"
    )
    columns = ("s", "pushes", "p50", "p99", "p99.9", "max", "CPU µs", "late p99")
    print_line(f"{'':20}" + "".join(f"{column:>9}" for column in columns) + "  p99 by round")
    for name, phase in report.phases.items():
        latencies = (percentile(phase.latencies_ms, share) for share in (0.5, 0.99, 0.999, 1))
        pushes = len(phase.latencies_ms)
        print_line(
            f"{name:20}{phase.seconds:9.1f}{pushes:9}"
            + "".join(f"{latency:9.2f}" for latency in latencies)
            + f"{phase.server_cpu_seconds / max(pushes, 1) * 1e6:9.0f}{percentile(phase.late_ms, 0.99):9.2f}"
            + "  "
            + " ".join(f"{p99:.1f}" for p99 in phase.p99_ms)
        )
    alone = percentile(report.phases[_ALONE].latencies_ms, 0.99)
    for name in (_FIRST, _AGAIN):
        ratio = percentile(report.phases[name].latencies_ms, 0.99) / alone
        print_line(f"{name}: p99 {ratio:.2f} times that without a reading {at_most(ratio, _P99_LIMIT)}")
    both = report.peak_mib + report.child_peak_mib
    print_line(
        f"resident MiB, at most: exporter {report.peak_mib:.0f}, child {report.child_peak_mib:.0f},"
        f" together {both:.0f} {at_most(both, _MIB_LIMIT)}"
    )
    print_line(
        "; ".join(report.errors) or "every counted answer is in the total once, and each reading complete"
    )


if __name__ == "__main__":
    main()
