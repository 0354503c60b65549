"""Answers of the push endpoints, and their encoding as HTTP/1.1."""

from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Final, NamedTuple, TypeAlias

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Names, in lower case, and values."""

_CLOSE: Final = (b"connection", b"close")


class Answer(NamedTuple):
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
    close = b"connection: close\r\n" if closes and not answer.closes else b""
    return b"%b%b%bcontent-length: %d\r\n\r\n%b" % (
        _head(answer.status, answer.headers),
        _lines(tuple(default_headers)),
        close,
        len(answer.body),
        answer.body,
    )


@lru_cache(64)
def _head(status: int, headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return b"HTTP/1.1 %d %b\r\n%b" % (status, HTTPStatus(status).phrase.encode(), _lines(headers))


@lru_cache(64)
def _lines(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])
