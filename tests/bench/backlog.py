"""A backlog drained as fast as the exporter takes it, and the month after which all of it is forgotten.

`python -m tests.bench.backlog [--messages 500000] [--connections 64] [--window 25000] [--seed 1]`.
Two creations to three interruptions of what was created so far; one message in ten is redelivered.
"""

import argparse
import random
import shutil
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from app.domain.attribution import Rules
from app.store import open_store
from tests.bench.deliveries import Delivery, Pushed, push_all
from tests.bench.report import cpu_seconds, machine, percentile, progress, rss_mib, say
from tests.support.process import LOOPBACK, Process, answers
from tests.support.program import COMMAND, ENVIRONMENT, Door, Exporter, configuration, open_door, written

_DAY: Final = 86400.0
_MONTH_DAYS: Final = 32
"""Behind the usual retention."""
_REDELIVERED: Final = 0.1
_CREATED: Final = 0.4
_RECENT: Final = 10_000
"""What is redelivered is one of the last so many."""
_APART_SECONDS: Final = 0.1
_CALLERS_MEANWHILE: Final = 4
_LOOK_SECONDS: Final = 0.1
_PATIENCE_SECONDS: Final = 300


class Window(NamedTuple):
    """So many answers, one after the other."""

    events_a_second: float
    p99_ms: float
    microseconds: float
    """Processor time an event, of the exporter."""
    rss_mib: float
    file_mib: float
    wal_mib: float


class Pruned(NamedTuple):
    """Everything forgotten, by the store alone."""

    slice_seconds: Sequence[float]
    left: int
    """Rows that are still there."""
    file_mib: float
    free_share: float
    """Of the file; what is written next goes there."""


class Meanwhile(NamedTuple):
    """Everything forgotten by an exporter whose clock is ahead, while a few callers push creations."""

    seconds: float
    latencies_ms: Sequence[float]
    refused: int


@dataclass(frozen=True, slots=True)
class Report:
    """What was seen."""

    windows: Sequence[Window]
    seconds: float
    outcomes: Mapping[str, int]
    wrong: Sequence[str]
    """What the exporter shows otherwise than it was sent."""
    pruned: Pruned
    meanwhile: Meanwhile


