"""Mutated envelopes and log entries are refused or taken as the contract says, and harm no good neighbour.

`python -m tests.fuzz.envelopes [--cases 200000] [--seed 1] [--store redis]`; `--replay FILE` sends failed
cases once more.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

import uvloop

from tests.fuzz.caller import Connection
from tests.fuzz.cases import Case, case
from tests.fuzz.judge import may_follow, unlike_the_contract, wrong_lines, wrong_numbers
from tests.fuzz.kept import read_failed, write_failed
from tests.fuzz.report import RECORDED, Report, resident_mib
from tests.support.entries import insert, preempted
from tests.support.program import Door, Exporter, Samples, body_of, endpoint_of, open_door
from tests.support.redis import RedisServer

Backend = Literal["sqlite", "redis"]

_CALLERS: Final = 24
_GOOD_CALLERS: Final = 8
_INTERRUPTIONS: Final = 4
_REPEATED: Final = 20
"""One case in so many is delivered once more, as soon as it is answered."""
_WAITED_TOO_LONG_SECONDS: Final = 5.0
_KEPT: Final = 1000


def run(
    directory: Path,
    cases: Iterable[Case],
    *,
    store: Backend = "sqlite",
    say: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Push the cases, and good messages beside them, to a fresh exporter in the directory; then judge."""
    report = Report()
    with open_door() as door, _exporter(directory, door, store) as exporter:
        began = time.perf_counter()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_push(exporter, iter(cases), report, say))
        report.seconds = time.perf_counter() - began
        report.resident_mib = resident_mib(exporter.process.pid)
        samples = exporter.samples()
        secret = door.token.rpartition(".")[2]
        if exporter.status("/healthz") != 200:
            report.wrong.append("/healthz")
    lines = exporter.process.text().splitlines()
    report.wrong += [*wrong_lines(lines, secret, report), *wrong_numbers(samples, lines, report)]
    report.wrong += [
        f"case {case.number} ({case.shape}; {case.damage}): {why}" for case, why in report.failed
    ]
    return report


@contextmanager
def _exporter(directory: Path, door: Door, store: Backend) -> Iterator[Exporter]:
    waits = {"grace_seconds": 86400}
    if store == "sqlite":
        with Exporter(directory, door, attribution=waits) as exporter:
            yield exporter
        return
    with RedisServer(directory / "redis") as redis:
        there = {"url": redis.url, "replica": "the-only-one"}
        with Exporter(directory, door, attribution=waits, store=there) as exporter:
            yield exporter


async def _push(
    exporter: Exporter, cases: Iterator[Case], report: Report, say: Callable[[Report], None]
) -> None:
    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        beside = [group.create_task(_good(exporter, number, report, done)) for number in range(_GOOD_CALLERS)]
        beside += [
            group.create_task(_scrape(exporter, report, done)),
            group.create_task(_tell(report, say, done)),
        ]
        async with asyncio.TaskGroup() as callers:
            for _ in range(_CALLERS):
                callers.create_task(_call(exporter, cases, report))
        done.set()


async def _call(exporter: Exporter, cases: Iterator[Case], report: Report) -> None:
    connection = Connection(exporter)
    for pushed in cases:
        became = await _deliver(connection, pushed, report)
        report.cases += 1
        if pushed.number % _REPEATED == 0 and became:
            again = await _deliver(connection, pushed, report)
            report.repeated += 1
            if not may_follow(became, again):
                report.failed.append((pushed, f"{became} at first, {again} when it was repeated"))
    connection.close()


async def _deliver(connection: Connection, pushed: Case, report: Report) -> tuple[int, str] | None:
    """The status, with the reason of what was not recorded or else the outcome."""
    try:
        answer = await connection.push(pushed.endpoint, pushed.body, pushed.authorization, pushed.headers)
    except (OSError, EOFError, asyncio.LimitOverrunError) as exc:
        report.failed.append((pushed, f"no answer: {exc!r}"))
        connection.close()
        return None
    report.statuses[answer.status] += 1
    report.slowest = max(report.slowest, (answer.seconds, pushed.number))
    document = answer.document()
    if why := unlike_the_contract(pushed, answer, document):
        report.failed.append((pushed, why))
    what = str(document.get("outcome" if answer.status == 200 else "reason"))
    (report.outcomes if answer.status == 200 else report.reasons)[what] += 1
    if answer.status == 200 and what in RECORDED:
        report.waited.append(answer.seconds)
    if answer.status != 200:
        report.details.add(str(document.get("detail")))
    report.note(pushed.endpoint, answer, document)
    return answer.status, str(document.get("reason", what))


