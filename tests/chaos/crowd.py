"""Callers who keep connections and give little: a byte a second, or nothing at all."""

import asyncio
import resource
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.chaos.harm import Size, demand
from tests.chaos.load import port_of
from tests.chaos.normal import CLUSTER, PER_SECOND, Normal, percentiles
from tests.fuzz.report import resident_mib
from tests.support.process import LOOPBACK, eventually
from tests.support.program import Exporter, open_door

_AT_ONCE: Final = 200
_HEAD: Final = b"POST /events/creation HTTP/1.1\r\nhost: slow\r\nauthorization: Bearer %s\r\n"
_LOOK: Final = b"GET /healthz HTTP/1.1\r\nhost: idle\r\n\r\n"
_FILES_BESIDE: Final = 1_000


def crowd(directory: Path, size: Size, seed: int) -> str:
    """Slow clients and idle connections beside normal traffic, which goes on."""
    idle = _files_for(size.slow + size.idle) - size.slow
    with open_door() as door, Exporter(directory, door) as exporter:
        normal = Normal(port_of(exporter), door.token, seed)
        people = _Crowd(port_of(exporter), slow=size.slow, idle=idle, token=door.token)
        resident = [resident_mib(exporter.process.pid)]

        async def compared() -> tuple[list[float], list[float]]:
            alone = await normal.latencies(size.seconds)
            async with people.present():
                beside = await normal.latencies(size.seconds)
                resident.append(resident_mib(exporter.process.pid))
            return alone, beside

        alone, beside = asyncio.run(compared())
        eventually(lambda: exporter.status("/healthz") == 200, within=5, what="it is healthy")
        again = asyncio.run(normal.latencies(size.seconds / 4))
        resident.append(resident_mib(exporter.process.pid))
        demand(not normal.failed, f"{len(normal.failed)} normal pushes failed: {set(normal.failed)}")
        demand(not people.left, f"{people.left} idle connections were ended")
        demand(people.ended.keys() <= {"408"}, f"slow ones were answered {dict(people.ended)}")
        created = sum(
            value
            for (name, labels), value in exporter.samples().items()
            if name == "spot_instances_created_total" and ("kubernetes_cluster", CLUSTER) in labels
        )
        demand(created == normal.pushed, f"{created:g} of {normal.pushed} creations are counted")
        return (
            f"{size.slow} slow, {idle} idle; {PER_SECOND} pushes/s p50/p99 in ms:"
            f" alone {percentiles(alone)}, beside {percentiles(beside)}, afterwards {percentiles(again)};"
            f" resident {', then '.join(f'{mib:.0f}' for mib in resident)} MiB;"
            f" slow ones were answered {dict(people.ended)}; {created:g} creations, exact"
        )


def _files_for(connections: int) -> int:
    """How many of these many connections fit into a process; raises the limit as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _FILES_BESIDE
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    return min(connections, max(soft, wanted) - _FILES_BESIDE)


class _Crowd:
    """So many slow callers and idle connections, for the time of an `async with` block."""

    def __init__(self, port: int, *, slow: int, idle: int, token: str) -> None:
        self.ended: Counter[str] = Counter()
        """What slow callers were answered in the end; they come again."""
        self.left = 0
        """Idle connections that the exporter has ended."""
        self._missing = slow + idle
        self._complete = asyncio.Event()
        self._port = port
        self._slow = slow
        self._idle = idle
        self._token = token.encode()
        self._gate = asyncio.Semaphore(_AT_ONCE)

    @asynccontextmanager
    async def present(self) -> AsyncIterator[None]:
        """All of them, from when all are connected."""
        everybody = [
            *(asyncio.create_task(self._be_slow(in_head=number % 2 == 0)) for number in range(self._slow)),
            *(asyncio.create_task(self._be_idle(fresh=number % 2 == 0)) for number in range(self._idle)),
        ]
        try:
            async with asyncio.timeout(120):
                await self._complete.wait()
            yield
        finally:
            for one in everybody:
                one.cancel()
            await asyncio.gather(*everybody, return_exceptions=True)

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with self._gate:
            return await asyncio.open_connection(LOOPBACK, self._port)

    def _arrived(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._complete.set()

    async def _be_idle(self, *, fresh: bool) -> None:
        """Nothing after a request, as a balancer keeps connections; or nothing at all."""
        reader, writer = await self._connection()
        try:
            if not fresh:
                writer.write(_LOOK)
                await reader.readuntil(b"}")  # the answer's end
            self._arrived()
            await reader.read()
            self.left += 1
        finally:
            writer.transport.abort()

    async def _be_slow(self, *, in_head: bool) -> None:
        """A byte a second of the head, which never ends, or of a body that is announced as longer."""
        first = True
        while True:
            reader, writer = await self._connection()
            if first:
                self._arrived()
            first = False
            head = _HEAD % self._token
            writer.write(head + b"x-slow: " if in_head else head + b"content-length: 500\r\n\r\n")
            answered = asyncio.create_task(reader.readline())
            try:
                while not answered.done():
                    writer.write(b"a")
                    await asyncio.wait([answered], timeout=1)
                self.ended[_status(answered)] += 1
            finally:
                answered.cancel()
                writer.transport.abort()


def _status(answered: asyncio.Task[bytes]) -> str:
    if answered.exception() is not None:
        return type(answered.exception()).__name__
    return (answered.result().split() or [b"", b"closed"])[1].decode()
