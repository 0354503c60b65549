"""`kill -9` again and again while events come in every disorder; a real Prometheus says what was counted.

`python -m tests.chaos.kills [--events 20000] [--instances 2000] [--kills 25] [--seed 1] [--by emulator]`;
needs prometheus, and for the last of these the Pub/Sub emulator.
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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal, Protocol

from tests.chaos import load
from tests.chaos.lives import lives
from tests.chaos.load import port_of, running
from tests.chaos.pushes import Pushes
from tests.chaos.telling import conclude, say
from tests.chaos.traffic import Labels, Message, Traffic
from tests.chaos.verdict import COUNTERS, differences, faults, in_ledger, own
from tests.support.emulator import PubSubEmulator
from tests.support.process import ExitedError, eventually
from tests.support.program import SUBSCRIPTIONS, Exporter, open_door
from tests.support.prometheus import Prometheus, Series, Target

By = Literal["pushes", "emulator"]

SCRAPE_SECONDS: Final = 0.5
_HOLD_SECONDS: Final = 1
_LONGEST_SECONDS: Final = 1800
_AGAIN: Final = 3
_START_SECONDS: Final = 0.8
"""About what a start takes."""
_SETTLED_SCRAPES: Final = 5
"""More than the second after which the emulator delivers again."""


@dataclass(slots=True)
class Report:
    """What was done, and what was wrong with the result."""

    delivered: int = 0
    kills: int = 0
    killed_at_start: int = 0
    """Further ones, of a process that was not yet ready."""
    outcomes: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)
    scrapes: int = 0
    failed_scrapes: int = 0
    series: int = 0
    slowest_start_seconds: float = 0.0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Sender(load.Sender, Protocol):
    """One that counts."""

    acknowledged: int
    outcomes: Counter[str]
    repeated: Counter[str]


def main() -> None:
    """Run it, and print what was seen."""
    options = _options()
    if not shutil.which("prometheus"):
        sys.exit("this needs prometheus")
    with TemporaryDirectory() as folder:
        report = run(
            Path(folder),
            events=options.events,
            instances=options.instances,
            kills=options.kills,
            seed=options.seed,
            by=options.by,
            say=say,
        )
    say(
        f"{options.events} interruptions of {options.instances} names by {options.by}, seed {options.seed}:"
        f" {report.delivered} messages, {report.kills} kills and"
        f" {report.killed_at_start} while it started, {report.seconds:.0f} s"
    )
    say(f"answers: {dict(report.outcomes)}; repeated: {dict(report.repeated)}")
    say(f"slowest start: {report.slowest_start_seconds:.1f} s")
    say(
        f"{report.scrapes} scrapes, {report.failed_scrapes} more without an answer;"
        f" {report.series} series looked at"
    )
    conclude(report.wrong)


def run(
    directory: Path,
    *,
    events: int,
    instances: int,
    kills: int,
    seed: int,
    by: By = "pushes",
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Deliver so many interruptions while the exporter is killed so often, and compare."""
    began = time.time()
    made = lives(random.Random(seed), interruptions=events, names=instances)  # noqa: S311
    (directory / "prometheus").mkdir()
    with _delivering(by, directory, made.messages, seed) as (exporter, sender):
        target = Target(exporter.metrics_address)
        with Prometheus(directory / "prometheus", [target], scrape_interval=SCRAPE_SECONDS) as prometheus:
            prometheus.wait_for_scrapes()
            report = Report(delivered=len(made.messages))
            with running(sender) as done:
                _kill(exporter, sender, done, report, kills, random.Random(seed), say)  # noqa: S311
            say("waiting for the last scrapes")
            report.outcomes, report.repeated = sender.outcomes, sender.repeated
            _judge(exporter, prometheus, made, report, began)
    report.seconds = time.time() - began
    return report


