"""What a large fleet costs the serving process: memory and push latency around its listing.

`python -m tests.bench.listing [--instances 100000] [--rate 500] [--seconds 10]`; wants two cores or more.
Latency is measured from the moment at which a push was due, not from when it could be sent.
"""

import argparse
import asyncio
import json
import math
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import httpx
import uvloop

from tests.support.compute_api import ComputeApi, Hold, ManyInstances
from tests.support.entries import preempted
from tests.support.process import LOOPBACK
from tests.support.program import Door, Exporter, body_of, configuration, open_door

_PROJECT: Final = "shop-prod"
_CONNECTIONS: Final = 32
_SAMPLE_SECONDS: Final = 0.05


class Phase(NamedTuple):
    """What was seen in one phase."""

    name: str
    seconds: float
    peak_rss_mib: float
    end_rss_mib: float
    latencies_ms: Sequence[float]
    errors: int


def main() -> None:
    """Measure, and print a table."""
    options = _options()
    fleet = ManyInstances(options.instances)
    with _api(fleet) as api, TemporaryDirectory() as folder, open_door() as door:
        inventory = {"enabled": True, "endpoint": api.recv(), "interval_seconds": 86400}
        configured = configuration(Path(folder), door, inventory=inventory) | {"projects": [_PROJECT]}
        with Exporter(Path(folder), door, configured=configured) as exporter:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                phases = runner.run(_measure(exporter, fleet, door, api, options))
            time.sleep(0.2)
            _report(phases, exporter.logs())


