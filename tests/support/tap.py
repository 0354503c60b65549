"""A TCP forwarder that passes HTTP exchanges on byte by byte, and notes the heads of the answers."""

import re
from collections import Counter
from typing import Final, NamedTuple

from tests.support.forwarder import Connection, Forwarder

_ACCEPT: Final = re.compile(rb"(?im)^accept:[^\r]*")


class AnswerHead(NamedTuple):
    """The part of an answer's head that a scraper chooses."""

    status: str
    content_type: str
    content_encoding: str


class Tap(Forwarder):
    """Forwards HTTP. Its clients send one request at a time."""

    def __init__(self, port: int, *, accept: str | None = None) -> None:
        """`accept` replaces the `Accept` header of each request; None: the header stays as it is."""
        super().__init__(port)
        self.answers: Counter[AnswerHead] = Counter()
        self._accept = accept

    def on_request(self, connection: Connection, piece: bytes) -> None:
        """Forward a request, with the `Accept` header of this tap."""
        if self._accept is not None:
            piece = _ACCEPT.sub(f"Accept: {self._accept}".encode(), piece)
        connection.server.sendall(piece)

    def on_answer(self, connection: Connection, piece: bytes) -> None:
        """Forward a piece of an answer, and note the head of an answer."""
        if piece.startswith(b"HTTP/1.1 "):
            self.answers[_head(piece)] += 1
        connection.client.sendall(piece)


def _head(answer: bytes) -> AnswerHead:
    first, *lines = answer.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return AnswerHead(
        first.split()[1], headers.get("content-type", ""), headers.get("content-encoding", "identity")
    )
