"""Reading a request's body, within its limits of size and time."""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from starlette.types import Message, Receive

from app.errors import BodyTimeoutError, BodyTooLargeError

BODY_SECONDS: Final = 10.0


class CallerGoneError(Exception):
    """The caller closed the connection: there is nobody to answer."""


@dataclass(slots=True, eq=False)
class _Reading:
    until: float
    task: asyncio.Task[Any] | None
    """None: it has come to its end."""
    late: bool = False


class BodyReader:
    """Reads bodies. One timer serves all of them: one each costs more than reading most of them."""

    def __init__(self, limit: int, seconds: float = BODY_SECONDS) -> None:
        """`limit` in bytes; `seconds`: how long a body may take."""
        self._limit = limit
        self._seconds = seconds
        self._readings: deque[_Reading] = deque()
        """In the order in which their time is over."""
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def read(self, receive: Receive) -> bytes:
        """The whole body.

        Raises BodyTooLargeError, by the bytes that came, BodyTimeoutError or CallerGoneError.
        """
        task, reading = self._begin()
        try:
            message = await receive()
            body = _chunk(message)
            while len(body) <= self._limit and message.get("more_body"):
                message = await receive()
                body += _chunk(message)
        except asyncio.CancelledError:
            if not reading.late or task.uncancel():
                raise
            raise BodyTimeoutError(f"the body was not complete within {self._seconds:g} s") from None
        finally:
            self._end(reading)
        return self.whole(body)

    def whole(self, body: bytes) -> bytes:
        """The body, if it is not too large. Raises BodyTooLargeError."""
        if len(body) > self._limit:
            raise BodyTooLargeError(f"the body is larger than {self._limit} bytes")
        return body

    def _begin(self) -> tuple[asyncio.Task[Any], _Reading]:
        loop = self._loop = self._loop or asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None  # noqa: S101 - whoever awaits is in one
        reading = _Reading(loop.time() + self._seconds, task)
        self._readings.append(reading)
        if self._timer is None:
            self._timer = loop.call_at(reading.until, self._sweep)
        return task, reading

    def _end(self, reading: _Reading) -> None:
        reading.task = None
        while self._readings and self._readings[0].task is None:
            self._readings.popleft()

    def _sweep(self) -> None:
        """Interrupt what has taken too long, and look again when the next one's time is over."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for reading in self._readings:
            if reading.until > now:
                break
            if reading.task is not None and not reading.late:
                reading.late = True
                reading.task.cancel()
        following = next((reading.until for reading in self._readings if reading.until > now), None)
        self._timer = None if following is None else loop.call_at(following, self._sweep)


def _chunk(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise CallerGoneError
    chunk: bytes = message.get("body", b"")
    return chunk
