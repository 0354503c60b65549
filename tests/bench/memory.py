"""What a large fleet costs one process: memory, processor time an event, time from its start to ready.

`python -m tests.bench.memory [--instances 1000 100000 1000000] [--events 10000] [--rounds 5] [--seed 1]`.
Of every size there are as many ledger rows as instances, and twice as many keys; each instance is alive.
`--python`: that of another environment, without the test tools: some packages load them where they are.
"""

import argparse
import http.client
import os
import random
import re
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

from app.domain.attribution import Rules
from app.store import open_store
from tests.bench.deliveries import Delivery, Pushed, push_all
from tests.bench.filled import fill
from tests.bench.report import at_most, cpu_seconds, machine, percentile, progress, rss_mib, say
from tests.support.process import LOOPBACK, Process, eventually, free_port
from tests.support.program import COMMAND, ENVIRONMENT, Door, Exporter, configuration, open_door, written

_CONNECTIONS: Final = 32
_HOUR_SECONDS: Final = 3600
_STORE: Final = "exporter.db"
_LARGE: Final = 100_000
"""Up to so many instances the lower limits hold."""
_MIB_LIMITS: Final = (90, 130)
_READY_LIMITS: Final = (2, 5)
_CPU_LIMIT: Final = 1.2
_QUIET_SECONDS: Final = 0.5
_PAGES: Final = {
    "the newest 1,000 rows": "/interruptions?limit=1000",
    "status page": "/",
    "scrape": "/metrics",
}


@dataclass(slots=True)
class Size:
    """What was seen with so many instances."""

    instances: int
    file_mib: float
    ready_seconds: Mapping[str, float]
    mib: dict[str, float] = field(default_factory=dict)
    """Resident after each step, and at most."""
    page_seconds: dict[str, float] = field(default_factory=dict)
    microseconds: list[float] = field(default_factory=list)
    """Processor time an event, by round."""
    counted: int = 0
    """Of the interruptions that were pushed."""
    refused: int = 0
    prune: Sequence[float] = ()
    """Seconds that each slice of a pruning pass took."""


