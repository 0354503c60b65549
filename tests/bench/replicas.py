"""Interruptions a second of one and of three replicas on Redis, beside one process on SQLite, in one run.

`python -m tests.bench.replicas [--seconds 10] [--rounds 3] [--instances 10000]`; needs wrk, nginx and Redis.
Redis and SQLite write to the same disk, and both before anything is acknowledged. What a core does is told
apart by the processor time an event takes: where all share two cores, three replicas cannot do more than one.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from tests.bench.load import write_script
from tests.bench.report import cpu_seconds, machine, progress, say
from tests.bench.throughput import Result, remember, wrk
from tests.support.nginx import Nginx
from tests.support.process import Process
from tests.support.program import Door, Exporter, open_door
from tests.support.redis import RedisServer

_SHAPES: Final[Mapping[str, tuple[str, int, bool]]] = {
    "SQLite, one process": ("sqlite", 1, False),
    "Redis, one replica": ("redis", 1, False),
    "Redis, one behind nginx": ("redis", 1, True),
    "Redis, three behind nginx": ("redis", 3, True),
}
"""The store, the replicas, and whether nginx stands before them."""


class Measured(NamedTuple):
    """What a shape has done in one round."""

    load: Result
    exporter_us: float
    """Processor time an event, of all replicas together."""
    redis_us: float


class Running(NamedTuple):
    """A shape that runs."""

    url: str
    exporters: Sequence[Process]
    redis: Sequence[Process]


def main() -> None:
    """Measure, and print a table."""
    options = _options()
    if shutil.which("wrk") is None:
        sys.exit("this benchmark needs wrk: apt-get install wrk")
    results: dict[str, list[Measured]] = {name: [] for name in _SHAPES}
    with open_door() as door, progress("of the runs", options.rounds * len(_SHAPES)) as done:
        for _ in range(options.rounds):
            for name, measured in results.items():
                with TemporaryDirectory() as folder:
                    measured.append(_measure(Path(folder), name, door, options))
                done(sum(map(len, results.values())))
    _report(results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One and three replicas on Redis, beside SQLite.")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--instances", type=int, default=10_000)
    return parser.parse_args()


def _measure(directory: Path, name: str, door: Door, options: argparse.Namespace) -> Measured:
    script = directory / "load.lua"
    write_script(script, token=door.token, instances=options.instances, first=10**9)
    with _running(directory, name, door, options.instances) as running:
        before = _cpu_seconds(running.exporters), _cpu_seconds(running.redis)
        load = wrk(running.url, script, options.seconds)
        spent = _cpu_seconds(running.exporters) - before[0], _cpu_seconds(running.redis) - before[1]
    return Measured(load, *(seconds / max(load.answered_200, 1) * 1e6 for seconds in spent))


@contextmanager
def _running(directory: Path, name: str, door: Door, instances: int) -> Iterator[Running]:
    store, count, balanced = _SHAPES[name]
    with ExitStack() as stack:
        servers = [stack.enter_context(RedisServer(directory / "redis"))] if store == "redis" else []
        url = servers[0].url if servers else f"sqlite:///{directory}/store.db"
        remember(url, instances)
        exporters = []
        for number in range(count):
            place = directory / f"replica-{number}"
            place.mkdir()
            exporter = Exporter(place, door, store={"url": url, "replica": place.name}, pubsub=_ANY)
            exporters.append(stack.enter_context(exporter))
        front = exporters[0].url
        if balanced:
            addresses = [exporter.url.removeprefix("http://") for exporter in exporters]
            front = stack.enter_context(Nginx(directory, addresses)).url
        yield Running(front, [one.process for one in exporters], [one.process for one in servers])


# The load is of the subscriptions that it names.
_ANY: Final = {"instance_creation_subscription_name": "", "instance_interruption_subscription_name": ""}


def _cpu_seconds(processes: Sequence[Process]) -> float:
    return sum(cpu_seconds(process.pid) for process in processes)


def _report(results: Mapping[str, Sequence[Measured]]) -> None:
    say(f"{machine()}; medians, and all rounds")
    for name, measured in results.items():
        loads = [one.load for one in measured]
        rounds = " ".join(f"{load.requests_a_second:.0f}" for load in loads)
        say(
            f"{name:26}{median(load.requests_a_second for load in loads):7.0f} events/s"
            f"  p50 {median(load.p50_ms for load in loads):6.2f} ms"
            f"  p99 {median(load.p99_ms for load in loads):6.2f} ms"
            f"  CPU an event: exporter {median(one.exporter_us for one in measured):4.0f} µs,"
            f" redis {median(one.redis_us for one in measured):4.0f} µs"
            f"  errors {sum(load.errors for load in loads)}  ({rounds})"
        )


if __name__ == "__main__":
    main()