def _kill(
    exporter: Exporter,
    sender: Sender,
    done: Future[None],
    report: Report,
    kills: int,
    chance: random.Random,
    say: Callable[[str], None],
) -> None:
    """At random moments: once so many messages are acknowledged, and some milliseconds more.

    Every third time it is killed once more, while it starts.
    """
    for at in sorted(chance.sample(range(report.delivered), kills)):
        eventually(
            lambda at=at: sender.acknowledged >= at or done.done(),  # type: ignore[misc]
            within=_LONGEST_SECONDS,
            what=f"{at} messages are acknowledged",
        )
        time.sleep(chance.uniform(0, 0.05))  # in the middle of a commit, or between two
        exporter.process.kill()
        report.kills += 1
        if not report.kills % _AGAIN:
            report.killed_at_start += _kill_while_it_starts(exporter, chance)
        began = time.monotonic()
        exporter.process.start()
        report.slowest_start_seconds = max(report.slowest_start_seconds, time.monotonic() - began)
        say(f"kill {report.kills}/{kills}: {sender.acknowledged} of {report.delivered} messages acknowledged")


def _kill_while_it_starts(exporter: Exporter, chance: random.Random) -> bool:
    """Whether it was not yet ready."""
    with ThreadPoolExecutor(1) as thread:
        starting = thread.submit(exporter.process.start)
        eventually(lambda: _has_begun(exporter), within=10, what="it has begun to start")
        time.sleep(chance.uniform(0, _START_SECONDS))
        exporter.process.send(signal.SIGKILL)
        early = isinstance(starting.exception(), ExitedError)
    exporter.process.kill()
    return early


def _has_begun(exporter: Exporter) -> bool:
    with suppress(ExitedError):
        return exporter.process.pid > 0
    return False


def _judge(exporter: Exporter, prometheus: Prometheus, made: Traffic, report: Report, began: float) -> None:
    def wrong() -> list[str]:
        at = prometheus.last_scrape()  # on a busy machine the next may fail, and ends every series

        def shown(name: str) -> dict[Labels, float]:
            return {own(sample.labels): sample.value for sample in prometheus.query(name, at) if sample.value}

        return list(differences(made, shown))

    def raw(name: str) -> Sequence[Series]:
        return prometheus.raw(name, time.time() - began)

    with suppress(TimeoutError):
        eventually(lambda: not wrong(), within=60, what="everything is scraped")
    prometheus.wait_for_scrapes(_SETTLED_SCRAPES)  # there might come too much
    series = [one for name in COUNTERS for one in raw(name)]
    ups = [up for one in raw("up") for _, up in one.samples]
    report.series, report.scrapes, report.failed_scrapes = len(series), ups.count(1), ups.count(0)
    report.wrong = [
        *wrong(),
        *faults(series),
        *in_ledger(made, exporter.client, f"http://{exporter.metrics_address}"),
    ]


@contextmanager
def _delivering(
    by: By, directory: Path, messages: Sequence[Message], seed: int
) -> Iterator[tuple[Exporter, Sender]]:
    held = {"hold_seconds": _HOLD_SECONDS}
    if by == "pushes":
        with open_door() as door, Exporter(directory, door, prometheus=held) as exporter:
            yield exporter, Pushes(port_of(exporter), messages, token=lambda: door.token, seed=seed)
    else:
        with PubSubEmulator(directory) as pubsub, Exporter(directory, prometheus=held) as exporter:
            yield exporter, _Published(pubsub, exporter, messages)


class _Published:
    """Has the Pub/Sub emulator deliver: what is acknowledged, it keeps to itself."""

    def __init__(self, pubsub: PubSubEmulator, exporter: Exporter, messages: Sequence[Message]) -> None:
        self.acknowledged = 0
        """Published, to be exact."""
        self.outcomes: Counter[str] = Counter()
        self.repeated: Counter[str] = Counter()
        self.stopped = False
        self._pubsub = pubsub
        self._messages = messages
        for kind, subscription in SUBSCRIPTIONS.items():
            pubsub.create_topic(kind)
            pubsub.create_push_subscription(subscription, kind, f"{exporter.url}/events/{kind}")

    def run(self) -> None:
        """Publish all of it."""
        for message in self._messages:
            if self.stopped:
                return
            delivered = json.loads(message.body)["message"]
            data = base64.b64decode(delivered["data"])
            self._pubsub.publish(message.endpoint, data, delivered["attributes"])
            self.acknowledged += 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Exactly once, over kill -9.")
    parser.add_argument("--events", type=int, default=20_000, help="interruptions, besides creations")
    parser.add_argument("--instances", type=int, default=2_000, help="names, used again and again")
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--by", choices=["pushes", "emulator"], default="pushes", help="who delivers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
