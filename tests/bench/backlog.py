"""A backlog pushed as fast as the exporter accepts it, and the pruning of all its rows a month later.

`python -m tests.bench.backlog [--messages 500000] [--connections 64] [--window 25000] [--seed 1]`.
There are two creations for three interruptions of earlier instances; one message in ten is redelivered.
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

from app.domain.changes import Rules
from app.store.opening import open_store
from tests.bench.deliveries import Delivery, PushResults, push_all
from tests.bench.report import machine, progress
from tests.support.measure import cpu_seconds, percentile, rss_mib
from tests.support.output import print_line
from tests.support.process import LOOPBACK, Process, answers
from tests.support.program import (
    COMMAND,
    ENVIRONMENT,
    ExporterProcess,
    PushCredentials,
    configuration,
    issued_credentials,
    written,
)

_DAY: Final = 86400.0
_MONTH_DAYS: Final = 32
"""Longer than the default retention."""
_REDELIVERED_SHARE: Final = 0.1
_CREATION_SHARE: Final = 0.4
_RECENT_MESSAGES: Final = 10_000
"""A redelivery repeats one of the last messages, this many at most."""
_EVENT_INTERVAL_SECONDS: Final = 0.1
_CONNECTIONS_UNDER_LOAD: Final = 4
_POLL_SECONDS: Final = 0.1
_PRUNE_TIMEOUT_SECONDS: Final = 300


class Window(NamedTuple):
    """The figures of `--window` consecutive answers."""

    events_per_second: float
    p99_ms: float
    microseconds: float
    """Processor time of the exporter per event."""
    rss_mib: float
    file_mib: float
    wal_mib: float


class Pruning(NamedTuple):
    """Pruning of all rows by the store alone."""

    slice_seconds: Sequence[float]
    left: int
    """Rows that were not pruned."""
    file_mib: float
    free_share: float
    """The share of the file that is free for new rows."""


class PruningUnderLoad(NamedTuple):
    """Pruning of all rows by an exporter with its clock set ahead, while a few callers push creations."""

    seconds: float
    latencies_ms: Sequence[float]
    refused: int


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of a run."""

    windows: Sequence[Window]
    seconds: float
    outcomes: Mapping[str, int]
    errors: Sequence[str]
    """Differences between the exposed totals and the messages."""
    pruned: Pruning
    pruned_under_load: PruningUnderLoad


