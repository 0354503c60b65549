"""Interruptions per second of one and of three replicas on Redis, compared with one process on SQLite.

`python -m tests.bench.replicas [--seconds 10] [--rounds 3] [--instances 10000]`; needs wrk, nginx and Redis.
Redis and SQLite write to the same disk, and both sync before the exporter acknowledges an event. If all
processes share two cores, three replicas cannot do more than one; compare the processor time per event then.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from tests.bench.prefilled_store import create_instances
from tests.bench.report import machine, progress
from tests.bench.wrk import ANY_SUBSCRIPTION, WrkResult, exit_without_wrk, run_wrk, write_script
from tests.support.measure import cpu_seconds
from tests.support.nginx import Nginx
from tests.support.output import print_line
from tests.support.process import Process
from tests.support.program import ExporterProcess, PushCredentials, issued_credentials
from tests.support.redis import RedisServer

_SETUPS: Final[Mapping[str, tuple[str, int, bool]]] = {
    "SQLite, one process": ("sqlite", 1, False),
    "Redis, one replica": ("redis", 1, False),
    "Redis, one behind nginx": ("redis", 1, True),
    "Redis, three behind nginx": ("redis", 3, True),
}
"""The setups by name: the store, the number of replicas, and whether nginx balances between them."""


class Round(NamedTuple):
    """The figures of one setup in one round."""

    load: WrkResult
    exporter_us: float
    """Processor time per event, of all replicas together."""
    redis_us: float


class RunningSetup(NamedTuple):
    """The processes of a setup, and the URL that takes its pushes."""

    url: str
    exporters: Sequence[Process]
    redis: Sequence[Process]


def main() -> None:
    """Measure, and print a table."""
    options = _options()
    exit_without_wrk()
    results: dict[str, list[Round]] = {name: [] for name in _SETUPS}
    with (
        issued_credentials() as credentials,
        progress("of the runs", options.rounds * len(_SETUPS)) as update,
    ):
        for _ in range(options.rounds):
            for name, rounds in results.items():
                with TemporaryDirectory() as folder:
                    rounds.append(_measure(Path(folder), name, credentials, options))
                update(sum(map(len, results.values())))
    _print_report(results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="One and three replicas on Redis, compared with SQLite.")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--instances", type=int, default=10_000)
    return parser.parse_args()


def _measure(directory: Path, name: str, credentials: PushCredentials, options: argparse.Namespace) -> Round:
    script = directory / "load.lua"
    write_script(script, token=credentials.token, instances=options.instances, first=10**9)
    with _running(directory, name, credentials, options.instances) as running:
        before = _cpu_seconds(running.exporters), _cpu_seconds(running.redis)
        load = run_wrk(running.url, script, options.seconds)
        used = _cpu_seconds(running.exporters) - before[0], _cpu_seconds(running.redis) - before[1]
    return Round(load, *(seconds / max(load.answered_200, 1) * 1e6 for seconds in used))


@contextmanager
def _running(
    directory: Path, name: str, credentials: PushCredentials, instances: int
) -> Iterator[RunningSetup]:
    store, count, balanced = _SETUPS[name]
    with ExitStack() as stack:
        servers = [stack.enter_context(RedisServer(directory / "redis"))] if store == "redis" else []
        url = servers[0].url if servers else f"sqlite:///{directory}/store.db"
        create_instances(url, instances)
        exporters = []
        for number in range(count):
            replica_directory = directory / f"replica-{number}"
            replica_directory.mkdir()
            settings = {"url": url, "replica": replica_directory.name}
            exporter = ExporterProcess(
                replica_directory, credentials, store=settings, pubsub=ANY_SUBSCRIPTION
            )
            exporters.append(stack.enter_context(exporter))
        push_url = exporters[0].url
        if balanced:
            addresses = [exporter.url.removeprefix("http://") for exporter in exporters]
            push_url = stack.enter_context(Nginx(directory, addresses)).url
        exporter_processes = [exporter.process for exporter in exporters]
        yield RunningSetup(push_url, exporter_processes, [server.process for server in servers])


def _cpu_seconds(processes: Sequence[Process]) -> float:
    return sum(cpu_seconds(process.pid) for process in processes)


def _print_report(results: Mapping[str, Sequence[Round]]) -> None:
    print_line(f"{machine()}; medians, then the rate of each round")
    for name, rounds in results.items():
        loads = [measured.load for measured in rounds]
        rates = " ".join(f"{load.requests_per_second:.0f}" for load in loads)
        print_line(
            f"{name:26}{median(load.requests_per_second for load in loads):7.0f} events/s"
            f"  p50 {median(load.p50_ms for load in loads):6.2f} ms"
            f"  p99 {median(load.p99_ms for load in loads):6.2f} ms"
            f"  CPU per event: exporter {median(measured.exporter_us for measured in rounds):4.0f} µs,"
            f" redis {median(measured.redis_us for measured in rounds):4.0f} µs"
            f"  errors {sum(load.errors for load in loads)}  ({rates})"
        )


if __name__ == "__main__":
    main()
