"""The connections of a server: at most so many, each closed when its caller owes something for too long."""

import asyncio
import logging
import time
from typing import Final, Protocol

DEFAULT_CONNECTIONS: Final = 2000
_CHECK_SECONDS: Final = 1.0
_WARN_SECONDS: Final = 60.0

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
        """Close the connection if its caller owes something for too long."""
        ...


class ConnectionsLimit:
    """The connections of one server: at most so many, each closed when its caller owes something too long."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._connections: dict[Connection, None] = {}
        """In the order in which they were made."""
        self._timer: asyncio.TimerHandle | None = None
        self._malformed = 0
        self._warned_at = float("-inf")

    def add(self, connection: Connection) -> None:
        """Add a connection. Beyond the limit, close the one that has been idle longest."""
        if len(self._connections) >= self._most:
            idle = [(one.idle_since, number, one) for number, one in enumerate(self._connections)]
            _, _, idlest = min(idle, key=lambda item: (item[0] is None, item[0] or 0.0, item[1]))
            self._connections.pop(idlest)
            idlest.transport.abort()
        self._connections[connection] = None
        if self._timer is None:
            self._timer = connection.loop.call_later(_CHECK_SECONDS, self._check)

    def discard(self, connection: Connection) -> None:
        """Remove a connection that has ended."""
        self._connections.pop(connection, None)
        if not self._connections and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def note_malformed(self) -> None:
        """Count a request that is not HTTP. The log has a line a minute for all of them."""
        self._malformed += 1
        _log.debug("a request is not HTTP")
        now = time.monotonic()
        if now - self._warned_at >= _WARN_SECONDS:
            _log.warning("requests that are not HTTP were refused", extra={"requests": self._malformed})
            self._warned_at, self._malformed = now, 0

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_CHECK_SECONDS, self._check)
        for connection in list(self._connections):
            connection.check(loop.time())
