"""Requests a second of the finished endpoint, beside its limit and the plain way, in one run.

`python -m tests.bench.throughput [--seconds 10] [--rounds 3] [--instances 100000] [--connections 32 128]`;
needs wrk, and two cores. The limit is a bare uvicorn application (`tests/bench/bare.py`), the plain way what
one writes first (`tests/bench/plain.py`). Both that and the exporter must have counted what was answered 200.
"""

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import httpx

from app.domain.attribution import Rules
from app.domain.events import InstanceCreated, InstanceName, Node
from app.store import open_store
from tests.bench import plain
from tests.bench.load import PROJECT, ZONE, name_of, write_script
from tests.bench.report import at_least, cpu_seconds, machine, progress, say
from tests.support.process import LOOPBACK, Process, free_port, listens
from tests.support.program import ACCOUNT, AUDIENCE, Door, open_door

_NODE: Final = Node("shop", "europe-west1", "spot-pool", "n2-standard-8")
_LIMIT, _PLAIN, _EXPORTER = "limit", "plain", "exporter"
_OF_THE_LIMIT: Final = 0.35
_TIMES_PLAIN: Final = 8


class Result(NamedTuple):
    """What wrk has seen."""

    requests_a_second: float
    answered_200: int
    errors: int
    p50_ms: float
    p99_ms: float


class Measured(NamedTuple):
    """What a shape has done in one round."""

    load: Result
    cpu_us: float
    """Processor time a request, of the server alone."""
    counted: int | None
    """How many interruptions more it shows than before; None of the limit, which counts nothing."""


def main() -> None:
    """Measure, and print a table."""
    options = _options()
    if shutil.which("wrk") is None:
        sys.exit("this benchmark needs wrk: apt-get install wrk")
    for connections in options.connections:
        one = argparse.Namespace(**{**vars(options), "connections": connections})
        with TemporaryDirectory() as folder:
            _report(run(Path(folder), one), one)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Requests a second, beside the limit and the plain way.")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--instances", type=int, default=100_000)
    parser.add_argument("--connections", type=int, nargs="+", default=[32, 128])
    return parser.parse_args()


def run(directory: Path, options: argparse.Namespace) -> Mapping[str, Sequence[Measured]]:
    """What every shape has done in every round; the rounds of the shapes take turns."""
    results: dict[str, list[Measured]] = {name: [] for name in (_LIMIT, _PLAIN, _EXPORTER)}
    remember(f"sqlite:///{directory}/store.db", options.instances)
    plain.remember(directory / "plain.db", options.instances, plain.Node(*_NODE))
    with open_door() as door, progress("of the runs", options.rounds * len(results)) as done:
        for number in range(1, options.rounds + 1):
            script = directory / "load.lua"
            write_script(script, token=door.token, instances=options.instances, first=number * 10**9)
            for name, measured in results.items():
                measured.append(_measure(name, directory, door, script, options))
                done(sum(map(len, results.values())))
    return results


def remember(url: str, instances: int) -> None:
    """Have the store at the URL know so many living instances."""
    store = open_store(url, Rules()).store
    now = time.time()
    for start in range(0, instances, 500):
        numbers = range(start, min(start + 500, instances))
        store.apply([_created(number, now) for number in numbers], now)
    store.close()


def _created(number: int, now: float) -> InstanceCreated:
    name = InstanceName(PROJECT, ZONE, name_of(number))
    return InstanceCreated(f"created {number}", now, name, f"{number:06d}", f"op-{number}", _NODE, spot=True)


def _measure(shape: str, directory: Path, door: Door, script: Path, options: argparse.Namespace) -> Measured:
    with _served(shape, directory, door) as (url, server):
        counted = None if shape == _LIMIT else _counted(url)
        before = cpu_seconds(server.pid)
        load = wrk(url, script, options.seconds, options.connections)
        spent = cpu_seconds(server.pid) - before
        if counted is not None:
            counted = _counted(url) - counted
    return Measured(load, spent / max(load.answered_200, 1) * 1e6, counted)


