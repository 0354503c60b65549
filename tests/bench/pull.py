"""The cost of pulled messages, beside pushes, the client library alone and the original exporter, in turns.

`python -m tests.bench.pull [--waiting 20000] [--lone 500] [--rounds 3] [--original REPOSITORY]`. All use one
Pub/Sub emulator. The library alone acknowledges at once and does nothing else. The original is built with Go
from a clone of REPOSITORY, at a fixed commit; without Go or without the repository it is left out. In bulk,
all messages are published while the server is suspended, so that they wait for it. Lone messages come one at
a time. The processor time is that of the server alone, and the lowest of all rounds, because another load on
the machine only adds to it. Memory is the largest of all rounds.
"""

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple, Protocol

import httpx

from tests.bench.deliveries import Delivery, Kind, entry_of
from tests.bench.original import REPOSITORY, EmptyComputeApi, build_original
from tests.bench.report import at_most, machine, progress
from tests.support.emulator import PubSubEmulator
from tests.support.measure import cpu_seconds, peak_rss_mib
from tests.support.output import print_line
from tests.support.process import LOOPBACK, Process, answers, eventually, free_port
from tests.support.program import ExporterProcess
from tests.support.pulling import emulator_environment

_PULL, _PUSH, _LIBRARY, _ORIGINAL = "pull", "push", "library alone", "original"
_KINDS: Final[Sequence[Kind]] = ("creation", "interruption")
_WARM_UP: Final = 500
_LONE_PAUSE_SECONDS: Final = 0.02
_POLL_SECONDS: Final = 0.1
_WITHIN_SECONDS: Final = 300
_BULK_OF_PUSH, _LONE_OF_PUSH, _MIB = 0.35, 2.0, 130.0
"""The limits: processor time of a pulled message by that of a push, and memory."""
_IDLE_SECONDS: Final = 1.0
_COUNTED: Final = re.compile(r"^interruption_events_total\{.*\} (\S+)", re.MULTILINE)
_ANSWERED: Final = '_exporter_push_messages_total{{endpoint="{}".*}} (\\S+)'


class Figures(NamedTuple):
    """The figures of one server in one round. Times are per event."""

    bulk_us: float
    events_per_second: float
    """In bulk, of interruptions alone, because the original does not show when creations are done."""
    lone_us: float
    peak_mib: float


class Report(NamedTuple):
    """The rounds of each server, and the servers that were left out, with the reasons."""

    figures: Mapping[str, Sequence[Figures]]
    skipped: Sequence[str]


class _Server(Protocol):
    """A running server that counts events."""

    @property
    def pid(self) -> int: ...

    def has_handled(self, kind: Kind, messages: int) -> bool:
        """Return True if it has handled so many messages of this kind."""
        ...


def main() -> None:
    """Measure, and print a table."""
    options = _options()
    with TemporaryDirectory() as folder:
        print_report(run(Path(folder), options), options)


def print_report(report: Report, options: argparse.Namespace) -> None:
    """Print the best figures of each server, and the limits."""
    print_line(
        f"{machine()}; best of {options.rounds} rounds, {options.waiting:,} waiting creations, then as"
    )
    print_line(f"many interruptions; {options.lone} lone messages of each kind")
    for line in report.skipped:
        print_line(f"left out: {line}")
    print_line(f"{'CPU µs per event':20}{'in bulk':>10}{'lone':>10}{'events/s':>12}{'MiB at most':>14}")
    best = {name: _best(rounds) for name, rounds in report.figures.items()}
    for name, figures in best.items():
        print_line(
            f"{name:20}{figures.bulk_us:10.0f}{figures.lone_us:10.0f}"
            f"{figures.events_per_second:12,.0f}{figures.peak_mib:14.0f}"
        )
    pull, push = best[_PULL], best[_PUSH]
    bulk, lone = pull.bulk_us / push.bulk_us, pull.lone_us / push.lone_us
    print_line(
        f"a pulled event's processor time by a push's, in bulk: {bulk:.2f} {at_most(bulk, _BULK_OF_PUSH)}"
    )
    print_line(f"the same of lone messages: {lone:.2f} {at_most(lone, _LONE_OF_PUSH)}")
    print_line(f"MiB: {pull.peak_mib:.0f} {at_most(pull.peak_mib, _MIB)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The cost of pulled messages.")
    parser.add_argument("--waiting", type=int, default=20_000, help="messages of each kind, in bulk")
    parser.add_argument("--lone", type=int, default=500, help="messages of each kind, one at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--original", default=REPOSITORY, help="the repository of the original, or a clone")
    return parser.parse_args()


