"""Reads the body of a request, within limits of size and time."""

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from starlette.types import Message, Receive

from app.errors import BodyTimeoutError, BodyTooLargeError

BODY_SECONDS: Final = 10.0


class CallerGoneError(Exception):
    """The caller closed the connection, so there is nobody to answer."""


@dataclass(slots=True, eq=False)
class _Read:
    deadline: float
    task: asyncio.Task[Any] | None
    """None once the read has ended."""
    late: bool = False


class BodyReader:
    """Reads bodies. All share a timer, because a timer for each costs more than reading most bodies."""

    def __init__(self, limit: int, seconds: float = BODY_SECONDS) -> None:
        """`limit` is in bytes; `seconds` is the time that a body may take."""
        self._limit = limit
        self._seconds = seconds
        self._reads: deque[_Read] = deque()
        """In the order of their deadlines."""
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def read(self, receive: Receive) -> bytes:
        """Return the whole body.

        Raises BodyTooLargeError, by the number of bytes received, BodyTimeoutError or CallerGoneError.
        """
        task, read = self._start()
        try:
            message = await receive()
            body = _chunk(message)
            while len(body) <= self._limit and message.get("more_body"):
                message = await receive()
                body += _chunk(message)
        except asyncio.CancelledError:
            if not read.late or task.uncancel():
                raise
            raise BodyTimeoutError(f"the body was not complete within {self._seconds:g} s") from None
        finally:
            self._finish(read)
        return self.check_size(body)

    def check_size(self, body: bytes) -> bytes:
        """Return the body. Raises BodyTooLargeError."""
        if len(body) > self._limit:
            raise BodyTooLargeError(f"the body is larger than {self._limit} bytes")
        return body

    def _start(self) -> tuple[asyncio.Task[Any], _Read]:
        loop = self._loop = self._loop or asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None  # noqa: S101 - this runs in a task
        read = _Read(loop.time() + self._seconds, task)
        self._reads.append(read)
        if self._timer is None:
            self._timer = loop.call_at(read.deadline, self._cancel_late)
        return task, read

    def _finish(self, read: _Read) -> None:
        read.task = None
        while self._reads and self._reads[0].task is None:
            self._reads.popleft()

    def _cancel_late(self) -> None:
        """Cancel the reads whose deadline is over, and set the timer to the next deadline."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for read in self._reads:
            if read.deadline > now:
                break
            if read.task is not None and not read.late:
                read.late = True
                read.task.cancel()
        following = next((read.deadline for read in self._reads if read.deadline > now), None)
        self._timer = None if following is None else loop.call_at(following, self._cancel_late)


def _chunk(message: Message) -> bytes:
    if message["type"] == "http.disconnect":
        raise CallerGoneError
    chunk: bytes = message.get("body", b"")
    return chunk
