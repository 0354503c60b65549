"""The fault of many slow clients: connections that send one byte per second, or nothing."""

import asyncio
import resource
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.chaos.fault_check import Size, check
from tests.chaos.load import port_of
from tests.chaos.steady_traffic import CLUSTER, PUSHES_PER_SECOND, SteadyTraffic, median_and_p99
from tests.support.measure import rss_mib
from tests.support.process import LOOPBACK, eventually
from tests.support.program import ExporterProcess, issued_credentials

_CONCURRENT_CONNECTS: Final = 200
_HEAD: Final = b"POST /events/creation HTTP/1.1\r\nhost: slow\r\nauthorization: Bearer %s\r\n"
_HEALTH_REQUEST: Final = b"GET /healthz HTTP/1.1\r\nhost: idle\r\n\r\n"
_CLOSED: Final = {"closed", ConnectionResetError.__name__}
"""The exporter closes the connection of a head without an answer. The next byte is then reset."""
_OTHER_FILES: Final = 1_000
"""File descriptors of this process for everything but the crowd's connections."""


def crowd(directory: Path, size: Size, seed: int) -> str:
    """Hold slow clients and idle connections open. Steady traffic must not fail meanwhile."""
    idle = _affordable_connections(size.slow + size.idle) - size.slow
    server = {"max_connections": size.slow + idle + _OTHER_FILES}
    with (
        issued_credentials() as credentials,
        ExporterProcess(directory, credentials, server=server) as exporter,
    ):
        traffic = SteadyTraffic(port_of(exporter), credentials.token, seed)
        clients = _Crowd(port_of(exporter), slow=size.slow, idle=idle, token=credentials.token)
        rss = [rss_mib(exporter.process.pid)]

        async def measure() -> tuple[list[float], list[float]]:
            without = await traffic.latencies_ms(size.seconds)
            async with clients.connected():
                during = await traffic.latencies_ms(size.seconds)
                rss.append(rss_mib(exporter.process.pid))
            return without, during

        without, during = asyncio.run(measure())
        eventually(lambda: exporter.status("/healthz") == 200, within=5, what="it is healthy")
        after = asyncio.run(traffic.latencies_ms(size.seconds / 4))
        rss.append(rss_mib(exporter.process.pid))
        check(not traffic.failed, f"{len(traffic.failed)} steady pushes failed: {set(traffic.failed)}")
        check(not clients.closed_idle, f"the exporter closed {clients.closed_idle} idle connections")
        check(
            clients.body_ends.keys() <= {"408"}, f"incomplete bodies were answered {dict(clients.body_ends)}"
        )
        check(
            clients.head_ends.keys() <= _CLOSED, f"incomplete heads were answered {dict(clients.head_ends)}"
        )
        created = sum(
            value
            for (name, labels), value in exporter.samples().items()
            if name == "spot_instances_created_total" and ("kubernetes_cluster", CLUSTER) in labels
        )
        check(created == traffic.pushed, f"{created:g} of {traffic.pushed} creations are counted")
        return (
            f"{size.slow} slow, {idle} idle; {PUSHES_PER_SECOND} pushes/s p50/p99 in ms:"
            f" before {median_and_p99(without)}, during {median_and_p99(during)},"
            f" after {median_and_p99(after)};"
            f" resident {', then '.join(f'{mib:.0f}' for mib in rss)} MiB;"
            f" incomplete bodies {dict(clients.body_ends)}, incomplete heads {dict(clients.head_ends)};"
            f" {created:g} creations, exact"
        )


def _affordable_connections(connections: int) -> int:
    """Raise the limit of open files if needed; return how many of these connections fit.

    The exporter shares its limit between two listeners.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * (connections + _OTHER_FILES)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    return min(connections, max(soft, wanted) // 2 - _OTHER_FILES)


class _Crowd:
    """Slow clients and idle connections, open during an `async with` block."""

    def __init__(self, port: int, *, slow: int, idle: int, token: str) -> None:
        self.body_ends: Counter[str] = Counter()
        """Statuses of the answers to slow clients that have sent a head. Then they connect again."""
        self.head_ends: Counter[str] = Counter()
        """The same, of those that never end a head."""
        self.closed_idle = 0
        """Idle connections that the exporter has closed."""
        self._unconnected = slow + idle
        self._all_connected = asyncio.Event()
        self._port = port
        self._slow = slow
        self._idle = idle
        self._token = token.encode()
        self._connect_limit = asyncio.Semaphore(_CONCURRENT_CONNECTS)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Run the block while all clients are connected."""
        clients = [
            *(
                asyncio.create_task(self._send_slowly(in_head=number % 2 == 0))
                for number in range(self._slow)
            ),
            *(asyncio.create_task(self._stay_idle(fresh=number % 2 == 0)) for number in range(self._idle)),
        ]
        try:
            async with asyncio.timeout(120):
                await self._all_connected.wait()
            yield
        finally:
            for client in clients:
                client.cancel()
            await asyncio.gather(*clients, return_exceptions=True)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with self._connect_limit:
            return await asyncio.open_connection(LOOPBACK, self._port)

    def _note_connected(self) -> None:
        self._unconnected -= 1
        if not self._unconnected:
            self._all_connected.set()

    async def _stay_idle(self, *, fresh: bool) -> None:
        """Send nothing at all, or nothing after a first request, like a balancer."""
        reader, writer = await self._connect()
        try:
            if not fresh:
                writer.write(_HEALTH_REQUEST)
                await reader.readuntil(b"}")  # the answer's end
            self._note_connected()
            await reader.read()
            self.closed_idle += 1
        finally:
            writer.transport.abort()

    async def _send_slowly(self, *, in_head: bool) -> None:
        """Send one byte per second, of a head that never ends or of a body that stays incomplete."""
        first = True
        while True:
            reader, writer = await self._connect()
            if first:
                self._note_connected()
            first = False
            head = _HEAD % self._token
            writer.write(head + b"x-slow: " if in_head else head + b"content-length: 500\r\n\r\n")
            answered = asyncio.create_task(reader.readline())
            try:
                while not answered.done():
                    writer.write(b"a")
                    await asyncio.wait([answered], timeout=1)
                (self.head_ends if in_head else self.body_ends)[_status(answered)] += 1
            finally:
                answered.cancel()
                writer.transport.abort()


def _status(answered: asyncio.Task[bytes]) -> str:
    if answered.exception() is not None:
        return type(answered.exception()).__name__
    return (answered.result().split() or [b"", b"closed"])[1].decode()
