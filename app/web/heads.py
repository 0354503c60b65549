"""The boundaries of requests in a stream of bytes, so that a parser gets them in pieces.

https://www.rfc-editor.org/rfc/rfc9112
"""

import re
from typing import Final

from app.web.answers import Headers

MAX_HEAD_BYTES: Final = 65_536
MAX_HEADERS: Final = 100
_BEGINS_HEAD: Final = re.compile(rb"(\r?\n)*[A-Z]*([A-Z] [^\r\n]*(\r?\n|\r?$|$)|$)")
_EMPTY_LINE: Final = re.compile(rb"\n\r?\n")
_UPGRADE: Final = re.compile(rb"\n(?i:upgrade|http2-settings):[^\n]*")


def end_of_head(data: bytes) -> int:
    """Return the length of the head, with the empty line at its end; 0 if it is not complete.

    A carriage return before a line feed may be missing.
    """
    end = _EMPTY_LINE.search(data)
    return end.end() if end else 0


def may_begin_head(data: bytes) -> bool:
    """Return True if more bytes could make this a request. Anything else is refused at once."""
    return _BEGINS_HEAD.match(data) is not None


def without_upgrade(head: bytes) -> bytes:
    """Return the head without an offer to change the protocol, which is passed over."""
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
