"""A TCP forwarder that passes HTTP exchanges on byte by byte, and notes the heads of the answers."""

import re
import socket
import threading
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Final, NamedTuple, Self

from tests.support.process import LOOPBACK

_ACCEPT: Final = re.compile(rb"(?im)^accept:[^\r]*")
_WITHIN_SECONDS: Final = 60


class AnswerHead(NamedTuple):
    """The part of an answer's head that a scraper chooses."""

    status: str
    content_type: str
    content_encoding: str


class Tap:
    """Forwards to a port of loopback during a `with` block. Its clients send one request at a time."""

    def __init__(self, port: int, *, accept: str | None = None) -> None:
        """`accept` replaces the `Accept` header of each request; None: the header stays as it is."""
        self.answers: Counter[AnswerHead] = Counter()
        self._target = (LOOPBACK, port)
        self._accept = accept
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

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
            _end(connection)

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                with suppress(OSError):
                    server = socket.create_connection(self._target)
                    self._open.append(server)
                    for work in (self._forward, self._backward):
                        threading.Thread(target=work, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while request := client.recv(1 << 16):
                if self._accept is not None:
                    request = _ACCEPT.sub(f"Accept: {self._accept}".encode(), request)
                server.sendall(request)
        _end(server)

    def _backward(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while answer := server.recv(1 << 16):
                if answer.startswith(b"HTTP/1.1 "):
                    self.answers[_head(answer)] += 1
                client.sendall(answer)
        _end(client)


def _head(answer: bytes) -> AnswerHead:
    first, *lines = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return AnswerHead(
        first.split()[1], headers.get("content-type", ""), headers.get("content-encoding", "identity")
    )


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