def run(directory: Path, options: argparse.Namespace) -> Report:
    """Let the servers take turns."""
    program, reason = build_original(directory, options.original)
    names = [_PULL, _PUSH, _LIBRARY, *([_ORIGINAL] if program is not None else [])]
    figures: dict[str, list[Figures]] = {name: [] for name in names}
    with ExitStack() as stack:
        pubsub = stack.enter_context(PubSubEmulator(directory))
        compute = stack.enter_context(EmptyComputeApi(directory))
        update = stack.enter_context(progress("servers measured", options.rounds * len(names)))
        for number in range(options.rounds):
            for name in names:
                turn = _Turn(pubsub, directory / f"{name.replace(' ', '-')}-{number}")
                with _running(name, turn, program, compute) as server:
                    figures[name].append(turn.measure(server, options))
                update(sum(map(len, figures.values())))
    return Report(figures, [] if program is not None else [f"{_ORIGINAL}: {reason}"])


class _Turn:
    """Topics and subscriptions of a server's own, and their messages."""

    def __init__(self, pubsub: PubSubEmulator, directory: Path) -> None:
        directory.mkdir()
        self.pubsub = pubsub
        self.directory = directory
        self._serial = 0
        self._published: dict[Kind, int] = dict.fromkeys(_KINDS, 0)
        for kind in _KINDS:
            pubsub.create_topic(self.name(kind))

    def name(self, kind: Kind) -> str:
        """Return the name of the topic, and of its subscription."""
        return f"{kind}-{self.directory.name}"

    def settings(self) -> dict[str, str]:
        """Return the settings with the names of the subscriptions."""
        return {f"instance_{kind}_subscription_name": self.name(kind) for kind in _KINDS}

    def measure(self, server: _Server, options: argparse.Namespace) -> Figures:
        self._bulk(server, _WARM_UP)
        used, seconds = self._bulk(server, options.waiting)
        lone = self._lone(server, options.lone)
        events = len(_KINDS) * options.waiting
        return Figures(
            used / events * 1e6,
            options.waiting / seconds,
            lone / (len(_KINDS) * options.lone) * 1e6,
            peak_rss_mib(server.pid),
        )

    def _bulk(self, server: _Server, messages: int) -> tuple[float, float]:
        """Return the processor time, and the duration of the interruptions, in seconds."""
        used = seconds = 0.0
        first = self._serial
        for kind in _KINDS:
            os.kill(server.pid, signal.SIGSTOP)
            self._publish(kind, first, messages)
            before, began = cpu_seconds(server.pid), time.perf_counter()
            os.kill(server.pid, signal.SIGCONT)
            self._wait(server, kind)
            used += cpu_seconds(server.pid) - before
            seconds = time.perf_counter() - began
        return used, seconds

    def _lone(self, server: _Server, messages: int) -> float:
        """Return the processor time in seconds."""
        used = 0.0
        first = self._serial
        for kind in _KINDS:
            before = cpu_seconds(server.pid)
            for number in range(messages):
                self._publish(kind, first + number, 1)
                time.sleep(_LONE_PAUSE_SECONDS)  # so that it is alone
            used += cpu_seconds(server.pid) - before
            self._wait(server, kind)
        return used

    def _publish(self, kind: Kind, first: int, messages: int) -> None:
        numbers = range(first, first + messages)
        entries = [entry_of(Delivery(kind, number, number, time.time())) for number in numbers]
        self.pubsub.publish_all(self.name(kind), entries)
        self._published[kind] += messages
        self._serial = max(self._serial, first + messages)

    def _wait(self, server: _Server, kind: Kind) -> None:
        def has_handled_all() -> bool:
            time.sleep(_POLL_SECONDS)  # asking costs the server processor time
            return server.has_handled(kind, self._published[kind])

        eventually(has_handled_all, within=_WITHIN_SECONDS, what=f"each {kind} is handled")


