"""Requests a second of the finished endpoint beside a bare uvicorn application, in one run.

`python -m tests.bench.throughput [--seconds 10] [--rounds 3] [--instances 100000]`; needs wrk, and two cores.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import httpx

from app.demo.issuer import Issuer, IssuerServer
from app.domain.attribution import Rules
from app.domain.events import InstanceCreated, InstanceName, Node
from app.store import open_store
from tests.bench.load import PROJECT, ZONE, name_of, write_script
from tests.support.process import LOOPBACK, Process, free_port, listens

_AUDIENCE, _ACCOUNT = "https://sie.example.com", "push@example-project.iam.gserviceaccount.com"
_NODE = Node("shop", "europe-west1", "spot-pool", "n2-standard-8")


class Result(NamedTuple):
    """What wrk has seen."""

    requests_a_second: float
    errors: int
    p50_ms: float
    p99_ms: float


def main() -> None:
    """Measure, and print a table."""
    options = _options()
    if shutil.which("wrk") is None:
        sys.exit("this benchmark needs wrk: apt-get install wrk")
    issuer = Issuer()
    with TemporaryDirectory() as folder, IssuerServer(issuer) as certificates:
        directory = Path(folder)
        script = directory / "load.lua"
        token = issuer.token(audience=_AUDIENCE, email=_ACCOUNT)
        _say(f"remembering {options.instances} instances")
        remember(f"sqlite:///{directory}/store.db", options.instances)
        results: dict[str, list[Result]] = {"bare uvicorn": [], "exporter": []}
        for number in range(1, options.rounds + 1):
            write_script(script, token=token, instances=options.instances, first=number * 10**9)
            for name, measured in results.items():
                _say(f"round {number} of {options.rounds}: {name}")
                with _served(name, directory, certificates.url) as url:
                    measured.append(wrk(url, script, options.seconds))
                    if name == "exporter":
                        _say(f"  the exporter counted {_counted(url)} interruptions in all")
    _report(results)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Requests a second beside a bare uvicorn application.")
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--instances", type=int, default=100_000)
    return parser.parse_args()


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


@contextmanager
def _served(name: str, directory: Path, certs_url: str) -> Iterator[str]:
    port = free_port()
    command, environment = (
        ([sys.executable, "-m", "tests.bench.bare", str(port)], {})
        if name == "bare uvicorn"
        else ([sys.executable, "-m", "app"], _environment(directory, port, certs_url))
    )
    with Process(command, output=directory / f"{port}.log", ready=listens(port), env=environment):
        yield f"http://{LOOPBACK}:{port}"


def _environment(directory: Path, port: int, certs_url: str) -> dict[str, str]:
    return {
        "SIE_SERVER__HOST": LOOPBACK,
        "SIE_SERVER__PORT": str(port),
        "SIE_STORE__URL": f"sqlite:///{directory}/store.db",
        "SIE_PUBSUB__AUDIENCE": _AUDIENCE,
        "SIE_PUBSUB__SERVICE_ACCOUNT_EMAIL": _ACCOUNT,
        "SIE_PUBSUB__CERTS_URL": certs_url,
    }


def wrk(url: str, script: Path, seconds: int) -> Result:
    """What wrk sees when it runs the script against the URL."""
    command = ["wrk", "-t1", "-c32", f"-d{seconds}s", "-s", str(script), url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    requests, errors, p50, p99 = line.split()[1:]
    return Result(float(requests), int(errors), float(p50), float(p99))


def _counted(url: str) -> int:
    exposition = httpx.get(f"{url}/metrics").text
    series = f'interruption_events_total{{kubernetes_cluster="{_NODE.cluster}"}} '
    return int(float(next(line for line in exposition.splitlines() if line.startswith(series)).split()[1]))


def _report(results: dict[str, list[Result]]) -> None:
    limit = median(result.requests_a_second for result in results["bare uvicorn"])
    _say(f"\n{os.cpu_count()} cores, Python {sys.version.split()[0]}; medians, and all rounds")
    for name, measured in results.items():
        requests = median(result.requests_a_second for result in measured)
        _say(
            f"{name:13} {requests:8.0f} requests/s  {requests / limit:4.2f} of the limit"
            f"  p50 {median(result.p50_ms for result in measured):6.2f} ms"
            f"  p99 {median(result.p99_ms for result in measured):6.2f} ms"
            f"  errors {sum(result.errors for result in measured)}  {_rounds(measured)}"
        )


def _rounds(measured: Sequence[Result]) -> str:
    return " ".join(f"{result.requests_a_second:.0f}" for result in measured)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
