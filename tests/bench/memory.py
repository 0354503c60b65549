"""The cost of a large fleet in one process: memory, processor time per event, time from start to ready.

`python -m tests.bench.memory [--instances 1000 100000 1000000] [--events 10000] [--rounds 5] [--seed 1]`.
Every instance is alive. The ledger has one row per instance, and there are two seen events per instance.
`--python` names the interpreter of an environment without the test tools, because some packages import them
if they are installed, which takes memory.
"""

import argparse
import http.client
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from app.domain.changes import Rules
from app.store.opening import open_store
from tests.bench.deliveries import Delivery, PushResults, push_all
from tests.bench.prefilled_store import fill
from tests.bench.report import at_most, machine, progress
from tests.support.measure import cpu_seconds, peak_rss_mib, percentile, rss_mib
from tests.support.output import print_line
from tests.support.process import LOOPBACK, Process, eventually, free_port
from tests.support.program import (
    COMMAND,
    ENVIRONMENT,
    ExporterProcess,
    PushCredentials,
    configuration,
    issued_credentials,
    written,
)

_CONNECTIONS: Final = 32
_HOUR_SECONDS: Final = 3600
_STORE: Final = "exporter.db"
_LARGE_FLEET: Final = 100_000
"""The lower limits apply up to this number of instances."""
_MIB_LIMITS: Final = (90, 130)
_READY_LIMITS: Final = (2, 5)
_CPU_LIMIT: Final = 1.2
_IDLE_SECONDS: Final = 0.5
_PAGES: Final = {
    "the newest 1,000 rows": "/interruptions?limit=1000",
    "status page": "/",
    "scrape": "/metrics",
}


@dataclass(slots=True)
class Size:
    """The figures for one number of instances."""

    instances: int
    file_mib: float
    ready_seconds: Mapping[str, float]
    mib: dict[str, float] = field(default_factory=dict)
    """Resident memory after each step, and the peak."""
    page_seconds: dict[str, float] = field(default_factory=dict)
    microseconds: list[float] = field(default_factory=list)
    """Processor time per event, by round."""
    counted: int = 0
    """Number of pushed interruptions that were counted."""
    refused: int = 0
    prune: Sequence[float] = ()
    """Duration of each slice of a pruning pass, in seconds."""


