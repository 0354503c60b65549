"""Pushes at a constant rate: each push has its scheduled time, however long the earlier ones take.

It is written to cost little processor time: a few callbacks per push, no task and no HTTP library. It also
measures how late it was itself, which is a property of the machine and not of the server.
"""

import asyncio
import math
import re
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, cast

from tests.support.process import LOOPBACK

_CONNECTIONS: Final = 64
_HEAD: Final = re.compile(
    rb"HTTP/1\.1 (\d+).*?\r\ncontent-length: (\d+)\b.*?\r\n\r\n", re.DOTALL | re.IGNORECASE
)
_OUTCOME: Final = re.compile(rb'"(?:outcome|reason)": ?"(\w+)"')
_ANSWER_TIMEOUT_SECONDS: Final = 30


@dataclass(slots=True)
class PushResults:
    """The results of one run."""

    latencies_ms: list[float] = field(default_factory=list)
    """Time from the scheduled moment of each push to its answer."""
    late_ms: list[float] = field(default_factory=list)
    """Time from the scheduled moment of each push until this program sent or queued it."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """The outcomes of accepted pushes, and status and reason of the others."""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """The processor time of this program."""


class ConstantRatePushes:
    """ConstantRatePushes interruptions over connections that stay open."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._head = (
            f"POST /events/interruption HTTP/1.1\r\nhost: {LOOPBACK}\r\nauthorization: Bearer {token}\r\n"
            "content-type: application/json\r\ncontent-length: "
        ).encode()
        self._free: list[_Connection] = []
        self._queued: deque[tuple[float, bytes]] = deque()
        self._unanswered = 0
        self._all_answered = asyncio.Event()
        self._all_answered.set()
        self._results = PushResults()
        self._sent = asyncio.Event()
        """Set when the run has sent or queued a push."""

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Keep the connections open during an `async with` block."""
        loop = asyncio.get_running_loop()
        connections = []
        try:
            for _ in range(_CONNECTIONS):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self._answered), LOOPBACK, self._port
                )
                connections.append(connection)
            self._free = list(connections)
            yield
        finally:
            for connection in connections:
                connection.close()

    async def run(
        self, rate: float, bodies: Iterator[bytes], until: Callable[[], Awaitable[object]]
    ) -> PushResults:
        """Push at this rate until `until` returns, at least once; then wait until all pushes are answered."""
        self._results = results = PushResults()
        self._sent.clear()
        began, cpu = time.monotonic(), time.process_time()
        sending = asyncio.create_task(self._send(rate, bodies))
        try:
            await until()
            await self._sent.wait()
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError):
                await sending
        async with asyncio.timeout(_ANSWER_TIMEOUT_SECONDS):
            await self._all_answered.wait()
        results.seconds, results.cpu_seconds = time.monotonic() - began, time.process_time() - cpu
        return results

    async def _send(self, rate: float, bodies: Iterator[bytes]) -> None:
        due = time.monotonic()
        for body in bodies:
            due += 1 / rate
            request = b"%b%d\r\n\r\n%b" % (self._head, len(body), body)
            while (pause := due - time.monotonic()) > 0:  # noqa: ASYNC110 - only time passes
                await asyncio.sleep(math.ceil(pause * 1000) / 1000)  # uvloop's timers count milliseconds
            self._results.late_ms.append(-pause * 1000)
            self._unanswered += 1
            self._sent.set()
            self._all_answered.clear()
            if self._free:
                self._free.pop().send(due, request)
            else:
                self._queued.append((due, request))

    def _answered(self, connection: "_Connection", due: float, outcome: str) -> None:
        self._results.latencies_ms.append((time.monotonic() - due) * 1000)
        self._results.outcomes[outcome] += 1
        self._unanswered -= 1
        if not self._unanswered:
            self._all_answered.set()
        if self._queued:
            connection.send(*self._queued.popleft())
        else:
            self._free.append(connection)


class _Connection(asyncio.Protocol):
    """A connection with at most one unanswered push."""

    def __init__(self, answered: Callable[["_Connection", float, str], None]) -> None:
        self._answered = answered
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self._due: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        self._done("connection lost")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def send(self, due: float, request: bytes) -> None:
        self._due, self._received = due, b""
        if self._transport is None:
            # Not immediately: the callback sends the next queued push, which would recurse.
            asyncio.get_running_loop().call_soon(self._done, "connection lost")
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = _HEAD.match(self._received)
        if head is None or len(self._received) < head.end() + int(head[2]):
            return
        word = _OUTCOME.search(self._received, head.end())
        outcome = word[1].decode() if word else "no outcome"
        self._done(outcome if head[1] == b"200" else f"{head[1].decode()} {outcome}")

    def _done(self, outcome: str) -> None:
        due, self._due = self._due, None
        if due is not None:
            self._answered(self, due, outcome)
