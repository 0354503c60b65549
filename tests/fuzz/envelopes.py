"""Pushes of mutated envelopes and log entries, between valid messages whose counts must stay exact.

Each answer is compared with the contract.
`python -m tests.fuzz.envelopes [--cases 200000] [--seed 1] [--store redis]`; `--replay FILE` sends failed
cases again.
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
from typing import TYPE_CHECKING, Final, Literal

import uvloop

from tests.fuzz.cases import Case, case
from tests.fuzz.contract_check import contract_violation, counter_errors, is_valid_repetition, log_errors
from tests.fuzz.failed_cases import read_failed, write_failed
from tests.fuzz.raw_client import Connection
from tests.fuzz.report import RECORDED, Report
from tests.support.entries import insert, preempted
from tests.support.measure import rss_mib
from tests.support.output import print_line
from tests.support.program import (
    ExporterProcess,
    PushCredentials,
    body_of,
    endpoint_of,
    issued_credentials,
)
from tests.support.redis import RedisServer

if TYPE_CHECKING:
    from tests.support.samples import Samples

Backend = Literal["sqlite", "redis"]

_CALLERS: Final = 24
_VALID_CALLERS: Final = 8
_INTERRUPTIONS: Final = 4
_CASES_PER_REPETITION: Final = 20
"""One case in this many is delivered again as soon as it is answered."""
_MAX_VALID_SECONDS: Final = 5.0
_MAX_FAILED_CASES: Final = 1000


def run(
    directory: Path,
    cases: Iterable[Case],
    *,
    store: Backend = "sqlite",
    on_progress: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Push the cases and valid messages to a new exporter, then check answers, log and counters."""
    report = Report()
    with issued_credentials() as credentials, _exporter(directory, credentials, store) as exporter:
        began = time.perf_counter()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_push(exporter, iter(cases), report, on_progress))
        report.seconds = time.perf_counter() - began
        report.rss_mib = rss_mib(exporter.process.pid)
        samples = exporter.samples()
        secret = credentials.token.rpartition(".")[2]
        if exporter.status("/healthz") != 200:
            report.errors.append("/healthz does not answer 200")
    lines = exporter.process.text().splitlines()
    report.errors += [*log_errors(lines, secret, report), *counter_errors(samples, lines, report)]
    report.errors += [
        f"case {case.number} ({case.shape}; {case.damage}): {error}" for case, error in report.failed
    ]
    return report


@contextmanager
def _exporter(directory: Path, credentials: PushCredentials, store: Backend) -> Iterator[ExporterProcess]:
    attribution = {"grace_seconds": 86400}
    if store == "sqlite":
        with ExporterProcess(directory, credentials, attribution=attribution) as exporter:
            yield exporter
        return
    with RedisServer(directory / "redis") as redis:
        settings = {"url": redis.url, "replica": "single"}
        with ExporterProcess(directory, credentials, attribution=attribution, store=settings) as exporter:
            yield exporter


async def _push(
    exporter: ExporterProcess, cases: Iterator[Case], report: Report, on_progress: Callable[[Report], None]
) -> None:
    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(_VALID_CALLERS):
            group.create_task(_push_valid_messages(exporter, number, report, done))
        group.create_task(_scrape(exporter, report, done))
        group.create_task(_show_progress(report, on_progress, done))
        async with asyncio.TaskGroup() as callers:
            for _ in range(_CALLERS):
                callers.create_task(_push_cases(exporter, cases, report))
        done.set()


async def _push_cases(exporter: ExporterProcess, cases: Iterator[Case], report: Report) -> None:
    connection = Connection(exporter)
    for pushed in cases:
        first = await _deliver(connection, pushed, report)
        report.cases += 1
        if pushed.number % _CASES_PER_REPETITION == 0 and first:
            second = await _deliver(connection, pushed, report)
            report.repeated += 1
            if not is_valid_repetition(first, second):
                report.failed.append((pushed, f"{first} at first, {second} when repeated"))
    connection.close()


async def _deliver(connection: Connection, pushed: Case, report: Report) -> tuple[int, str] | None:
    """Push a case; return the status, with the reason if the answer has it or else with the outcome."""
    try:
        answer = await connection.push(pushed.endpoint, pushed.body, pushed.authorization, pushed.headers)
    except (OSError, EOFError, asyncio.LimitOverrunError) as exc:
        report.failed.append((pushed, f"no answer: {exc!r}"))
        connection.close()
        return None
    report.statuses[answer.status] += 1
    report.slowest = max(report.slowest, (answer.seconds, pushed.number))
    document = answer.document()
    if violation := contract_violation(pushed, answer, document):
        report.failed.append((pushed, violation))
    result = str(document.get("outcome" if answer.status == 200 else "reason"))
    (report.outcomes if answer.status == 200 else report.reasons)[result] += 1
    if answer.status == 200 and result in RECORDED:
        report.recorded_seconds.append(answer.seconds)
    if answer.status != 200:
        report.details.add(str(document.get("detail")))
    report.note(pushed.endpoint, answer, document)
    return answer.status, str(document.get("reason", result))


