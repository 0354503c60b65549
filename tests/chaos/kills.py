"""Repeated `kill -9` during disordered deliveries; the counts are read from a real Prometheus.

`python -m tests.chaos.kills [--events 20000] [--instances 2000] [--kills 25] [--seed 1] [--by emulator]`;
needs prometheus, and the Pub/Sub emulator for `--by emulator`.
"""

import argparse
import base64
import json
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal, Protocol

from tests.chaos import load
from tests.chaos.comparison import (
    COUNTERS,
    counter_faults,
    differences,
    ledger_differences,
    without_target_labels,
)
from tests.chaos.incarnations import traffic_of_incarnations
from tests.chaos.load import port_of, running
from tests.chaos.push_sender import PushSender
from tests.chaos.traffic import Labels, Message, Traffic
from tests.support.emulator import PubSubEmulator
from tests.support.output import exit_with, print_line
from tests.support.process import ExitedError, eventually
from tests.support.program import SUBSCRIPTIONS, ExporterProcess, issued_credentials
from tests.support.prometheus import Prometheus, Series, Target

By = Literal["pushes", "emulator"]

SCRAPE_SECONDS: Final = 0.5
_HOLD_SECONDS: Final = 1
_RUN_TIMEOUT_SECONDS: Final = 1800
_KILLS_PER_START_KILL: Final = 3
"""After this many kills, the exporter is killed again during its start."""
_START_SECONDS: Final = 0.8
"""The approximate duration of a start."""
_SETTLED_SCRAPES: Final = 5
"""Scrapes to wait for at the end. They take longer than the emulator waits before it redelivers."""


@dataclass(slots=True)
class Report:
    """The course of a run, and the errors in its result."""

    delivered: int = 0
    kills: int = 0
    killed_at_start: int = 0
    """Additional kills of a process that was not yet ready."""
    outcomes: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    scrapes: int = 0
    failed_scrapes: int = 0
    series: int = 0
    slowest_start_seconds: float = 0.0
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)


class KilledDuring(load.Task, Protocol):
    """A delivery of messages, during which the exporter is killed."""

    @property
    def acknowledged(self) -> int:
        """The number of messages that are done."""
        ...


class Sender(KilledDuring, Protocol):
    """A sender of messages that counts the answers."""

    outcomes: Counter[str]
    repeated: Counter[str]


def main() -> None:
    """Run the long form, and print the results."""
    options = _options()
    if not shutil.which("prometheus"):
        sys.exit("this test needs prometheus: apt-get install prometheus")
    with TemporaryDirectory() as folder:
        report = run(
            Path(folder),
            events=options.events,
            instances=options.instances,
            kills=options.kills,
            seed=options.seed,
            by=options.by,
            log=print_line,
        )
    print_line(
        f"{options.events} interruptions of {options.instances} names by {options.by}, seed {options.seed}:"
        f" {report.delivered} messages, {report.kills} kills and"
        f" {report.killed_at_start} while it started, {report.seconds:.0f} s"
    )
    print_line(f"answers: {dict(report.outcomes)}; repeated: {dict(report.repeated)}")
    print_line(f"slowest start: {report.slowest_start_seconds:.1f} s")
    print_line(
        f"{report.scrapes} scrapes, {report.failed_scrapes} failed scrapes; {report.series} series checked"
    )
    exit_with(report.errors)


def run(
    directory: Path,
    *,
    events: int,
    instances: int,
    kills: int,
    seed: int,
    by: By = "pushes",
    log: Callable[[str], None] = lambda _: None,
) -> Report:
    """Deliver interruptions while the exporter is killed repeatedly, and compare the counts."""
    began = time.time()
    traffic = traffic_of_incarnations(random.Random(seed), interruptions=events, names=instances)  # noqa: S311
    (directory / "prometheus").mkdir()
    with ExitStack() as stack:
        credentials = stack.enter_context(issued_credentials()) if by == "pushes" else None
        exporter = ExporterProcess(directory, credentials, prometheus={"hold_seconds": _HOLD_SECONDS})
        targets = [Target(exporter.metrics_address)]
        # It is started first, because it needs 5 s to its first scrape.
        prometheus = stack.enter_context(
            Prometheus(directory / "prometheus", targets, scrape_interval=SCRAPE_SECONDS)
        )
        sender: Sender
        if credentials is None:
            sender = _Publisher(stack.enter_context(PubSubEmulator(directory)), exporter, traffic.messages)
        else:
            token = credentials.token
            sender = PushSender(port_of(exporter), traffic.messages, token=lambda: token, seed=seed)
        stack.enter_context(exporter)
        prometheus.wait_for_scrapes()
        report = Report(delivered=len(traffic.messages))
        with running(sender) as done:
            kill_repeatedly([exporter], sender, done, report, kills, random.Random(seed), log)  # noqa: S311
        log("waiting for the last scrapes")
        report.outcomes, report.repeated = sender.outcomes, sender.repeated
        compare(exporter, prometheus, traffic, report, began)
    report.seconds = time.time() - began
    return report