async def _good(exporter: Exporter, number: int, report: Report, done: asyncio.Event) -> None:
    """Create instances and interrupt them, one after the other, in a cluster that nothing else names."""
    connection, cluster = Connection(exporter), f"good-{number}"
    for life in count():
        name = f"good-{number}-{life}"
        entries = [insert(name, cluster=cluster)]
        entries += [
            preempted(name, timestamp=f"2026-03-02T{12 + hour}:00:00Z") for hour in range(_INTERRUPTIONS)
        ]
        for entry in entries:
            endpoint = endpoint_of(entry)
            answer = await connection.push(endpoint, body_of(entry))
            document = answer.document()
            report.good += 1
            report.good_waited.append(answer.seconds)
            report.note(endpoint, answer, document)
            outcome = "tracked" if endpoint == "creation" else "counted"
            (report.good_created if outcome == "tracked" else report.good_counted)[cluster] += 1
            if answer.status != 200 or document["outcome"] != outcome or document["instance"] != name:
                report.wrong.append(f"a good message: {answer.status} {answer.body[:200]!r}, not {outcome}")
            if answer.seconds > _WAITED_TOO_LONG_SECONDS:
                report.wrong.append(f"a good message waited {answer.seconds:.1f} s")
        if done.is_set():
            connection.close()
            return


async def _scrape(exporter: Exporter, report: Report, done: asyncio.Event) -> None:
    """Read the metrics again and again; a counter that goes down is wrong."""
    shown: Samples = {}
    while True:
        began = time.perf_counter()
        samples = await asyncio.to_thread(exporter.samples)  # raises where they cannot be read
        took = time.perf_counter() - began
        report.scrapes += 1
        report.slowest_scrape, report.series = max(report.slowest_scrape, took), len(samples)
        for (name, labels), value in shown.items():
            if name.endswith("_total") and samples.get((name, labels), -1) < value:
                report.wrong.append(f"{name} {dict(labels)} went down or away, from {value}")
        shown = samples
        if done.is_set():
            return
        # Reading takes this process longer than writing takes the exporter.
        await asyncio.wait([asyncio.create_task(done.wait())], timeout=0.2 + 9 * took)


async def _tell(report: Report, say: Callable[[Report], None], done: asyncio.Event) -> None:
    while not done.is_set():
        say(report)
        await asyncio.wait([asyncio.create_task(done.wait())], timeout=1)


def main() -> None:
    """Run the long form, or a replay, and print what was seen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=["sqlite", "redis"], default="sqlite")
    parser.add_argument("--replay", type=Path, help="a file of failed cases")
    parser.add_argument("--failed", type=Path, default=Path("failed-cases.jsonl"), help="where they are kept")
    options = parser.parse_args()
    cases = (case(options.seed, number) for number in range(options.cases))
    number = options.cases
    if options.replay:
        kept = list(read_failed(options.replay))
        cases, number = (one for one in kept), len(kept)
    with TemporaryDirectory() as folder:
        report = run(Path(folder), cases, store=options.store, say=_Progress(number))
    _say(f"seed {options.seed}, {options.store}")
    for line in report.lines():
        _say(line)
    for line in report.wrong[:50]:
        _say(f"WRONG: {line}")
    if report.failed and not options.replay:
        write_failed(options.failed, report.failed[:_KEPT])
        _say(f"{len(report.failed):,} cases failed; kept in {options.failed}")
    _say(f"{len(report.wrong):,} wrong" if report.wrong else "nothing wrong")
    sys.exit(bool(report.wrong))


class _Progress:
    """A line on the terminal, or one now and then in a file."""

    def __init__(self, cases: int) -> None:
        self._cases = cases
        self._began = time.monotonic()
        self._told = 0.0

    def __call__(self, report: Report) -> None:
        seconds = time.monotonic() - self._began
        if not sys.stderr.isatty() and seconds < self._told + 10:
            return
        self._told = seconds
        speed = report.cases / max(seconds, 0.001)
        left = (self._cases - report.cases) / max(speed, 1)
        end = "\r" if sys.stderr.isatty() else "\n"
        sys.stderr.write(
            f"{report.cases:,} of {self._cases:,} cases, {speed:,.0f} a second, {left:.0f} s to go, "
            f"{len(report.failed)} failed{end}"
        )
        sys.stderr.flush()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
