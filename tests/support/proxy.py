"""A TCP proxy before a Redis that injects faults when a transaction is executed."""

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from tests.support.process import LOOPBACK

_EXEC: Final = b"$4\r\nEXEC\r\n"
_WITHIN_SECONDS: Final = 60


class Proxy:
    """Forwards to a port of loopback during a `with` block.

    Each fault is injected once, at the next EXEC.
    """

    def __init__(self, port: int) -> None:
        self._target = (LOOPBACK, port)
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"redis://{LOOPBACK}:{self.port}/0"
        self.connections = 0
        """The number of injected faults."""
        self._fault: Callable[[_Connection, bytes], None] | None = None
        self._dark = False
        self._open: list[_Connection] = []
        self._late: tuple[_Connection, bytes] | None = None
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(_WITHIN_SECONDS)
        for connection in self._open:
            connection.close()

    def lose_reply(self, *, and_go_dark: bool = False) -> None:
        """Forward the next EXEC, and break the connection instead of its reply."""

        def fault(connection: "_Connection", request: bytes) -> None:
            connection.mute = True
            connection.server.sendall(request)
            assert connection.replied.wait(_WITHIN_SECONDS)
            self._dark = and_go_dark
            connection.close()

        self._fault = fault

    def lose_request(self) -> None:
        """Break the connection instead of the next EXEC."""
        self._fault = lambda connection, _: connection.close()

    def delay(self) -> None:
        """Break the connection to the client at the next EXEC, and hold the EXEC until `deliver`."""

        def fault(connection: "_Connection", request: bytes) -> None:
            connection.mute = True
            self._late = connection, request
            connection.hang_up()

        self._fault = fault

    def deliver(self) -> bytes:
        """Send the held EXEC, and return the reply of the server."""
        assert self._late is not None
        connection, request = self._late
        connection.server.sendall(request)
        assert connection.replied.wait(_WITHIN_SECONDS)
        return connection.reply

    def before_exec(self, do: Callable[[], object]) -> None:
        """Call a function before the next EXEC reaches the server."""

        def fault(connection: "_Connection", request: bytes) -> None:
            do()
            connection.server.sendall(request)

        self._fault = fault

    def go_dark(self) -> None:
        """Accept connections, and answer nothing."""
        self._dark = True

    def light_up(self) -> None:
        """Answer new connections again."""
        self._dark = False

    def cut(self) -> None:
        """Break every connection."""
        for connection in self._open:
            connection.close()

    def redirect(self, port: int) -> None:
        """Forward new connections to another port, and break the others."""
        self._target = (LOOPBACK, port)
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                try:
                    server = socket.create_connection(self._target, timeout=_WITHIN_SECONDS)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                connection = _Connection(client, server)
                self._open.append(connection)
                for run in (self._forward, self._backward):
                    threading.Thread(target=run, args=(connection,), daemon=True).start()

    def _forward(self, connection: "_Connection") -> None:
        with suppress(OSError):
            while request := connection.client.recv(1 << 20):
                if self._dark:
                    continue
                fault = self._fault
                if fault is not None and request.endswith(_EXEC):
                    self._fault = None
                    fault(connection, request)
                else:
                    connection.server.sendall(request)

    def _backward(self, connection: "_Connection") -> None:
        with suppress(OSError):
            while reply := connection.server.recv(1 << 20):
                if connection.mute:
                    connection.reply = reply
                    connection.replied.set()
                elif not self._dark:
                    connection.client.sendall(reply)
            connection.close()


class _Connection:
    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.mute = False
        """Send nothing more to the client."""
        self.reply = b""
        self.replied = threading.Event()

    def hang_up(self) -> None:
        _end(self.client)

    def close(self) -> None:
        _end(self.client)
        _end(self.server)


def _end(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
