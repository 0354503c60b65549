"""The cost of pushes that come one at a time, beside another build and a bare server, in turns.

`python -m tests.bench.lone [--beside PATH] [--pushes 2000] [--rounds 3] [--emulator 10000]`. PATH is a
checkout of another version with its `.venv`. The bare server is `tests/bench/limit_app.py`, which reads the
body and answers 200. `--emulator` lets the Pub/Sub emulator push as many creations and as many interruptions.
The processor time is that of the server alone. `--trace` counts the system calls of a row with strace.
"""

import argparse
import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import httpx
import uvloop

from tests.bench.cpus import LOAD_CPU, SERVER_CPUS, run_on
from tests.bench.deliveries import Delivery, body_of
from tests.bench.report import machine, progress
from tests.support.emulator import PubSubEmulator
from tests.support.entries import insert, preempted
from tests.support.measure import cpu_seconds, rss_mib
from tests.support.output import print_line
from tests.support.process import LOOPBACK, Process, eventually, free_port, listens
from tests.support.program import ACCOUNT, AUDIENCE, PushCredentials, issued_credentials

_INSTANCES: Final = 200
_WARM_UP: Final = 200
_THIS, _OTHER, _BARE = "this build", "other build", "bare"
_STORES: Final = {"file": "sqlite:///{}/store.db", "memory": "sqlite:///:memory:"}
_LENGTH: Final = re.compile(rb"content-length: (\d+)\r\n", re.IGNORECASE)


class Row(NamedTuple):
    """A way in which pushes come."""

    callers: int
    pause_seconds: float
    keeps_connection: bool
    packets: int
    store: str

    def __str__(self) -> str:
        connection = "kept" if self.keeps_connection else "new"
        return (
            f"{self.callers} caller(s), pause {self.pause_seconds * 1000:g} ms, {connection} connection,"
            f" {self.packets} packet(s), {self.store}"
        )


class Figures(NamedTuple):
    """The figures of one server in one round, per push."""

    cpu_us: float
    rss_mib: float


class Build(NamedTuple):
    """A server that takes part."""

    name: str
    root: Path
    python: str


