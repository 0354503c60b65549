"""A push to an endpoint, from its head to its answer, without ASGI."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from app.errors import BodyTimeoutError, BodyTooLargeError
from app.web.answers import Answer, Headers

BODY_SECONDS: Final = 10.0
"""The time that a body may take."""


class PushHandler(Protocol):
    """The handler of an endpoint's pushes; see `app.web.push.PushEndpoint`."""

    max_body_bytes: int

    def admits(self, headers: Headers) -> bool:
        """Return True if the caller is known, so that the body can be read."""
        ...

    async def authenticate(self, headers: Headers) -> Answer | None:
        """Return None if the caller may push, else the answer that refuses it."""
        ...

    def receive(self, headers: Headers, body: bytes, respond: Callable[[Answer], None]) -> None:
        """Record the push of an authenticated caller; `respond` is called once."""
        ...

    def refuse(self, exc: BodyTimeoutError | BodyTooLargeError) -> Answer:
        """Count a push whose body cannot be read, and return its answer."""
        ...


class PushRequest:
    """A push. Its body is not read before its caller is authenticated."""

    def __init__(
        self,
        handler: PushHandler,
        headers: Headers,
        *,
        respond: Callable[[Answer], None],
        on_admitted: Callable[[], None],
    ) -> None:
        """`respond` is called once, unless the connection is lost. `on_admitted`: the body can be read."""
        self.is_paused = False
        """See `Request`."""
        self._handler = handler
        self._headers = headers
        self._respond: Callable[[Answer], None] | None = respond
        self._on_admitted = on_admitted
        self._pieces: list[bytes] = []
        self._size = 0
        self._task: asyncio.Task[None] | None = None
        """The authentication, if it takes time."""
        self._has_ended = False
        """The body, which is empty, has ended before the caller was authenticated."""

    def begin(self) -> "asyncio.Task[None] | None":
        """Authenticate the caller. Return the task that does it, if it takes time."""
        if self._handler.admits(self._headers):
            self._on_admitted()
            return None
        self.is_paused = True
        self._task = asyncio.get_running_loop().create_task(self._authenticate())
        return self._task

    async def _authenticate(self) -> None:
        refusal = await self._handler.authenticate(self._headers)
        self.is_paused = False
        if refusal is not None:
            self._answer(refusal)
        elif self._respond is not None:
            self._on_admitted()
            if self._has_ended:
                self.end_body()

    def add_body(self, piece: bytes) -> None:
        """See `Request`."""
        self._pieces.append(piece)
        self._size += len(piece)
        limit = self._handler.max_body_bytes
        if self._size > limit:
            self._pieces.clear()
            too_large = BodyTooLargeError(f"the body is larger than server.max_body_bytes ({limit})")
            self._answer(self._handler.refuse(too_large))

    def end_body(self) -> None:
        """See `Request`."""
        if self.is_paused:
            self._has_ended = True
        elif self._respond is not None:
            self._handler.receive(self._headers, b"".join(self._pieces), self._answer)

    def check_time(self, seconds: float) -> None:
        """See `Request`."""
        if seconds > BODY_SECONDS and not self.is_paused:
            late = BodyTimeoutError(f"the body was not complete within {BODY_SECONDS:g} s")
            self._answer(self._handler.refuse(late))

    def lose_connection(self, _exc: Exception | None) -> None:
        """See `Request`."""
        self._respond = None
        # Without the reference, because a cancelled task refers to this object.
        task, self._task = self._task, None
        if task is not None:
            task.cancel()  # it may wait for certificates

    def pause_writing(self) -> None:
        """See `Request`."""

    def resume_writing(self) -> None:
        """See `Request`."""

    def _answer(self, answer: Answer) -> None:
        respond, self._respond = self._respond, None
        if respond is not None:
            respond(answer)
