"""The connections of a server: a limited number, each closed if its caller lets it wait for too long."""

import asyncio
import logging
import time
from typing import Final, Protocol

DEFAULT_CONNECTIONS: Final = 2000
_CHECK_SECONDS: Final = 1.0
_WARN_SECONDS: Final = 60.0
MAX_HELD_BYTES: Final = 64 << 20
"""Data of all connections that is not handled yet, or not sent: a few large scrapes."""
LARGE_HEAD_BYTES: Final = 8192
MAX_LARGE_HEADS: Final = 100
"""Requests in progress with a large head, of which there are three copies for a time."""

_log = logging.getLogger(__name__)


class Connection(Protocol):
    """A connection, as its limits see it."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport

    @property
    def idle_since(self) -> float | None:
        """The time since when no answer has been due, by the loop's clock; None while one is."""
        ...

    def check(self, now: float) -> None:
        """Close the connection if its caller lets the server wait for too long."""
        ...


class ConnectionsLimit:
    """The connections of one server: a limited number, each closed if its caller lets it wait too long."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._connections: dict[Connection, None] = {}
        """In the order in which they were made."""
        self._idle: dict[Connection, float] = {}
        """Connections that were idle at the last sorting, the longest idle first, and since when."""
        self._held: dict[Connection, int] = {}
        """Those with data that waits, and its size, in the order in which their data began to wait."""
        self._held_bytes = 0
        self._large_heads: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._malformed = 0
        self._warned_at = float("-inf")

    def add(self, connection: Connection) -> None:
        """Add a connection. Beyond the limit, close the one that has been idle longest."""
        if len(self._connections) >= self._most:
            idlest = self._idlest()
            self.discard(idlest)
            idlest.transport.abort()
        self._connections[connection] = None
        if self._timer is None:
            self._timer = connection.loop.call_later(_CHECK_SECONDS, self._check)

    def discard(self, connection: Connection) -> None:
        """Remove a connection that has ended."""
        self._connections.pop(connection, None)
        self._idle.pop(connection, None)
        self._held_bytes -= self._held.pop(connection, 0)
        self._large_heads.discard(connection)
        if not self._connections and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def begin_head(self, connection: Connection, size: int) -> bool:
        """Begin a request. Return False if its head is large, and too many requests have a large one."""
        if size <= LARGE_HEAD_BYTES:
            return True
        if len(self._large_heads) >= MAX_LARGE_HEADS:
            return False
        self._large_heads.add(connection)
        return True

    def end_head(self, connection: Connection) -> None:
        """Note that the head of a connection's request was dropped."""
        self._large_heads.discard(connection)

    def note_held(self, connection: Connection, size: int) -> None:
        """Note the size of the data that waits on a connection, read or to be sent.

        Beyond the limit for all of them, abort the connection that has been waiting longest.
        """
        if connection not in self._connections:
            return
        self._held_bytes += size - self._held.get(connection, 0)
        if size:
            self._held[connection] = size
        else:
            self._held.pop(connection, None)
        while self._held_bytes > MAX_HELD_BYTES:
            longest = next(iter(self._held))
            self.discard(longest)
            longest.loop.call_soon(longest.transport.abort)  # later, because it may be writing now

    def note_malformed(self) -> None:
        """Count a request that is not HTTP. The log has a line a minute for all of them."""
        self._malformed += 1
        _log.debug("a request is not HTTP")
        now = time.monotonic()
        if now - self._warned_at >= _WARN_SECONDS:
            _log.warning("requests that are not HTTP were refused", extra={"requests": self._malformed})
            self._warned_at, self._malformed = now, 0

    def _idlest(self) -> Connection:
        """Return the connection that has been idle longest, or the oldest if an answer is due on each.

        Sorting 2,000 connections takes 1 ms. To cause it again, a stranger has to open 2,000 more.
        """
        for _ in range(2):
            while self._idle:
                connection = next(iter(self._idle))
                if connection.idle_since == self._idle.pop(connection):
                    return connection
            known = [(connection.idle_since, connection) for connection in self._connections]
            idle = [(since, connection) for since, connection in known if since is not None]
            self._idle = {connection: since for since, connection in sorted(idle, key=lambda item: item[0])}
        return next(iter(self._connections))

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_CHECK_SECONDS, self._check)
        for connection in list(self._connections):
            connection.check(loop.time())
