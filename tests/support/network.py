"""A path to a Redis on which a test decides after how many requests something happens.

A request is everything that a client sends between two replies. So the same requests always meet the same
trouble, however the system cuts them into packets.
"""

import select
import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

from tests.support.process import LOOPBACK

_BYTES: Final = 1 << 20
_PING: Final = b"*1\r\n$4\r\nPING\r\n"
_PONG: Final = b"+PONG\r\n"
_EXEC: Final = b"$4\r\nEXEC\r\n"

Loss: TypeAlias = Literal["request", "reply"]
LOSSES: Final[Sequence[Loss]] = ("request", "reply")


class Network:
    """Forwards to a port of loopback during a `with` block. Each connection has one request at a time."""

    def __init__(self, port: int) -> None:
        self.ended = False
        """Nothing is forwarded any more: the client's process has ended."""
        self.target = port
        """The port to which new connections go."""
        self._listener = socket.create_server((LOOPBACK, 0))
        self.url = f"redis://{LOOPBACK}:{self._listener.getsockname()[1]}/0"
        self._loss: Loss = "request"
        self._requests_to_loss: int | None = None
        self._on_loss: Callable[[], None] = lambda: None
        self._before_exec: Callable[[], None] | None = None

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def lose(self, loss: Loss, *, after: int, then: Callable[[], None] = lambda: None) -> None:
        """Break the connection instead of a request, or instead of its reply.

        `after`: the number of requests before it. `then` is called at that moment.
        """
        self._loss, self._requests_to_loss, self._on_loss = loss, after, then

    def before_exec(self, do: Callable[[], None]) -> None:
        """Call a function once, before the next transaction is executed."""
        self._before_exec = do

    def heal(self) -> None:
        """Forget the trouble that has not happened yet."""
        self._requests_to_loss = self._before_exec = None

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), closing(client):
            if self.ended:
                return
            with socket.create_connection((LOOPBACK, self.target)) as server:
                for sock in (client, server):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._forward(client, server)

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        poll, is_new = select.poll(), True
        for sock in (client, server):
            poll.register(sock, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if client.fileno() in ready:
                request = client.recv(_BYTES)
                if not request or self.ended:
                    return
                if is_new and self._is_lost():
                    if self._loss == "reply":
                        server.sendall(request + _PING)
                        _await_pong(server)
                    self._on_loss()
                    return
                is_new = False
                do = self._before_exec
                if do is not None and request.endswith(_EXEC):
                    self._before_exec = None
                    do()
                server.sendall(request)
            elif server.fileno() in ready:
                reply = server.recv(_BYTES)
                if not reply or self.ended:
                    return
                is_new = True
                client.sendall(reply)

    def _is_lost(self) -> bool:
        if self._requests_to_loss is None:
            return False
        self._requests_to_loss -= 1
        if self._requests_to_loss >= 0:
            return False
        self._requests_to_loss = None
        return True


def _await_pong(server: socket.socket) -> None:
    """Wait until everything before the PING is done."""
    reply = b""
    while not reply.endswith(_PONG):
        received = server.recv(_BYTES)
        if not received:
            return
        reply = reply[-len(_PONG) :] + received