def main() -> None:
    """Measure, and print a table."""
    options = _options()
    builds = _builds(options.beside)
    print_line(f"{machine()}; medians of {options.rounds} rounds, {options.pushes} pushes each")
    print_line(f"{'':66}" + "".join(f"{build.name:>22}" for build in builds))
    rows = [Row(*row) for row in product((1, 2, 4), (0.0, 0.002), (True, False), (1, 2), options.stores)]
    with issued_credentials() as credentials:
        for row in rows if options.rows is None else rows[: options.rows]:
            _print_row(str(row), _measure_row(row, builds, credentials, options))
        if options.emulator:
            _print_row("emulator, file", _measure_emulator(builds, options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The cost of pushes that come one at a time.")
    parser.add_argument("--beside", type=Path, help="a checkout of another version, with its .venv")
    parser.add_argument("--pushes", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="only so many rows")
    parser.add_argument("--stores", nargs="+", choices=_STORES, default=list(_STORES))
    parser.add_argument("--emulator", type=int, default=0, help="messages per topic")
    parser.add_argument("--trace", action="store_true", help="count system calls instead of time")
    return parser.parse_args()


def _builds(beside: Path | None) -> Sequence[Build]:
    here = Path(__file__).parents[2]
    builds = [Build(_THIS, here, sys.executable), Build(_BARE, here, sys.executable)]
    if beside is not None:
        builds.insert(1, Build(_OTHER, beside, str(beside / ".venv/bin/python")))
    return builds


def _measure_row(
    row: Row, builds: Sequence[Build], credentials: PushCredentials, options: argparse.Namespace
) -> dict[str, Sequence[Figures]]:
    results: dict[str, list[Figures]] = {build.name: [] for build in builds}
    with progress(str(row), options.rounds * len(builds)) as update:
        for _ in range(options.rounds):
            for build in builds:
                with TemporaryDirectory() as folder:
                    results[build.name].append(_measure(Path(folder), row, build, credentials, options))
                update(sum(map(len, results.values())))
    return dict(results)


def _measure(
    folder: Path, row: Row, build: Build, credentials: PushCredentials, options: argparse.Namespace
) -> Figures:
    url = _STORES[row.store].format(folder)
    with (
        run_on(SERVER_CPUS),
        _server(folder, build, url, credentials) as (port, server),
        run_on(LOAD_CPU),
    ):
        run = _Run(port, row, credentials.token)
        uvloop.run(run.create_instances())
        uvloop.run(run.push_all(_WARM_UP))
        with _traced(server.pid, folder, on=options.trace) as calls:
            before = cpu_seconds(server.pid)
            uvloop.run(run.push_all(options.pushes))
            used = cpu_seconds(server.pid) - before
        if options.trace:
            print_line(f"{build.name}: {calls[0] if calls else ''}")
        return Figures(used / options.pushes * 1e6, rss_mib(server.pid))


@contextmanager
def _server(
    folder: Path, build: Build, url: str, credentials: PushCredentials | None
) -> Iterator[tuple[int, Process]]:
    port = free_port()
    arguments = ("tests.bench.limit_app", str(port)) if build.name == _BARE else ("app",)
    authentication = {"SIE_PUBSUB__AUTHENTICATION": "none"}
    if credentials is not None:
        authentication = {
            "SIE_PUBSUB__AUDIENCE": AUDIENCE,
            "SIE_PUBSUB__SERVICE_ACCOUNT_EMAIL": ACCOUNT,
            "SIE_PUBSUB__CERTS_URL": credentials.server.url,
        }
    environment = {
        "SIE_SERVER__HOST": LOOPBACK,
        "SIE_SERVER__PORT": str(port),
        "SIE_STORE__URL": url,
        "SIE_INVENTORY__ENABLED": "false",
        "PYTHONPATH": str(build.root),
        **authentication,
    }
    server = Process(
        [build.python, "-P", "-m", *arguments],  # not the build in this folder
        output=folder / "server.log",
        ready=listens(port),
        env=environment,
    )
    with server:
        yield port, server


@contextmanager
def _traced(pid: int, folder: Path, *, on: bool) -> Iterator[list[str]]:
    calls: list[str] = []
    if not on:
        yield calls
        return
    program = shutil.which("strace")
    if program is None:
        sys.exit("--trace needs strace: apt-get install strace")
    output = folder / "strace"
    tracer = subprocess.Popen([program, "-f", "-c", "-o", str(output), "-p", str(pid)])
    eventually(
        lambda: "TracerPid:\t0" not in Path(f"/proc/{pid}/status").read_text(), within=10, what="strace"
    )
    yield calls
    tracer.terminate()
    tracer.wait()
    calls.append(output.read_text())


class _Run:
    """Callers, each of which waits for the answer to its push before the next one."""

    def __init__(self, port: int, row: Row, token: str) -> None:
        self._port = port
        self._row = row
        self._token = token
        self._serial = 0

    async def create_instances(self) -> None:
        reader, writer = await asyncio.open_connection(LOOPBACK, self._port)
        for number in range(_INSTANCES):
            await self._push(Delivery("creation", number, number, time.time()), reader, writer)
        writer.close()

    async def push_all(self, pushes: int) -> None:
        share = pushes // self._row.callers
        await asyncio.gather(*(self._push_some(share) for _ in range(self._row.callers)))

    async def _push_some(self, pushes: int) -> None:
        reader = writer = None
        for _ in range(pushes):
            if reader is None or writer is None:
                reader, writer = await asyncio.open_connection(LOOPBACK, self._port)
            self._serial += 1
            delivery = Delivery(
                "interruption", self._serial % _INSTANCES, _INSTANCES + self._serial, time.time()
            )
            await self._push(delivery, reader, writer)
            if not self._row.keeps_connection:
                writer.close()
                reader = writer = None
            if self._row.pause_seconds:
                await asyncio.sleep(self._row.pause_seconds)
        if writer is not None:
            writer.close()

    async def _push(
        self, delivery: Delivery, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        data = body_of(delivery)
        head = (
            f"POST /events/{delivery.kind} HTTP/1.1\r\nHost: exporter\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self._token}\r\nContent-Length: {len(data)}\r\n\r\n"
        ).encode()
        if self._row.packets == 1:
            writer.write(head + data)
        else:
            writer.write(head)
            await asyncio.sleep(0.0001)  # so that these are two packets
            writer.write(data)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"not counted: {answer!r}")
        length = _LENGTH.search(answer)
        await reader.readexactly(int(length[1]) if length else 0)


def _measure_emulator(builds: Sequence[Build], options: argparse.Namespace) -> dict[str, Sequence[Figures]]:
    results: dict[str, list[Figures]] = {build.name: [] for build in builds}
    with progress("emulator", options.rounds * len(builds)) as update:
        for _ in range(options.rounds):
            for build in builds:
                with TemporaryDirectory() as folder:
                    results[build.name].append(_emulate(Path(folder), build, options.emulator))
                update(sum(map(len, results.values())))
    return dict(results)


def _emulate(folder: Path, build: Build, messages: int) -> Figures:
    url = _STORES["file"].format(folder)
    with PubSubEmulator(folder) as emulator, _server(folder, build, url, None) as (port, server):
        used = 0.0
        for topic, entries in (
            ("creation", (insert(f"node-{number}") for number in range(messages))),
            ("interruption", (preempted(f"node-{number}") for number in range(messages))),
        ):
            emulator.create_topic(topic)
            emulator.create_push_subscription(
                f"sie-{topic}-subscription", topic, f"http://{LOOPBACK}:{port}/events/{topic}"
            )
            before = cpu_seconds(server.pid)
            emulator.publish_all(topic, (json.dumps(entry).encode() for entry in entries))
            eventually(partial(_have_arrived, build, port, topic, messages), within=300, what=topic)
            used += cpu_seconds(server.pid) - before
        return Figures(used / messages / 2 * 1e6, rss_mib(server.pid))


def _have_arrived(build: Build, port: int, topic: str, messages: int) -> bool:
    if build.name == _BARE:
        received = int(httpx.get(f"http://{LOOPBACK}:{port}/", trust_env=False).text)
        return received >= messages * (1 if topic == "creation" else 2)
    text = httpx.get(f"http://{LOOPBACK}:{port}/metrics", trust_env=False).text
    found = re.findall(rf'_exporter_push_messages_total{{endpoint="{topic}".*}} (\S+)', text)
    return sum(map(float, found)) >= messages


def _print_row(name: str, results: dict[str, Sequence[Figures]]) -> None:
    medians = {build: median(figure.cpu_us for figure in figures) for build, figures in results.items()}
    memory = {build: median(figure.rss_mib for figure in figures) for build, figures in results.items()}
    print_line(
        f"{name:66}"
        + "".join(f"{medians[build]:10.0f} µs {memory[build]:5.0f} MiB" for build in results)
        + "".join(
            f"  {medians['this build'] / medians[other]:.2f}" for other in results if other != "this build"
        )
    )


if __name__ == "__main__":
    main()
