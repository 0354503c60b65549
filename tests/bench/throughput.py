"""Requests per second of the exporter, compared in one run with a limit and with a plain implementation.

`python -m tests.bench.throughput [--seconds 10] [--rounds 3] [--instances 100000] [--connections 32 128]`;
needs wrk, which has a core for itself, and a second core. The limit is an application that only answers
(`tests/bench/limit_app.py`); the plain way is a first version of the service (`tests/bench/plain_app.py`).
The exporter and the plain way must have counted every request that they answered with 200.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import httpx

from tests.bench import plain_app
from tests.bench.cpus import LOAD_CPU, SERVER_CPUS, run_on
from tests.bench.prefilled_store import NODE, create_instances
from tests.bench.report import at_least, machine, progress
from tests.bench.wrk import WrkResult, exit_without_wrk, run_wrk, write_script
from tests.support.measure import cpu_seconds
from tests.support.output import print_line
from tests.support.process import LOOPBACK, Process, free_port, listens
from tests.support.program import ACCOUNT, AUDIENCE, PushCredentials, issued_credentials

_LIMIT, _PLAIN, _EXPORTER = "limit", "plain", "exporter"
_MIN_SHARE_OF_LIMIT: Final = 0.35
_MIN_TIMES_PLAIN: Final = 8


class Round(NamedTuple):
    """The figures of one server in one round."""

    load: WrkResult
    cpu_us: float
    """Processor time per request, of the server alone."""
    counted: int | None
    """The increase of the interruptions that the server exposes; None for the limit, which counts nothing."""


def main() -> None:
    """Measure, and print a table."""
    options = _options()
    exit_without_wrk()
    for connections in options.connections:
        run_options = argparse.Namespace(**{**vars(options), "connections": connections})
        with TemporaryDirectory() as folder:
            _print_report(run(Path(folder), run_options), run_options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Requests per second, compared with the limit and the plain way."
    )
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--instances", type=int, default=100_000)
    parser.add_argument("--connections", type=int, nargs="+", default=[32, 128])
    return parser.parse_args()


def run(directory: Path, options: argparse.Namespace) -> Mapping[str, Sequence[Round]]:
    """Measure every server in every round. The servers take turns within a round."""
    results: dict[str, list[Round]] = {name: [] for name in (_LIMIT, _PLAIN, _EXPORTER)}
    create_instances(f"sqlite:///{directory}/store.db", options.instances)
    plain_app.create_database(directory / "plain.db", options.instances, plain_app.Node(*NODE))
    with (
        issued_credentials() as credentials,
        progress("of the runs", options.rounds * len(results)) as update,
    ):
        for number in range(1, options.rounds + 1):
            script = directory / "load.lua"
            write_script(script, token=credentials.token, instances=options.instances, first=number * 10**9)
            for name, rounds in results.items():
                rounds.append(_measure(name, directory, credentials, script, options))
                update(sum(map(len, results.values())))
    return results


def _measure(
    name: str, directory: Path, credentials: PushCredentials, script: Path, options: argparse.Namespace
) -> Round:
    with run_on(SERVER_CPUS), _server(name, directory, credentials) as (url, server):
        counted = None if name == _LIMIT else _counted(url)
        before = cpu_seconds(server.pid)
        with run_on(LOAD_CPU):
            load = run_wrk(url, script, options.seconds, options.connections)
        used = cpu_seconds(server.pid) - before
        if counted is not None:
            counted = _counted(url) - counted
    return Round(load, used / max(load.answered_200, 1) * 1e6, counted)


@contextmanager
def _server(name: str, directory: Path, credentials: PushCredentials) -> Iterator[tuple[str, Process]]:
    port = free_port()
    commands = {
        _LIMIT: ("tests.bench.limit_app", str(port)),
        _PLAIN: ("tests.bench.plain_app", str(port), f"{directory}/plain.db", credentials.server.url),
        _EXPORTER: ("app",),
    }
    environment = {
        "SIE_SERVER__HOST": LOOPBACK,
        "SIE_SERVER__PORT": str(port),
        "SIE_STORE__URL": f"sqlite:///{directory}/store.db",
        "SIE_PUBSUB__AUDIENCE": AUDIENCE,
        "SIE_PUBSUB__SERVICE_ACCOUNT_EMAIL": ACCOUNT,
        "SIE_PUBSUB__CERTS_URL": credentials.server.url,
    }
    server = Process(
        [sys.executable, "-m", *commands[name]],
        output=directory / f"{port}.log",
        ready=listens(port),
        env=environment if name == _EXPORTER else {},
    )
    with server:
        yield f"http://{LOOPBACK}:{port}", server


def _counted(url: str) -> int:
    exposition = httpx.get(f"{url}/metrics", trust_env=False).text
    series = f'interruption_events_total{{kubernetes_cluster="{NODE.cluster}"}} '
    lines = [line for line in exposition.splitlines() if line.startswith(series)]
    return int(float(lines[0].split()[1])) if lines else 0


def count_errors(results: Mapping[str, Sequence[Round]], connections: int) -> Sequence[str]:
    """Describe each round whose count differs from the number of 200 answers.

    The count may be larger by one request per connection: wrk ends without waiting for the last answers.
    """
    return [
        f"{name}, round {number}: counted {measured.counted}, answered 200 {measured.load.answered_200}"
        for name, rounds in results.items()
        for number, measured in enumerate(rounds, 1)
        if measured.counted is not None
        and not 0 <= measured.counted - measured.load.answered_200 <= connections
    ]


def _print_report(results: Mapping[str, Sequence[Round]], options: argparse.Namespace) -> None:
    rates = {
        name: median(measured.load.requests_per_second for measured in rounds)
        for name, rounds in results.items()
    }
    print_line(
        f"{machine()}; {options.connections} connections, {options.instances} instances;"
        f" medians of {options.rounds} x {options.seconds} s, and all rounds"
    )
    print_line(f"{'':10}requests/s  of limit  times plain   p50 ms   p99 ms   CPU µs  errors  rounds")
    for name, rounds in results.items():
        loads = [measured.load for measured in rounds]
        print_line(
            f"{name:10}{rates[name]:10.0f}"
            f"{rates[name] / rates[_LIMIT]:10.2f}{rates[name] / rates[_PLAIN]:13.1f}"
            f"{median(load.p50_ms for load in loads):9.2f}{median(load.p99_ms for load in loads):9.2f}"
            f"{median(measured.cpu_us for measured in rounds):9.0f}{sum(load.errors for load in loads):8}"
            f"  {' '.join(f'{load.requests_per_second:.0f}' for load in loads)}"
        )
    of_limit, times_plain = rates[_EXPORTER] / rates[_LIMIT], rates[_EXPORTER] / rates[_PLAIN]
    print_line(
        f"exporter: {of_limit:.2f} of the limit {at_least(of_limit, _MIN_SHARE_OF_LIMIT)},"
        f" {times_plain:.1f} times the plain way {at_least(times_plain, _MIN_TIMES_PLAIN)}"
    )
    print_line("; ".join(count_errors(results, options.connections)) or "every 200 answer was counted once")


if __name__ == "__main__":
    main()
