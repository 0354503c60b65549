"""Repeated `kill -9` while messages are pulled from the Pub/Sub emulator; Prometheus judges the counts.

`python -m tests.chaos.pulled [--events 20000] [--kills 10] [--replicas 2] [--seed 1]`; needs prometheus and
the Pub/Sub emulator. Several replicas share the subscriptions; they need redis-server and nginx too.

All messages are published at once, so an exporter has as many in hand as it may when it is killed. Pub/Sub
delivers those again when their leases end. The emulator gives a killed exporter new messages for as long,
so the leases are the shortest possible here. One message in five is published twice.
"""

import argparse
import base64
import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.chaos.incarnations import traffic_of_incarnations
from tests.chaos.kills import SCRAPE_SECONDS, Report, compare, kill_repeatedly
from tests.chaos.load import running
from tests.chaos.replica_comparison import ReplicaComparison
from tests.chaos.traffic import Message, Traffic
from tests.support.emulator import PubSubEmulator, batched
from tests.support.output import exit_with, print_line
from tests.support.process import eventually
from tests.support.program import ExporterProcess, overridden
from tests.support.prometheus import Prometheus, Target
from tests.support.pulling import create_pull_subscriptions, emulator_environment, pull_settings
from tests.support.replicas import Replicas

Log = Callable[[str], None]

_HOLD_SECONDS: Final = 2 * SCRAPE_SECONDS
_EVENTS_PER_NAME: Final = 20
_SHORT_LEASES: Final = overridden(extension_seconds=10)
_COUNTED: Final = "sum(spot_instances_created_total) + sum(interruption_events_total)"
_COUNTED_LINE: Final = b'"interruption counted"'
_WITHIN_SECONDS: Final = 600
_PUBLISHED_AT_ONCE: Final = 1000


def main() -> None:
    """Run the long form, and print the results."""
    options = _options()
    needed = ["prometheus", *(["redis-server", "nginx"] if options.replicas > 1 else [])]
    if missing := [program for program in needed if shutil.which(program) is None]:
        sys.exit(f"this test needs {', '.join(missing)}: install what is missing")
    with TemporaryDirectory() as folder:
        report = run(
            Path(folder),
            events=options.events,
            kills=options.kills,
            replicas=options.replicas,
            seed=options.seed,
            log=print_line,
        )
    print_line(
        f"{options.events} events, {options.replicas} exporter(s), seed {options.seed}:"
        f" {report.delivered} messages, {report.kills} kills and"
        f" {report.killed_at_start} while it started, {report.seconds:.0f} s;"
        f" slowest start: {report.slowest_start_seconds:.1f} s; {report.scrapes} scrapes"
    )
    exit_with(report.errors)