@contextmanager
def _running(name: str, turn: _Turn, program: Path | None, compute: EmptyComputeApi) -> Iterator[_Server]:
    if name == _ORIGINAL and program is not None:
        _create_pull_subscriptions(turn)
        original = _Original(turn, program, compute)
        with original.process:
            yield original
        return
    if name == _LIBRARY:
        _create_pull_subscriptions(turn)
        library = _LibraryAlone(turn)
        with library.process:
            yield library
        return
    delivery = {"delivery": "pull", "authentication": "oidc"} if name == _PULL else {}
    exporter = ExporterProcess(
        turn.directory,
        env=emulator_environment(turn.pubsub),
        pubsub={**_whole(turn), **delivery},
    )
    if name == _PULL:
        _create_pull_subscriptions(turn)
    with exporter:
        if name == _PUSH:
            for kind in _KINDS:
                turn.pubsub.create_push_subscription(
                    turn.name(kind), turn.name(kind), f"{exporter.url}/events/{kind}"
                )
        yield _Exporter(exporter)


def _create_pull_subscriptions(turn: _Turn) -> None:
    for kind in _KINDS:
        turn.pubsub.create_pull_subscription(turn.name(kind), turn.name(kind))


def _whole(turn: _Turn) -> dict[str, str]:
    return {
        key: f"projects/{turn.pubsub.project}/subscriptions/{name}" for key, name in turn.settings().items()
    }


class _Exporter:
    def __init__(self, exporter: ExporterProcess) -> None:
        self._exporter = exporter

    @property
    def pid(self) -> int:
        return self._exporter.process.pid

    def has_handled(self, kind: Kind, messages: int) -> bool:
        text = self._exporter.client.get(f"http://{self._exporter.metrics_address}/metrics").text
        return sum(float(value) for value in re.findall(_ANSWERED.format(kind), text)) >= messages


class _LibraryAlone:
    """The client library's subscriber. It counts messages, which may come more than once."""

    def __init__(self, turn: _Turn) -> None:
        port = free_port()
        self._names = dict(zip(_KINDS, _whole(turn).values(), strict=True))
        self._url = f"http://{LOOPBACK}:{port}/"
        self.process = Process(
            [sys.executable, "-m", "tests.bench.library_alone", str(port), *self._names.values()],
            output=turn.directory / "library-alone.log",
            ready=answers(self._url),
            env=emulator_environment(turn.pubsub),
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def has_handled(self, kind: Kind, messages: int) -> bool:
        counts: dict[str, int] = httpx.get(self._url, trust_env=False).json()
        return counts.get(self._names[kind], 0) >= messages


class _Original:
    """The original exporter. It has a metric for interruptions; after creations it becomes idle."""

    def __init__(self, turn: _Turn, program: Path, compute: EmptyComputeApi) -> None:
        port = free_port()
        lines = [
            f"project_name: {turn.pubsub.project}",
            "pubsub:",
            *(f"  {key}: {name}" for key, name in turn.settings().items()),
            f"prometheus: {{port: {port}, path: /metrics}}",
        ]
        self._metrics = f"http://{LOOPBACK}:{port}/metrics"
        config = turn.directory / "config.yaml"
        config.write_text("\n".join(lines))
        self.process = Process(
            [program],
            output=turn.directory / "original.log",
            ready=answers(self._metrics),
            env={**compute.environment, **emulator_environment(turn.pubsub), "CONFIG_PATH": str(config)},
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def has_handled(self, kind: Kind, messages: int) -> bool:
        if kind == "creation":
            before = cpu_seconds(self.pid)
            time.sleep(_IDLE_SECONDS)
            return cpu_seconds(self.pid) - before < 0.01 * _IDLE_SECONDS
        text = httpx.get(self._metrics, trust_env=False).text
        return sum(float(value) for value in _COUNTED.findall(text)) >= messages


def _best(rounds: Sequence[Figures]) -> Figures:
    """Return the lowest times, the highest rate, and the largest memory."""
    bulk, rates, lone, peaks = zip(*rounds, strict=True)
    return Figures(min(bulk), max(rates), min(lone), max(peaks))


if __name__ == "__main__":
    main()