def main() -> None:
    """Measure, and print the report."""
    options = _options()
    with TemporaryDirectory() as folder:
        print_report(
            measure(
                Path(folder),
                options.instances,
                events=options.events,
                rounds=options.rounds,
                seed=options.seed,
                python=options.python,
            )
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Memory, processor time and start by size of the fleet.")
    parser.add_argument("--instances", type=int, nargs="+", default=[1_000, _LARGE_FLEET, 1_000_000])
    parser.add_argument("--events", type=int, default=10_000, help="interruptions pushed per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--python", default=sys.executable, help="the exporter's interpreter")
    return parser.parse_args()


def measure(
    directory: Path,
    instances: Sequence[int],
    *,
    events: int,
    rounds: int,
    seed: int,
    python: str = sys.executable,
) -> Sequence[Size]:
    """Measure each number of instances. Their rounds take turns, to share the machine's noise."""
    with issued_credentials() as credentials:
        sizes = [
            _filled(directory / f"{number}", number, credentials, rounds, python) for number in instances
        ]
        with ExitStack() as stack:
            running: list[_RunningExporter] = []
            for size in sizes:
                exporter = ExporterProcess(directory / f"{size.instances}", credentials)
                exporter.process.command[0] = python
                running.append(_RunningExporter(size, stack.enter_context(exporter), credentials.token, seed))
            _take_turns(running, events, rounds)
            for exporter_under_load in running:
                exporter_under_load.read_pages()
    for size in sizes:
        size.prune = list(_pruned(directory / f"{size.instances}" / _STORE))
    return sizes


def _filled(directory: Path, instances: int, credentials: PushCredentials, rounds: int, python: str) -> Size:
    directory.mkdir()
    store = directory / _STORE
    fill(store, instances)
    return Size(
        instances, store.stat().st_size / 2**20, _start_seconds(directory, credentials, rounds, python)
    )


def _start_seconds(
    directory: Path, credentials: PushCredentials, rounds: int, python: str
) -> dict[str, float]:
    """Return the median seconds from start to ready. Listing is enabled; its API is unreachable."""
    inventory = {"enabled": True, "endpoint": f"http://{LOOPBACK}:{free_port()}"}
    configured = configuration(directory, credentials, inventory=inventory) | {"projects": ["shop-prod"]}
    command = [python, *COMMAND[1:], "--config", str(written(directory, configured))]
    process = Process(
        command,
        output=directory / "starts.log",
        ready=_is_up(configured["prometheus"]["port"]),
        env=ENVIRONMENT,
        within=120,
    )
    return {
        "file in page cache": median(_start_once(process) for _ in range(rounds)),
        "file on disk": median(_start_once(process, uncached=directory / _STORE) for _ in range(rounds)),
    }


def _start_once(process: Process, *, uncached: Path | None = None) -> float:
    if uncached is not None:
        _drop_from_page_cache(uncached)
    started = time.perf_counter()
    with process:
        return time.perf_counter() - started


def _is_up(port: int) -> Callable[[], bool]:
    """Return a probe of whether the exporter is healthy and ready."""

    def probe() -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
        try:
            for path in ("/healthz", "/readyz"):
                connection.request("GET", path)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    return False
        except OSError:
            return False
        finally:
            connection.close()
        return True

    return probe


def _drop_from_page_cache(store: Path) -> None:
    """Remove the file from the kernel's page cache, so that the next reader reads the disk."""
    descriptor = os.open(store, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


class _RunningExporter:
    """A running exporter, and random interruptions of its instances."""

    def __init__(self, size: Size, exporter: ExporterProcess, token: str, seed: int) -> None:
        self.size = size
        self._exporter = exporter
        self._pid = exporter.process.pid
        self._token = token
        self._random = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self._serials = count(10**9)
        self.wait_until_idle()
        size.mib["after start"] = rss_mib(self._pid)

    def wait_until_idle(self) -> None:
        """Wait until the exporter is idle: its first pass over all instances takes a while."""

        def is_idle() -> bool:
            before = cpu_seconds(self._pid)
            time.sleep(_IDLE_SECONDS)
            return cpu_seconds(self._pid) - before < 0.02 * _IDLE_SECONDS + 0.01

        eventually(is_idle, within=120, what="the exporter is idle")

    def push(self, events: int) -> float:
        """Push this many interruptions; return the processor time per event in microseconds."""
        before = cpu_seconds(self._pid)
        port = int(self._exporter.url.rpartition(":")[2])
        results: PushResults = push_all(port, self._token, self._deliveries(events), connections=_CONNECTIONS)
        self.size.refused += results.refused.total()
        return (cpu_seconds(self._pid) - before) / events * 1e6

    def _deliveries(self, events: int) -> Iterator[Delivery]:
        for _ in range(events):
            instance = self._random.randrange(self.size.instances)
            yield Delivery("interruption", instance, next(self._serials), time.time())

    def read_pages(self) -> None:
        """Read the pages that are made from the ledger, and measure the memory after that."""
        self.size.mib["after load"] = rss_mib(self._pid)
        for name, path in _PAGES.items():
            started = time.perf_counter()
            assert self._exporter.status(path) == 200
            self.size.page_seconds[name] = time.perf_counter() - started
        self.size.mib["after pages"] = rss_mib(self._pid)
        self.size.mib["peak"] = peak_rss_mib(self._pid)
        samples = self._exporter.samples()
        counted = sum(value for (name, _), value in samples.items() if name == "interruption_events_total")
        self.size.counted = round(counted) - self.size.instances


def _take_turns(running: Sequence[_RunningExporter], events: int, rounds: int) -> None:
    with progress("pushing interruptions", (rounds + 1) * len(running)) as update:
        for number in range(rounds + 1):
            for position, exporter in enumerate(running):
                microseconds = exporter.push(events)
                if number:  # the first round only warms up: connections, certificates, caches
                    exporter.size.microseconds.append(microseconds)
                update(number * len(running) + position + 1)


def _pruned(store: Path) -> Iterator[float]:
    """Run a pruning pass an hour later; yield the seconds of each slice. No row is old enough."""
    opened = open_store(f"sqlite:///{store}", Rules())
    now, more = time.time() + _HOUR_SECONDS, True
    while more:
        started = time.perf_counter()
        more = opened.store.prune(now).more
        yield time.perf_counter() - started
    opened.store.close()


def print_report(sizes: Sequence[Size]) -> None:
    """Print the figures beside their limits."""
    print_line(f"{machine()}; as many ledger rows as instances, twice as many seen events")
    smallest = median(sizes[0].microseconds)
    for size in sizes:
        large = size.instances > _LARGE_FLEET
        print_line(f"\n{size.instances:,} instances, a file of {size.file_mib:.0f} MiB")
        peak, limit = max(size.mib.values()), _MIB_LIMITS[large]
        steps = ", ".join(f"{step} {mib:.1f}" for step, mib in size.mib.items())
        print_line(f"  resident MiB: {steps} {at_most(peak, limit)}")
        cached, read = size.ready_seconds["file in page cache"], size.ready_seconds["file on disk"]
        note = at_most(cached, _READY_LIMITS[large])
        print_line(
            f"  start to ready {cached:.2f} s {note}; {read:.2f} s if the file is not in the page cache"
        )
        cpu = median(size.microseconds)
        note = at_most(cpu / smallest, _CPU_LIMIT)
        rounds = " ".join(f"{microseconds:.0f}" for microseconds in size.microseconds)
        print_line(f"  CPU per event {cpu:.0f} µs, {cpu / smallest:.2f} times the first {note}: {rounds}")
        print_line(f"  counted {size.counted} interruptions, refused {size.refused}")
        pages = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in size.page_seconds.items())
        print_line(f"  {pages}")
        longest = max(size.prune) * 1000
        p99 = percentile(size.prune, 0.99) * 1000
        print_line(
            f"  a pruning pass {sum(size.prune):.2f} s in {len(size.prune)} slices: p99 {p99:.1f} ms,"
            f" longest {longest:.1f} ms"
        )


if __name__ == "__main__":
    main()