def run(
    directory: Path,
    *,
    events: int,
    kills: int,
    replicas: int,
    seed: int,
    log: Log = lambda _: None,
) -> Report:
    """Let exporters pull this many events while they are killed repeatedly, and compare the counts.

    A single exporter has an SQLite file; replicas have Redis.
    """
    began = time.time()
    rng = random.Random(seed)  # noqa: S311  # reproducible, not secret
    traffic = traffic_of_incarnations(rng, interruptions=events // 2, names=-(-events // _EVENTS_PER_NAME))
    with PubSubEmulator(directory) as pubsub:
        create_pull_subscriptions(pubsub)
        report = Report(delivered=len(traffic.messages))
        deliver = _run_one if replicas == 1 else _run_replicas
        deliver(directory, replicas, _Delivery(pubsub, traffic, report, kills, rng, log), began)
    report.seconds = time.time() - began
    return report


def _run_one(directory: Path, _replicas: int, delivery: "_Delivery", began: float) -> None:
    exporter = ExporterProcess(
        directory,
        env=emulator_environment(delivery.pubsub),
        pubsub=pull_settings(delivery.pubsub),
        command=_SHORT_LEASES,
        prometheus={"hold_seconds": _HOLD_SECONDS},
    )
    (directory / "prometheus").mkdir()
    targets = [Target(exporter.metrics_address)]
    # It is started first, because it needs 5 s to its first scrape.
    with (
        Prometheus(directory / "prometheus", targets, scrape_interval=SCRAPE_SECONDS) as prometheus,
        exporter,
    ):
        delivery.run([exporter], prometheus)
        compare(exporter, prometheus, delivery.traffic, delivery.report, began)


def _run_replicas(directory: Path, count: int, delivery: "_Delivery", began: float) -> None:
    replicas = Replicas(
        directory,
        count,
        env=emulator_environment(delivery.pubsub),
        pubsub=pull_settings(delivery.pubsub),
        command=_SHORT_LEASES,
    )
    with replicas.prometheus(directory / "prometheus") as prometheus, replicas:
        delivery.run([replicas[name] for name in replicas.names], prometheus)
        comparison = ReplicaComparison(replicas, prometheus, delivery.traffic, began, lease_changes=())
        comparison.wait_for_scrapes()
        delivery.report.errors += comparison.errors()
        delivery.report.scrapes = comparison.scrapes()


class _Delivery:
    """The messages of a run, and the kills during them."""

    def __init__(
        self,
        pubsub: PubSubEmulator,
        traffic: Traffic,
        report: Report,
        kills: int,
        rng: random.Random,
        log: Log,
    ) -> None:
        self.pubsub = pubsub
        self.traffic = traffic
        self.report = report
        self._kills = kills
        self._rng = rng
        self._log = log

    def run(self, exporters: Sequence[ExporterProcess], prometheus: Prometheus) -> None:
        """Publish everything, and kill the exporters until all events are counted."""
        prometheus.wait_for_scrapes()
        backlog = _Backlog(self.pubsub, self.traffic, prometheus, exporters)
        with running(backlog) as done:
            kill_repeatedly(exporters, backlog, done, self.report, self._kills, self._rng, self._log)
            self._log("waiting for the messages that the killed exporters had in hand")
        self._log("waiting for the last scrapes")


class _Backlog:
    """Publishes all messages, and waits until their events are counted."""

    def __init__(
        self,
        pubsub: PubSubEmulator,
        traffic: Traffic,
        prometheus: Prometheus,
        exporters: Sequence[ExporterProcess],
    ) -> None:
        self.stopped = False
        self._pubsub = pubsub
        self._messages = traffic.messages
        self._interruptions = traffic.by_cluster.total()
        self._events = traffic.created.total() + self._interruptions
        self._prometheus = prometheus
        self._logs = [_CountedLines(exporter.process.output) for exporter in exporters]

    @property
    def acknowledged(self) -> int:
        """The approximate number of messages that are done.

        It follows from the lines in the logs, because a metric that Prometheus has scraped is too old.
        """
        return sum(log.count() for log in self._logs) * len(self._messages) // self._interruptions

    def run(self) -> None:
        """Publish, and return when Prometheus shows every event."""
        for part in batched(self._messages, _PUBLISHED_AT_ONCE):
            self._publish(part)
        eventually(
            lambda: self.stopped or self._prometheus.value(_COUNTED) == self._events,
            within=_WITHIN_SECONDS,
            what="all events are counted",
        )

    def _publish(self, messages: Sequence[Message]) -> None:
        for endpoint in sorted({message.endpoint for message in messages}):
            bodies = [json.loads(one.body) for one in messages if one.endpoint == endpoint]
            self._pubsub.publish_all(endpoint, [base64.b64decode(body["message"]["data"]) for body in bodies])


class _CountedLines:
    """The lines of counted interruptions in a log that grows."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read = 0
        self._counted = 0

    def count(self) -> int:
        """Return the number of lines so far."""
        with self._log.open("rb") as source:
            source.seek(self._read)
            lines, newline, _ = source.read().rpartition(b"\n")
        self._read += len(lines) + len(newline)
        self._counted += lines.count(_COUNTED_LINE)
        return self._counted


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Exactly-once counts of pulled messages across kill -9.")
    parser.add_argument("--events", type=int, default=20_000, help="half of them are interruptions")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--replicas", type=int, default=1, help="more than one share Redis")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
