"""Reads the body of a request of ASGI, within limits of size and time."""

import asyncio
from typing import Final

from starlette.types import Message, Receive

from app.errors import BodyTimeoutError, BodyTooLargeError
from app.web.push_request import BODY_SECONDS

CALLER_GONE: Final = "the caller has gone"
"""The message of a request's cancellation, if the reason is not that the server stops."""


class CallerGoneError(Exception):
    """The caller closed the connection, so there is nobody to answer."""


async def read_body(receive: Receive, limit: int, seconds: float = BODY_SECONDS) -> bytes:
    """Return the whole body. `limit` is in bytes; `seconds` is the time that the body may take.

    Raises BodyTooLargeError, by the number of bytes received, BodyTimeoutError or CallerGoneError.
    """
    body = b""
    more = True
    try:
        async with asyncio.timeout(seconds):
            while more and len(body) <= limit:
                message = await receive()
                body += _chunk(message)
                more = message.get("more_body", False)
    except TimeoutError:
        raise BodyTimeoutError(f"the body was not complete within {seconds:g} s") from None
    if len(body) > limit:
        raise BodyTooLargeError(f"the body is larger than server.max_body_bytes ({limit})")
    return body


def _chunk(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise CallerGoneError
    chunk: bytes = message.get("body", b"")
    return chunk