def main() -> None:
    """Measure, and print the report."""
    options = _options()
    with TemporaryDirectory() as folder:
        print_report(
            measure(Path(folder), options.messages, options.connections, options.window, options.seed)
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Push a backlog, and prune its rows after a month.")
    parser.add_argument("--messages", type=int, default=500_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--window", type=int, default=25_000, help="messages per line of the report")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def measure(directory: Path, messages: int, connections: int, window: int, seed: int) -> Report:
    """Push the backlog, then prune it twice: by the store alone, and in an exporter that takes pushes."""
    with issued_credentials() as credentials:
        backlog = _Backlog(messages, seed)
        with ExporterProcess(directory, credentials) as exporter:
            windows, seconds = _push_backlog(exporter, credentials.token, backlog, connections, window)
            outcomes, errors = _compare_totals(exporter, backlog)
        store = exporter.store
        copy = store.with_name("copy.db")
        with closing(sqlite3.connect(store)) as connection, connection:
            # Without its last beat, the store does not doubt a clock that is a month ahead.
            connection.execute("DELETE FROM clocks WHERE name = 'accrued_until'")
        shutil.copy(store, copy)
        pruned = _prune(store)
        under_load = _prune_under_load(directory, copy, credentials, messages)
        return Report(windows, seconds, outcomes, errors, pruned, under_load)


class _Backlog:
    """The messages, generated on demand, and the expected totals."""

    def __init__(self, messages: int, seed: int) -> None:
        self.messages = messages
        self.sent: Counter[str] = Counter()
        self._random = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self._recent: deque[Delivery] = deque(maxlen=_RECENT_MESSAGES)

    def __iter__(self) -> Iterator[Delivery]:
        first_at = time.time() - self.messages * _EVENT_INTERVAL_SECONDS
        for serial in range(self.messages):
            draw = self._random.random()
            created = self.sent["creation"]
            at = first_at + serial * _EVENT_INTERVAL_SECONDS
            if created and draw < _REDELIVERED_SHARE:
                self.sent["duplicate"] += 1
                yield self._random.choice(self._recent)
                continue
            if not created or draw < _REDELIVERED_SHARE + _CREATION_SHARE * (1 - _REDELIVERED_SHARE):
                delivery = Delivery("creation", created, serial, at)
            else:
                delivery = Delivery("interruption", self._random.randrange(created), serial, at)
            self.sent[delivery.kind] += 1
            self._recent.append(delivery)
            yield delivery


def _push_backlog(
    exporter: ExporterProcess, token: str, backlog: _Backlog, connections: int, window: int
) -> tuple[Sequence[Window], float]:
    windows: list[Window] = []
    pid = exporter.process.pid
    cpu = [cpu_seconds(pid)]
    wal = exporter.store.with_name(f"{exporter.store.name}-wal")
    with progress(f"pushing {backlog.messages:,} messages", backlog.messages) as update:

        def add_window(results: PushResults) -> None:
            events = len(results.latencies_ms)
            if results.refused:
                raise ConnectionError(f"not all answers are 200; the others: {dict(results.refused)}")
            p99 = percentile(results.latencies_ms, 0.99)
            cpu.append(cpu_seconds(pid))
            microseconds = (cpu[-1] - cpu[-2]) / events * 1e6
            sizes = _mib(exporter.store), _mib(wal)
            windows.append(Window(events / results.seconds, p99, microseconds, rss_mib(pid), *sizes))
            update(len(windows) * window)

        started = time.perf_counter()
        last = push_all(
            _port(exporter.url),
            token,
            iter(backlog),
            connections=connections,
            window=window,
            on_window=add_window,
        )
        seconds = time.perf_counter() - started
        if last.latencies_ms:
            add_window(last)
    return windows, seconds


def _compare_totals(exporter: ExporterProcess, backlog: _Backlog) -> tuple[Mapping[str, int], Sequence[str]]:
    """Return the number of messages by outcome, and each difference between exposed totals and messages."""
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
    errors = [
        f"{kind}: {shown[kind]} of {backlog.sent[kind]}"
        for kind in shown
        if shown[kind] != backlog.sent[kind]
    ]
    return outcomes, errors


def _prune(store: Path) -> Pruning:
    """Prune in slices, like the exporter's periodic task, with no other load."""
    opened = open_store(f"sqlite:///{store}", Rules())
    now = time.time() + _MONTH_DAYS * _DAY
    slices: list[float] = []
    more = True
    with progress("pruning", 1):
        while more:
            started = time.perf_counter()
            more = opened.store.prune(now).more
            slices.append(time.perf_counter() - started)
    opened.store.close()
    with closing(sqlite3.connect(store)) as connection:
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (left,) = connection.execute(
            "SELECT (SELECT count(*) FROM event_keys) + (SELECT count(*) FROM instances)"
            " + (SELECT count(*) FROM archived_instances) + count(*) FROM ledger"
        ).fetchone()
    return Pruning(slices, left, _mib(store), free / pages)


def _prune_under_load(
    directory: Path, store: Path, credentials: PushCredentials, first: int
) -> PruningUnderLoad:
    configured = configuration(directory, credentials, store={"url": f"sqlite:///{store}"})
    command = [
        *COMMAND[:2],
        "tests.bench.shifted_clock",
        str(written(directory, configured)),
        str(_MONTH_DAYS),
    ]
    ready = answers(f"http://{LOOPBACK}:{configured['prometheus']['port']}/healthz")
    output = directory / "shifted_clock.log"
    with (
        Process(command, output=output, ready=ready, env=ENVIRONMENT, within=120),
        progress("pruning under load", 1),
    ):
        started = time.perf_counter()
        deliveries = _creations_until_pruned(store, first)
        results = push_all(
            configured["server"]["port"], credentials.token, deliveries, connections=_CONNECTIONS_UNDER_LOAD
        )
        seconds = time.perf_counter() - started
        return PruningUnderLoad(seconds, results.latencies_ms, results.refused.total())


def _creations_until_pruned(store: Path, first: int) -> Iterator[Delivery]:
    deadline = time.monotonic() + _PRUNE_TIMEOUT_SECONDS
    next_poll_at = 0.0
    number = first
    with closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as connection:
        while True:
            if time.monotonic() >= next_poll_at:
                if _is_pruned(connection):
                    return
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{store}: rows are left after {_PRUNE_TIMEOUT_SECONDS} s of pruning")
                next_poll_at = time.monotonic() + _POLL_SECONDS
            number += 1
            yield Delivery("creation", number, number, time.time())


def _is_pruned(connection: sqlite3.Connection) -> bool:
    """Return whether no row is left that was recorded before the clock was set ahead."""
    before = time.time() + _DAY
    (is_left,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM event_keys WHERE recorded_at < :before)"
        " OR EXISTS (SELECT 1 FROM ledger WHERE recorded_at < :before)"
        " OR EXISTS (SELECT 1 FROM instances WHERE recorded_at < :before)",
        {"before": before},
    ).fetchone()
    return not is_left


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


def _mib(file: Path) -> float:
    return file.stat().st_size / 2**20 if file.exists() else 0.0


def print_report(report: Report) -> None:
    """Print all figures."""
    messages = sum(report.outcomes.values())
    counts = ", ".join(f"{outcome} {number:,}" for outcome, number in sorted(report.outcomes.items()))
    print_line(f"{machine()}; {messages:,} messages in {report.seconds:.0f} s: {counts}")
    print_line(f"totals: {'; '.join(report.errors) or 'exact'}")
    print_line("\n  messages  events/s  p99 ms  CPU µs  RSS MiB  file MiB  WAL MiB")
    for number, window in enumerate(report.windows, 1):
        pushed = messages * number // len(report.windows)
        print_line(
            f"{pushed:10,}{window.events_per_second:10.0f}{window.p99_ms:8.1f}{window.microseconds:8.0f}"
            f"{window.rss_mib:9.1f}{window.file_mib:10.0f}{window.wal_mib:9.0f}"
        )
    fifth = -(-len(report.windows) // 5)
    first, last = report.windows[:fifth], report.windows[-fifth:]
    rate = sum(w.events_per_second for w in last) / sum(w.events_per_second for w in first)
    cpu = sum(w.microseconds for w in last) / sum(w.microseconds for w in first)
    print_line(f"last fifth: {rate:.2f} of the rate of the first fifth, {cpu:.2f} of its CPU per event")
    slices, under_load = report.pruned.slice_seconds, report.pruned_under_load
    print_line(
        f"\na month later: pruned in {sum(slices):.1f} s, {len(slices)} slices,"
        f" p99 {percentile(slices, 0.99) * 1000:.1f} ms, longest {max(slices) * 1000:.1f} ms;"
        f" {report.pruned.left} rows left; {report.pruned.free_share:.0%} of the file's"
        f" {report.pruned.file_mib:.0f} MiB is free"
    )
    p50, p99, longest = (percentile(under_load.latencies_ms, part) for part in (0.5, 0.99, 1))
    print_line(
        f"while callers push over {_CONNECTIONS_UNDER_LOAD} connections: {under_load.seconds:.1f} s;"
        f" {len(under_load.latencies_ms):,} pushes, p50 {p50:.1f} ms, p99 {p99:.1f} ms,"
        f" longest {longest:.1f} ms, refused {under_load.refused}"
    )


if __name__ == "__main__":
    main()
