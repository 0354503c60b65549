"""Answers of the push endpoints, and their encoding as HTTP/1.1."""

from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Final, TypeAlias

from app.domain.events import frozen

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Names, in lower case, and values."""

_CLOSE: Final = (b"connection", b"close")


@frozen
class Answer:
    """The answer to a request."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    """Without the length of the body."""
    body: bytes

    @property
    def closes(self) -> bool:
        """True if the connection ends after it."""
        return _CLOSE in self.headers


CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


def encode(answer: Answer, default_headers: Headers, *, closes: bool) -> bytes:
    """Return the bytes of an answer. `closes`: say that the connection ends after it."""
    close = (_CLOSE,) if closes and not answer.closes else ()
    head = _head(answer.status, (*answer.headers, *default_headers, *close))
    return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(answer.body), answer.body)


@lru_cache(64)
def _head(status: int, headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    return b"HTTP/1.1 %d %b\r\n%b" % (status, HTTPStatus(status).phrase.encode(), lines)
