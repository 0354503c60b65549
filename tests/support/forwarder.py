"""A TCP forwarder of loopback. Its subclasses look at what passes, and change or hold it."""

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from tests.support.process import LOOPBACK

WITHIN_SECONDS: Final = 60
_PIECE_BYTES: Final = 1 << 20


class Connection:
    """A client's connection, and the forwarder's own one to the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server

    def hang_up(self) -> None:
        """Close the side of the client."""
        _end(self.client)

    def close(self) -> None:
        """Close both sides."""
        _end(self.client)
        _end(self.server)


class Forwarder:
    """Forwards to a port of loopback during a `with` block."""

    def __init__(self, port: int) -> None:
        self._target = (LOOPBACK, port)
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self.accepted = 0
        """The number of connections that clients have made."""
        self._open: list[Connection] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(WITHIN_SECONDS)
        self.cut()

    def cut(self) -> None:
        """Break every connection."""
        for connection in self._open:
            connection.close()

    def redirect(self, port: int) -> None:
        """Forward new connections to another port, and break the others."""
        self._target = (LOOPBACK, port)
        self.cut()

    def on_request(self, connection: Connection, piece: bytes) -> None:
        """Forward a piece that the client has sent."""
        connection.server.sendall(piece)

    def on_answer(self, connection: Connection, piece: bytes) -> None:
        """Forward a piece that the server has sent."""
        connection.client.sendall(piece)

    def on_client_gone(self, connection: Connection) -> None:
        """Close the connection to the server."""
        connection.close()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.accepted += 1
                try:
                    server = socket.create_connection(self._target, timeout=WITHIN_SECONDS)
                except OSError:
                    client.close()
                    continue
                server.settimeout(None)
                connection = Connection(client, server)
                self._open.append(connection)
                for run in (self._forward, self._backward):
                    threading.Thread(target=run, args=(connection,), daemon=True).start()

    def _forward(self, connection: Connection) -> None:
        with suppress(OSError):
            while piece := connection.client.recv(_PIECE_BYTES):
                self.on_request(connection, piece)
        self.on_client_gone(connection)

    def _backward(self, connection: Connection) -> None:
        with suppress(OSError):
            while piece := connection.server.recv(_PIECE_BYTES):
                self.on_answer(connection, piece)
        connection.close()


def _end(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
    sock.close()
