"""A TCP proxy before a Redis that injects faults when a transaction is executed."""

import threading
from collections.abc import Callable
from typing import Final

from tests.support.forwarder import WITHIN_SECONDS, Connection, Forwarder
from tests.support.process import LOOPBACK

_EXEC: Final = b"$4\r\nEXEC\r\n"


class _Reply:
    """The reply of the server that a client does not get."""

    def __init__(self) -> None:
        self.text = b""
        self._came = threading.Event()

    def take(self, text: bytes) -> None:
        self.text = text
        self._came.set()

    def wait(self) -> None:
        assert self._came.wait(WITHIN_SECONDS)


class Proxy(Forwarder):
    """Forwards to a Redis. Each fault is injected once, at the next EXEC."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.url = f"redis://{LOOPBACK}:{self.port}/0"
        self._fault: Callable[[Connection, bytes], None] | None = None
        self._dark = False
        self._kept: dict[Connection, _Reply] = {}
        """The replies that are kept from their clients."""
        self._late: tuple[Connection, bytes] | None = None

    def lose_reply(self, *, and_go_dark: bool = False) -> None:
        """Forward the next EXEC, and break the connection instead of its reply."""

        def fault(connection: Connection, request: bytes) -> None:
            reply = self._kept[connection] = _Reply()
            connection.server.sendall(request)
            reply.wait()
            self._dark = and_go_dark
            connection.close()

        self._fault = fault

    def lose_request(self) -> None:
        """Break the connection instead of the next EXEC."""
        self._fault = lambda connection, _: connection.close()

    def delay(self) -> None:
        """Break the connection to the client at the next EXEC, and hold the EXEC until `deliver`."""

        def fault(connection: Connection, request: bytes) -> None:
            self._kept[connection] = _Reply()
            self._late = connection, request
            connection.hang_up()

        self._fault = fault

    def deliver(self) -> bytes:
        """Send the held EXEC, and return the reply of the server."""
        assert self._late is not None
        connection, request = self._late
        connection.server.sendall(request)
        reply = self._kept[connection]
        reply.wait()
        return reply.text

    def before_exec(self, do: Callable[[], object]) -> None:
        """Call a function before the next EXEC reaches the server."""

        def fault(connection: Connection, request: bytes) -> None:
            do()
            connection.server.sendall(request)

        self._fault = fault

    def go_dark(self) -> None:
        """Accept connections, and answer nothing."""
        self._dark = True

    def light_up(self) -> None:
        """Answer new connections again."""
        self._dark = False

    def on_request(self, connection: Connection, piece: bytes) -> None:
        """Inject the fault that is due, if the piece is an EXEC."""
        if self._dark:
            return
        fault = self._fault
        if fault is not None and piece.endswith(_EXEC):
            self._fault = None
            fault(connection, piece)
        else:
            connection.server.sendall(piece)

    def on_answer(self, connection: Connection, piece: bytes) -> None:
        """Forward the piece, unless it is kept from the client."""
        if connection in self._kept:
            self._kept[connection].take(piece)
        elif not self._dark:
            connection.client.sendall(piece)

    def on_client_gone(self, connection: Connection) -> None:
        """Leave the connection to the server open if an EXEC is held for it."""
        if connection not in self._kept:
            connection.close()