async def _push_valid_messages(
    exporter: ExporterProcess, number: int, report: Report, done: asyncio.Event
) -> None:
    """Create and interrupt instances, one after the other, in a cluster that no mutant names."""
    connection, cluster = Connection(exporter), f"valid-{number}"
    for instance in count():
        name = f"valid-{number}-{instance}"
        entries = [insert(name, cluster=cluster)]
        entries += [
            preempted(name, timestamp=f"2026-03-02T{12 + hour}:00:00Z") for hour in range(_INTERRUPTIONS)
        ]
        for entry in entries:
            endpoint = endpoint_of(entry)
            answer = await connection.push(endpoint, body_of(entry))
            document = answer.document()
            report.valid += 1
            report.valid_seconds.append(answer.seconds)
            report.note(endpoint, answer, document)
            outcome = "tracked" if endpoint == "creation" else "counted"
            (report.valid_created if outcome == "tracked" else report.valid_counted)[cluster] += 1
            if answer.status != 200 or document["outcome"] != outcome or document["instance"] != name:
                report.errors.append(
                    f"a valid message was answered {answer.status} {answer.body[:200]!r}, not {outcome}"
                )
            if answer.seconds > _MAX_VALID_SECONDS:
                report.errors.append(f"a valid message was answered after {answer.seconds:.1f} s")
        if done.is_set():
            connection.close()
            return


async def _scrape(exporter: ExporterProcess, report: Report, done: asyncio.Event) -> None:
    """Scrape repeatedly. A counter that goes down is an error."""
    last: Samples = {}
    while True:
        began = time.perf_counter()
        samples = await asyncio.to_thread(exporter.samples)  # raises if they cannot be read
        took = time.perf_counter() - began
        report.scrapes += 1
        report.slowest_scrape, report.series = max(report.slowest_scrape, took), len(samples)
        for (name, labels), value in last.items():
            if name.endswith("_total") and samples.get((name, labels), -1) < value:
                report.errors.append(f"{name} {dict(labels)} went down or disappeared; it was {value}")
        last = samples
        if done.is_set():
            return
        # Parsing takes this process longer than the exporter needs for the answer; leave time for the pushes.
        await asyncio.wait([asyncio.create_task(done.wait())], timeout=0.2 + 9 * took)


async def _show_progress(report: Report, on_progress: Callable[[Report], None], done: asyncio.Event) -> None:
    while not done.is_set():
        on_progress(report)
        await asyncio.wait([asyncio.create_task(done.wait())], timeout=1)


def main() -> None:
    """Run the long form, or a replay, and print the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--store", choices=["sqlite", "redis"], default="sqlite")
    parser.add_argument("--replay", type=Path, help="send the failed cases of this file")
    parser.add_argument(
        "--failed", type=Path, default=Path("failed-cases.jsonl"), help="file for the failed cases"
    )
    options = parser.parse_args()
    cases = (case(options.seed, number) for number in range(options.cases))
    number = options.cases
    if options.replay:
        failed = list(read_failed(options.replay))
        cases, number = (failed_case for failed_case in failed), len(failed)
    with TemporaryDirectory() as folder:
        report = run(Path(folder), cases, store=options.store, on_progress=_Progress(number))
    print_line(f"seed {options.seed}, {options.store}")
    for line in report.lines():
        print_line(line)
    for line in report.errors[:50]:
        print_line(f"WRONG: {line}")
    if report.failed and not options.replay:
        write_failed(options.failed, report.failed[:_MAX_FAILED_CASES])
        print_line(f"{len(report.failed):,} cases failed; written to {options.failed}")
    print_line(f"{len(report.errors):,} wrong" if report.errors else "nothing wrong")
    sys.exit(bool(report.errors))


class _Progress:
    """A progress line on the terminal; in a file, a line every ten seconds."""

    def __init__(self, cases: int) -> None:
        self._cases = cases
        self._began = time.monotonic()
        self._last_line_at = 0.0

    def __call__(self, report: Report) -> None:
        seconds = time.monotonic() - self._began
        if not sys.stderr.isatty() and seconds < self._last_line_at + 10:
            return
        self._last_line_at = seconds
        speed = report.cases / max(seconds, 0.001)
        left = (self._cases - report.cases) / max(speed, 1)
        end = "\r" if sys.stderr.isatty() else "\n"
        sys.stderr.write(
            f"{report.cases:,} of {self._cases:,} cases, {speed:,.0f} per second, {left:.0f} s to go, "
            f"{len(report.failed)} failed{end}"
        )
        sys.stderr.flush()


if __name__ == "__main__":
    main()