def main() -> None:
    """Measure, and tell."""
    options = _options()
    with TemporaryDirectory() as folder:
        tell(measure(Path(folder), options.messages, options.connections, options.window, options.seed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A backlog drained, and forgotten after a month.")
    parser.add_argument("--messages", type=int, default=500_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--window", type=int, default=25_000, help="messages, of each line in the report")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def measure(directory: Path, messages: int, connections: int, window: int, seed: int) -> Report:
    """Drain, then forget; the store alone, and once more beside pushes."""
    with open_door() as door:
        made = _Backlog(messages, seed)
        with Exporter(directory, door) as exporter:
            windows, seconds = _drained(exporter, door.token, made, connections, window)
            outcomes, wrong = _judged(exporter, made)
        store = exporter.store
        for_later = store.with_name("later.db")
        shutil.copy(store, for_later)
        pruned = _prune(store)
        meanwhile = _prune_beside_pushes(directory, for_later, door, messages)
        return Report(windows, seconds, outcomes, wrong, pruned, meanwhile)


class _Backlog:
    """The messages, made as they are taken; and what they come to."""

    def __init__(self, messages: int, seed: int) -> None:
        self.messages = messages
        self.sent: Counter[str] = Counter()
        self._chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self._recent: deque[Delivery] = deque(maxlen=_RECENT)

    def __iter__(self) -> Iterator[Delivery]:
        began = time.time() - self.messages * _APART_SECONDS
        for serial in range(self.messages):
            draw = self._chance.random()
            created = self.sent["creation"]
            at = began + serial * _APART_SECONDS
            if created and draw < _REDELIVERED:
                self.sent["duplicate"] += 1
                yield self._chance.choice(self._recent)
                continue
            if not created or draw < _REDELIVERED + _CREATED * (1 - _REDELIVERED):
                delivery = Delivery("creation", created, serial, at)
            else:
                delivery = Delivery("interruption", self._chance.randrange(created), serial, at)
            self.sent[delivery.kind] += 1
            self._recent.append(delivery)
            yield delivery


def _drained(
    exporter: Exporter, token: str, made: _Backlog, connections: int, window: int
) -> tuple[Sequence[Window], float]:
    windows: list[Window] = []
    pid = exporter.process.pid
    spent = [cpu_seconds(pid)]
    wal = exporter.store.with_name(f"{exporter.store.name}-wal")
    with progress(f"draining {made.messages:,} messages", made.messages) as done:

        def look(pushed: Pushed) -> None:
            events = len(pushed.latencies_ms)
            if pushed.refused:
                raise ConnectionError(f"answered otherwise than 200: {dict(pushed.refused)}")
            p99 = percentile(pushed.latencies_ms, 0.99)
            spent.append(cpu_seconds(pid))
            microseconds = (spent[-1] - spent[-2]) / events * 1e6
            sizes = _mib(exporter.store), _mib(wal)
            windows.append(Window(events / pushed.seconds, p99, microseconds, rss_mib(pid), *sizes))
            done(len(windows) * window)

        began = time.perf_counter()
        last = push_all(
            _port(exporter.url), token, iter(made), connections=connections, window=window, tell=look
        )
        seconds = time.perf_counter() - began
        if last.latencies_ms:
            look(last)
    return windows, seconds


def _judged(exporter: Exporter, made: _Backlog) -> tuple[Mapping[str, int], Sequence[str]]:
    """The outcomes of the messages, and where the exporter's totals are not what was sent."""
    totals: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for (name, labels), value in exporter.samples().items():
        totals[name] += round(value)
        if name == "spot_interruption_exporter_push_messages_total" and value:
            outcomes[dict(labels)["outcome"]] += round(value)
    shown = {
        "interruption": totals["interruption_events_total"],
        "creation": totals["spot_instances_created_total"],
        "duplicate": outcomes["duplicate"],
    }
    wrong = [
        f"{kind}: {shown[kind]} of {made.sent[kind]}" for kind in shown if shown[kind] != made.sent[kind]
    ]
    return outcomes, wrong


def _prune(store: Path) -> Pruned:
    """Forget in slices, as the periodic work does, with nothing beside it."""
    opened = open_store(f"sqlite:///{store}", Rules())
    now = time.time() + _MONTH_DAYS * _DAY
    slices: list[float] = []
    more = True
    with progress("forgetting", 1):
        while more:
            began = time.perf_counter()
            more = opened.store.prune(now).more
            slices.append(time.perf_counter() - began)
    opened.store.close()
    with closing(sqlite3.connect(store)) as connection:
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (left,) = connection.execute(
            "SELECT (SELECT count(*) FROM seen) + (SELECT count(*) FROM instances) + count(*) FROM ledger"
        ).fetchone()
    return Pruned(slices, left, _mib(store), free / pages)


def _prune_beside_pushes(directory: Path, store: Path, door: Door, first: int) -> Meanwhile:
    configured = configuration(directory, door, store={"url": f"sqlite:///{store}"})
    command = [*COMMAND[:2], "tests.bench.ahead", str(written(directory, configured)), str(_MONTH_DAYS)]
    ready = answers(f"http://{LOOPBACK}:{configured['prometheus']['port']}/healthz")
    output = directory / "ahead.log"
    with (
        Process(command, output=output, ready=ready, env=ENVIRONMENT, within=120),
        progress("forgetting, beside pushes", 1),
    ):
        began = time.perf_counter()
        deliveries = _creations_until_forgotten(store, first)
        pushed = push_all(
            configured["server"]["port"], door.token, deliveries, connections=_CALLERS_MEANWHILE
        )
        return Meanwhile(time.perf_counter() - began, pushed.latencies_ms, pushed.refused.total())


def _creations_until_forgotten(store: Path, first: int) -> Iterator[Delivery]:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    look_at = 0.0
    number = first
    with closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as connection:
        while True:
            if time.monotonic() >= look_at:
                if _is_forgotten(connection):
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not forgotten within {_PATIENCE_SECONDS} s")
                look_at = time.monotonic() + _LOOK_SECONDS
            number += 1
            yield Delivery("creation", number, number, time.time())


def _is_forgotten(connection: sqlite3.Connection) -> bool:
    """Whether nothing is left that was recorded before the clock went ahead."""
    before = time.time() + _DAY
    (remains,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM seen WHERE seen_at < :before)"
        " OR EXISTS (SELECT 1 FROM ledger WHERE recorded_at < :before)"
        " OR EXISTS (SELECT 1 FROM instances WHERE recorded_at < :before)",
        {"before": before},
    ).fetchone()
    return not remains


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


def _mib(file: Path) -> float:
    return file.stat().st_size / 2**20 if file.exists() else 0.0


def tell(report: Report) -> None:
    """Say what was seen."""
    messages = sum(report.outcomes.values())
    counts = ", ".join(f"{outcome} {number:,}" for outcome, number in sorted(report.outcomes.items()))
    say(f"{machine()}; {messages:,} messages in {report.seconds:.0f} s: {counts}")
    say(f"totals: {'; '.join(report.wrong) or 'exact'}")
    say("\n  messages  events/s  p99 ms  CPU µs  RSS MiB  file MiB  WAL MiB")
    share = 0
    for number, window in enumerate(report.windows, 1):
        share = messages * number // len(report.windows)
        say(
            f"{share:10,}{window.events_a_second:10.0f}{window.p99_ms:8.1f}{window.microseconds:8.0f}"
            f"{window.rss_mib:9.1f}"
            f"{window.file_mib:10.0f}{window.wal_mib:9.0f}"
        )
    fifth = -(-len(report.windows) // 5)
    first, last = report.windows[:fifth], report.windows[-fifth:]
    rate = sum(w.events_a_second for w in last) / sum(w.events_a_second for w in first)
    spent = sum(w.microseconds for w in last) / sum(w.microseconds for w in first)
    say(f"the last fifth at {rate:.2f} of the first one's rate, and {spent:.2f} of its CPU an event")
    slices, meanwhile = report.pruned.slice_seconds, report.meanwhile
    say(
        f"\na month later: forgotten in {sum(slices):.1f} s, {len(slices)} slices,"
        f" p99 {percentile(slices, 0.99) * 1000:.1f} ms, longest {max(slices) * 1000:.1f} ms;"
        f" {report.pruned.left} rows are left, of {report.pruned.file_mib:.0f} MiB"
        f" {report.pruned.free_share:.0%} is free"
    )
    p50, p99, longest = (percentile(meanwhile.latencies_ms, part) for part in (0.5, 0.99, 1))
    say(
        f"beside pushes over {_CALLERS_MEANWHILE} connections: {meanwhile.seconds:.1f} s;"
        f" {len(meanwhile.latencies_ms):,} pushes, p50 {p50:.1f} ms, p99 {p99:.1f} ms,"
        f" longest {longest:.1f} ms, refused {meanwhile.refused}"
    )


if __name__ == "__main__":
    main()