@contextmanager
def _api(fleet: ManyInstances) -> Iterator[Connection]:
    """The Compute API in a process of its own; it tells its URL, and holds the first page until told."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_serve, args=(fleet, theirs))
    process.start()
    try:
        yield ours
    finally:
        ours.send("end")
        process.join()


def _serve(fleet: ManyInstances, orders: Connection) -> None:
    os.nice(10)
    hold = Hold()
    with ComputeApi() as api:
        api.projects[_PROJECT] = fleet
        api.fail(hold)
        orders.send(api.url)
        orders.recv()
        hold.until.set()
        orders.recv()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Memory and push latency while a fleet is listed.")
    parser.add_argument("--instances", type=int, default=100_000)
    parser.add_argument("--rate", type=int, default=500, help="pushes a second")
    parser.add_argument("--seconds", type=float, default=10, help="of the phases without a listing")
    return parser.parse_args()


async def _measure(
    exporter: Exporter, fleet: ManyInstances, door: Door, api: Connection, options: argparse.Namespace
) -> Sequence[Phase]:
    pid = exporter.process.pid
    async with httpx.AsyncClient(trust_env=False) as client:
        is_ready = _readiness(client, f"http://{exporter.metrics_address}/readyz")
        pushes = await _Pushes.opened(exporter.url, door.token, options.rate, fleet)
        await pushes.run(_during(1))  # what the first ones cost is not the question
        # The listing's first page is held until then.
        alone = await _phase("before the listing", pid, pushes, _during(options.seconds))
        began = time.monotonic()
        api.send("go on")
        listing = await _phase("while it runs", pid, pushes, _until(is_ready, began))
        after = await _phase("after it", pid, pushes, _during(options.seconds))
        pushes.close()
    return [alone, listing, after]


def _during(seconds: float) -> Callable[[], Awaitable[None]]:
    return lambda: asyncio.sleep(seconds)


def _until(is_ready: Callable[[], Awaitable[bool]], began: float) -> Callable[[], Awaitable[None]]:
    async def wait() -> None:
        told_at = began
        while not await is_ready():
            if time.monotonic() - told_at > 5:
                told_at = time.monotonic()
                _say(f"  listing for {told_at - began:.0f} s")
            await asyncio.sleep(0.1)

    return wait


def _readiness(client: httpx.AsyncClient, url: str) -> Callable[[], Awaitable[bool]]:
    async def is_ready() -> bool:
        return (await client.get(url)).status_code == 200

    return is_ready


async def _phase(name: str, pid: int, pushes: "_Pushes", last: Callable[[], Awaitable[None]]) -> Phase:
    _say(name)
    peak = 0.0

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, _rss_mib(pid))
            await asyncio.sleep(_SAMPLE_SECONDS)

    watching = asyncio.create_task(watch())
    began = time.monotonic()
    latencies, errors = await pushes.run(last)
    watching.cancel()
    return Phase(name, time.monotonic() - began, peak, _rss_mib(pid), latencies, errors)


class _Pushes:
    """Interruptions at a constant rate, each due at its time, whatever became of those before."""

    def __init__(self, rate: int, fleet: ManyInstances, head: str) -> None:
        self._rate = rate
        self._fleet = fleet
        self._head = head
        self._number = 0
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()

    @classmethod
    async def opened(cls, url: str, token: str, rate: int, fleet: ManyInstances) -> "_Pushes":
        host, port = url.removeprefix("http://").split(":")
        head = (
            f"POST /events/interruption HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        )
        pushes = cls(rate, fleet, head)
        for _ in range(_CONNECTIONS):
            pushes._free.put_nowait(await asyncio.open_connection(LOOPBACK, int(port)))
        return pushes

    def close(self) -> None:
        while not self._free.empty():
            self._free.get_nowait()[1].close()

    async def run(self, last: Callable[[], Awaitable[None]]) -> tuple[Sequence[float], int]:
        """Push until that has passed; latencies in milliseconds, and how many were not answered 200."""
        latencies: list[float] = []
        statuses: list[bool] = []
        under_way: set[asyncio.Task[None]] = set()

        async def push(body: bytes, due: float) -> None:
            reader, writer = await self._free.get()
            writer.write(f"{self._head}{len(body)}\r\n\r\n".encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answer, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
            latencies.append((time.monotonic() - due) * 1000)
            statuses.append(answer.startswith(b"HTTP/1.1 200"))
            self._free.put_nowait((reader, writer))

        async def send() -> None:
            due = time.monotonic()
            while True:
                due += 1 / self._rate
                body = self._body()
                await asyncio.sleep(max(due - time.monotonic(), 0))
                task = asyncio.create_task(push(body, due))
                under_way.add(task)
                task.add_done_callback(under_way.discard)

        sending = asyncio.create_task(send())
        await last()
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
        await asyncio.gather(*under_way)
        return latencies, statuses.count(False)

    def _body(self) -> bytes:
        """Another interruption of an instance of the fleet."""
        self._number += 1
        index = self._number * 7919 % len(self._fleet)
        entry = preempted(
            f"node-{index}",
            project=_PROJECT,
            zone=self._fleet.zone(index),
            instance_id=str(index + 1),
            operation=f"systemevent-{self._number}",
        )
        return body_of(entry)


def _rss_mib(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else 0.0


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[max(math.ceil(len(values) * share) - 1, 0)] if values else math.nan


def _report(phases: Sequence[Phase], logs: Sequence[dict[str, object]]) -> None:
    _say(f"\n{os.cpu_count()} cores, Python {sys.version.split()[0]}; milliseconds from when a push was due")
    columns = ("pushes", "errors", "p50", "p99", "p99.9", "max")
    _say(f"{'':18}{'s':>8}" + "".join(f"{column:>9}" for column in columns) + "  RSS MiB: peak, end")
    for phase in phases:
        p50, p99, p999, top = (_percentile(phase.latencies_ms, share) for share in (0.5, 0.99, 0.999, 1))
        counts = f"{phase.name:18}{phase.seconds:8.1f}{len(phase.latencies_ms):9}{phase.errors:9}"
        latencies = f"{p50:9.2f}{p99:9.2f}{p999:9.2f}{top:9.2f}"
        _say(f"{counts}{latencies}  {phase.peak_rss_mib:.1f} {phase.end_rss_mib:.1f}")
    for line in logs:
        if line["message"] in ("fleet listed", "fleet not listed"):
            _say(json.dumps(line))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