def main() -> None:
    """Measure, and tell."""
    options = _options()
    with TemporaryDirectory() as folder:
        tell(
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
    parser.add_argument("--instances", type=int, nargs="+", default=[1_000, _LARGE, 1_000_000])
    parser.add_argument("--events", type=int, default=10_000, help="interruptions pushed a round")
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
    """What is seen with each number of instances; the events of all take turns, to meet the same noise."""
    with open_door() as door:
        sizes = [_filled(directory / f"{number}", number, door, rounds, python) for number in instances]
        with ExitStack() as stack:
            running: list[_Running] = []
            for size in sizes:
                exporter = Exporter(directory / f"{size.instances}", door)
                exporter.process.command[0] = python
                running.append(_Running(size, stack.enter_context(exporter), door.token, seed))
            _take_turns(running, events, rounds)
            for one in running:
                one.look_at_pages()
    for size in sizes:
        size.prune = list(_pruned(directory / f"{size.instances}" / _STORE))
    return sizes


def _filled(directory: Path, instances: int, door: Door, rounds: int, python: str) -> Size:
    directory.mkdir()
    store = directory / _STORE
    fill(store, instances)
    return Size(instances, store.stat().st_size / 2**20, _starts(directory, door, rounds, python))


def _starts(directory: Path, door: Door, rounds: int, python: str) -> dict[str, float]:
    """Seconds from start to ready, the median of some; the listing that begins then finds no API."""
    inventory = {"enabled": True, "endpoint": f"http://{LOOPBACK}:{free_port()}"}
    configured = configuration(directory, door, inventory=inventory) | {"projects": ["shop-prod"]}
    command = [python, *COMMAND[1:], "--config", str(written(directory, configured))]
    process = Process(
        command,
        output=directory / "starts.log",
        ready=_is_up(configured["prometheus"]["port"]),
        env=ENVIRONMENT,
        within=120,
    )
    return {
        "file in memory": median(_started(process) for _ in range(rounds)),
        "file on disk": median(_started(process, unread=directory / _STORE) for _ in range(rounds)),
    }


def _started(process: Process, *, unread: Path | None = None) -> float:
    if unread is not None:
        _forget(unread)
    began = time.perf_counter()
    with process:
        return time.perf_counter() - began


def _is_up(port: int) -> Callable[[], bool]:
    """Whether the exporter is healthy and ready now."""

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


def _forget(store: Path) -> None:
    """Have the kernel let go of the file: the next to read it reads the disk."""
    descriptor = os.open(store, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


class _Running:
    """An exporter that runs, and the interruptions of its instances, in no order."""

    def __init__(self, size: Size, exporter: Exporter, token: str, seed: int) -> None:
        self.size = size
        self._exporter = exporter
        self._pid = exporter.process.pid
        self._token = token
        self._chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._serials = count(10**9)
        self.rest()
        size.mib["after start"] = rss_mib(self._pid)

    def rest(self) -> None:
        """Wait until it has nothing to do: its first look through all instances takes a while."""

        def is_quiet() -> bool:
            before = cpu_seconds(self._pid)
            time.sleep(_QUIET_SECONDS)
            return cpu_seconds(self._pid) - before < 0.02 * _QUIET_SECONDS + 0.01

        eventually(is_quiet, within=120, what="the exporter rests")

    def push(self, events: int) -> float:
        """Have so many interruptions counted; the processor time of one in microseconds."""
        before = cpu_seconds(self._pid)
        port = int(self._exporter.url.rpartition(":")[2])
        pushed: Pushed = push_all(port, self._token, self._deliveries(events), connections=_CONNECTIONS)
        self.size.refused += pushed.refused.total()
        return (cpu_seconds(self._pid) - before) / events * 1e6

    def _deliveries(self, events: int) -> Iterator[Delivery]:
        for _ in range(events):
            instance = self._chance.randrange(self.size.instances)
            yield Delivery("interruption", instance, next(self._serials), time.time())

    def look_at_pages(self) -> None:
        """Read what is made of the ledger, and see what that leaves behind."""
        self.size.mib["after load"] = rss_mib(self._pid)
        for name, path in _PAGES.items():
            began = time.perf_counter()
            assert self._exporter.status(path) == 200
            self.size.page_seconds[name] = time.perf_counter() - began
        self.size.mib["after pages"] = rss_mib(self._pid)
        self.size.mib["at most"] = _peak_mib(self._pid)
        samples = self._exporter.samples()
        counted = sum(value for (name, _), value in samples.items() if name == "interruption_events_total")
        self.size.counted = round(counted) - self.size.instances


def _take_turns(running: Sequence[_Running], events: int, rounds: int) -> None:
    with progress("pushing interruptions", (rounds + 1) * len(running)) as done:
        for number in range(rounds + 1):
            for place, one in enumerate(running):
                microseconds = one.push(events)
                if number:  # the first connects, learns the certificates and warms what there is to warm
                    one.size.microseconds.append(microseconds)
                done(number * len(running) + place + 1)


def _peak_mib(pid: int) -> float:
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def _pruned(store: Path) -> Iterator[float]:
    """Look through everything once, as in an hour again; seconds of each slice. Nothing is old enough."""
    opened = open_store(f"sqlite:///{store}", Rules())
    now, more = time.time() + _HOUR_SECONDS, True
    while more:
        began = time.perf_counter()
        more = opened.store.prune(now).more
        yield time.perf_counter() - began
    opened.store.close()


def tell(sizes: Sequence[Size]) -> None:
    """Say what was seen, beside what it should be."""
    say(f"{machine()}; as many ledger rows as instances, twice as many keys")
    smallest = median(sizes[0].microseconds)
    for size in sizes:
        large = size.instances > _LARGE
        say(f"\n{size.instances:,} instances, a file of {size.file_mib:.0f} MiB")
        most, limit = max(size.mib.values()), _MIB_LIMITS[large]
        steps = ", ".join(f"{step} {mib:.1f}" for step, mib in size.mib.items())
        say(f"  resident MiB: {steps} {at_most(most, limit)}")
        cached, read = size.ready_seconds["file in memory"], size.ready_seconds["file on disk"]
        verdict = at_most(cached, _READY_LIMITS[large])
        say(f"  start to ready {cached:.2f} s {verdict}; {read:.2f} s where the file is not in memory")
        each = median(size.microseconds)
        verdict = at_most(each / smallest, _CPU_LIMIT)
        rounds = " ".join(f"{spent:.0f}" for spent in size.microseconds)
        say(f"  CPU an event {each:.0f} µs, {each / smallest:.2f} times the first {verdict}: {rounds}")
        say(f"  counted {size.counted} interruptions, refused {size.refused}")
        pages = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in size.page_seconds.items())
        say(f"  {pages}")
        longest = max(size.prune) * 1000
        p99 = percentile(size.prune, 0.99) * 1000
        say(
            f"  a pruning pass {sum(size.prune):.2f} s in {len(size.prune)} slices: p99 {p99:.1f} ms,"
            f" longest {longest:.1f} ms"
        )


if __name__ == "__main__":
    main()
