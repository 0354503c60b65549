"""The boundaries of requests in a stream of bytes, so that a parser gets them in pieces.

https://www.rfc-editor.org/rfc/rfc9112
"""

import re
from typing import Final

from app.web.answers import Headers

MAX_HEAD_BYTES: Final = 65_536
MAX_HEADERS: Final = 100
MAX_CHUNKS: Final = 16_384
"""Chunks of a body. They take 15 ms; 1 MiB in chunks of a byte would take 1 s."""
_BEGINS_HEAD: Final = re.compile(rb"[A-Z-]*+( [^\r\n]*(\r?\n|\r?$|$)|$)")
_END: Final = b"\r\n\r\n"
_ODD_END: Final = re.compile(rb"\n\r?\n")
_UPGRADE: Final = re.compile(rb"\n(?i:upgrade|http2-settings):[^\n]*")
_CHUNK_SIZE: Final = re.compile(rb"[0-9A-Fa-f]+")


def end_of_head(data: bytes) -> int:
    """Return the length of the head, with the empty line at its end; 0 if it is not complete.

    A head with other line ends has an end too, so that the parser refuses it at once.
    """
    end = data.find(_END)
    if end >= 0:
        return end + len(_END)
    odd_end = _ODD_END.search(data)  # alone, it would take twice the instructions
    return odd_end.end() if odd_end else 0


def may_begin_head(data: bytes) -> bool:
    """Return True if more bytes could make this a request. Anything else is refused at once."""
    return _BEGINS_HEAD.match(data) is not None


def without_upgrade(head: bytes) -> bytes:
    """Return the head without an offer to change the protocol, which is ignored."""
    return _UPGRADE.sub(b"", head)


def body_length(headers: Headers) -> int | None:
    """Return the length of the body, whose headers a parser has accepted; None if it is chunked."""
    length = 0
    for name, value in headers:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            length = int(value)
    return length


def chunk(body: bytes) -> bytes:
    """Return a piece of a chunked body; the end of the body for an empty one."""
    return b"%x\r\n%b\r\n" % (len(body), body)


class ChunkedBody:
    """Finds the end of a chunked body, so that the parser gets nothing of the next request with it.

    https://www.rfc-editor.org/rfc/rfc9112#section-7.1
    """

    def __init__(self) -> None:
        self.has_ended = False
        self._chunks = 0
        self._chunk_left = 0
        """Bytes of the present chunk that have not come yet, with the line end after it."""
        self._is_in_trailers = False
        self._trailer_bytes = 0

    def take(self, data: bytes) -> int:
        """Return the number of bytes that belong to the body, and can be parsed now.

        A line that has not ended waits. The parser refuses what is malformed.
        """
        size = 0
        while not self.has_ended and self._chunks <= MAX_CHUNKS:
            if self._chunk_left:
                piece = min(self._chunk_left, len(data) - size)
                self._chunk_left -= piece
                size += piece
            line = data[size : data.find(b"\n", size) + 1]
            if not line:
                break
            size += len(line)
            self._read_line(line)
        return size

    def is_too_large(self, waiting: int) -> bool:
        """Return True if there are too many chunks, or a line or the trailers are larger than a head may be.

        `waiting` is the number of bytes that could not be taken.
        """
        if self._chunks > MAX_CHUNKS or self._trailer_bytes > MAX_HEAD_BYTES:
            return True
        return not self.has_ended and waiting > MAX_HEAD_BYTES

    def _read_line(self, line: bytes) -> None:
        if self._is_in_trailers:
            self.has_ended = line == b"\r\n"
            self._trailer_bytes += len(line)
            return
        self._chunks += 1
        length = _CHUNK_SIZE.match(line)
        self._chunk_left = int(length[0], 16) if length else 0
        self._is_in_trailers = not self._chunk_left
        if self._chunk_left:
            self._chunk_left += len(b"\r\n")