@contextmanager
def _served(shape: str, directory: Path, door: Door) -> Iterator[tuple[str, Process]]:
    port = free_port()
    commands = {
        _LIMIT: ("tests.bench.bare", str(port)),
        _PLAIN: ("tests.bench.plain", str(port), f"{directory}/plain.db", door.server.url),
        _EXPORTER: ("app",),
    }
    environment = {
        "SIE_SERVER__HOST": LOOPBACK,
        "SIE_SERVER__PORT": str(port),
        "SIE_STORE__URL": f"sqlite:///{directory}/store.db",
        "SIE_PUBSUB__AUDIENCE": AUDIENCE,
        "SIE_PUBSUB__SERVICE_ACCOUNT_EMAIL": ACCOUNT,
        "SIE_PUBSUB__CERTS_URL": door.server.url,
    }
    server = Process(
        [sys.executable, "-m", *commands[shape]],
        output=directory / f"{port}.log",
        ready=listens(port),
        env=environment if shape == _EXPORTER else {},
    )
    with server:
        yield f"http://{LOOPBACK}:{port}", server


def wrk(url: str, script: Path, seconds: int, connections: int = 32) -> Result:
    """What wrk sees when it runs the script against the URL."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    requests, answered_200, errors, p50, p99 = line.split()[1:]
    return Result(float(requests), int(answered_200), int(errors), float(p50), float(p99))


def _counted(url: str) -> int:
    exposition = httpx.get(f"{url}/metrics", trust_env=False).text
    series = f'interruption_events_total{{kubernetes_cluster="{_NODE.cluster}"}} '
    lines = [line for line in exposition.splitlines() if line.startswith(series)]
    return int(float(lines[0].split()[1])) if lines else 0


def wrong(results: Mapping[str, Sequence[Measured]], connections: int) -> Sequence[str]:
    """Where a count is not what was answered 200.

    It may be larger, by what was under way on each connection when wrk went away.
    """
    return [
        f"{shape}, round {number}: counted {one.counted}, answered 200 {one.load.answered_200}"
        for shape, measured in results.items()
        for number, one in enumerate(measured, 1)
        if one.counted is not None and not 0 <= one.counted - one.load.answered_200 <= connections
    ]


def _report(results: Mapping[str, Sequence[Measured]], options: argparse.Namespace) -> None:
    rates = {
        shape: median(one.load.requests_a_second for one in measured) for shape, measured in results.items()
    }
    say(
        f"{machine()}; {options.connections} connections, {options.instances} instances;"
        f" medians of {options.rounds} x {options.seconds} s, and all rounds"
    )
    say(f"{'':10}requests/s  of limit  times plain   p50 ms   p99 ms   CPU µs  errors  rounds")
    for shape, measured in results.items():
        loads = [one.load for one in measured]
        say(
            f"{shape:10}{rates[shape]:10.0f}"
            f"{rates[shape] / rates[_LIMIT]:10.2f}{rates[shape] / rates[_PLAIN]:13.1f}"
            f"{median(load.p50_ms for load in loads):9.2f}{median(load.p99_ms for load in loads):9.2f}"
            f"{median(one.cpu_us for one in measured):9.0f}{sum(load.errors for load in loads):8}"
            f"  {' '.join(f'{load.requests_a_second:.0f}' for load in loads)}"
        )
    of_limit, times_plain = rates[_EXPORTER] / rates[_LIMIT], rates[_EXPORTER] / rates[_PLAIN]
    say(
        f"exporter: {of_limit:.2f} of the limit {at_least(of_limit, _OF_THE_LIMIT)},"
        f" {times_plain:.1f} times the plain way {at_least(times_plain, _TIMES_PLAIN)}"
    )
    say("; ".join(wrong(results, options.connections)) or "all that was answered 200 was counted, once")


if __name__ == "__main__":
    main()