def kill_repeatedly(
    exporters: Sequence[ExporterProcess],
    delivery: KilledDuring,
    done: Future[None],
    report: Report,
    kills: int,
    rng: random.Random,
    log: Callable[[str], None],
) -> None:
    """Kill and restart an exporter at random numbers of acknowledged messages.

    After every third kill, kill it again during its start.
    """
    for at in sorted(rng.sample(range(report.delivered), kills)):
        eventually(
            lambda at=at: delivery.acknowledged >= at or done.done(),  # type: ignore[misc]
            within=_RUN_TIMEOUT_SECONDS,
            what=f"{at} messages are acknowledged",
        )
        time.sleep(rng.uniform(0, 0.05))  # during a commit, or between two commits
        exporter = rng.choice(exporters)
        exporter.process.kill()
        report.kills += 1
        if not report.kills % _KILLS_PER_START_KILL:
            report.killed_at_start += _kill_during_start(exporter, rng)
        began = time.monotonic()
        exporter.process.start()
        report.slowest_start_seconds = max(report.slowest_start_seconds, time.monotonic() - began)
        progress = f"{delivery.acknowledged} of {report.delivered} messages acknowledged"
        log(f"kill {report.kills}/{kills}: {progress}")


def _kill_during_start(exporter: ExporterProcess, rng: random.Random) -> bool:
    """Kill the exporter during its start; return whether it was not ready yet."""
    with ThreadPoolExecutor(1) as thread:
        starting = thread.submit(exporter.process.start)
        eventually(lambda: _is_running(exporter), within=10, what="the process has started")
        time.sleep(rng.uniform(0, _START_SECONDS))
        exporter.process.send(signal.SIGKILL)
        early = isinstance(starting.exception(), ExitedError)
    exporter.process.kill()
    return early


def _is_running(exporter: ExporterProcess) -> bool:
    with suppress(ExitedError):
        return exporter.process.pid > 0
    return False


def compare(
    exporter: ExporterProcess, prometheus: Prometheus, traffic: Traffic, report: Report, began: float
) -> None:
    """Compare the metrics in Prometheus, and the ledger, with the sent events."""

    def metric_differences() -> list[str]:
        at = prometheus.last_scrape()  # a later scrape may fail on a busy machine, which ends all series

        def shown(name: str) -> dict[Labels, float]:
            samples = prometheus.query(name, at)
            return {without_target_labels(sample.labels): sample.value for sample in samples if sample.value}

        return list(differences(traffic, shown))

    def raw(name: str) -> Sequence[Series]:
        return prometheus.raw(name, time.time() - began)

    with suppress(TimeoutError):
        eventually(lambda: not metric_differences(), within=60, what="all counts are scraped")
    prometheus.wait_for_scrapes(_SETTLED_SCRAPES)  # further scrapes would show events counted twice
    series = [found for name in COUNTERS for found in raw(name)]
    ups = [up for found in raw("up") for _, up in found.samples]
    report.series, report.scrapes, report.failed_scrapes = len(series), ups.count(1), ups.count(0)
    report.errors = [
        *metric_differences(),
        *counter_faults(series),
        *ledger_differences(traffic, exporter.client, f"http://{exporter.metrics_address}"),
    ]


class _Publisher:
    """Publishes to the Pub/Sub emulator, which does not report what is acknowledged."""

    def __init__(
        self, pubsub: PubSubEmulator, exporter: ExporterProcess, messages: Sequence[Message]
    ) -> None:
        self.acknowledged = 0
        """The number of published messages."""
        self.outcomes: Counter[str] = Counter()
        self.repeated: Counter[str] = Counter()
        self.stopped = False
        self._pubsub = pubsub
        self._messages = messages
        for kind, subscription in SUBSCRIPTIONS.items():
            pubsub.create_topic(kind)
            pubsub.create_push_subscription(subscription, kind, f"{exporter.url}/events/{kind}")

    def run(self) -> None:
        """Publish all messages."""
        for message in self._messages:
            if self.stopped:
                return
            envelope = json.loads(message.body)["message"]
            data = base64.b64decode(envelope["data"])
            self._pubsub.publish(message.endpoint, data, envelope["attributes"])
            self.acknowledged += 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Exactly-once counts across kill -9.")
    parser.add_argument("--events", type=int, default=20_000, help="interruptions; creations are additional")
    parser.add_argument(
        "--instances", type=int, default=2_000, help="instance names, each used by several instances"
    )
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--by",
        choices=["pushes", "emulator"],
        default="pushes",
        help="deliver by own pushes or by the Pub/Sub emulator",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
