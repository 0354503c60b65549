"""A request that uvicorn handles: any but a push to an endpoint.

uvicorn's own HTTP protocol serves it and calls the ASGI application. It is handed one request as if it were a
connection, and only its public interface is used: that of an `asyncio.Protocol`, and its constructor.
"""

import asyncio
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.web.body import CALLER_GONE
from app.web.heads import chunk


@dataclass(frozen=True, slots=True)
class UvicornServer:
    """The objects that uvicorn passes to each of its protocols."""

    config: Config
    state: ServerState
    app_state: dict[str, Any]


class UvicornRequest(asyncio.Transport):
    """One request, and the transport that uvicorn's protocol writes its answer to."""

    def __init__(
        self,
        server: UvicornServer,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        *,
        is_chunked: bool,
        on_answered: Callable[[bool], None],
        on_resume: Callable[[], None],
    ) -> None:
        """`on_answered` is called once, with False if the connection has to end then.

        `on_resume` is called when `is_paused` has become False.
        """
        super().__init__()
        self.is_paused = False
        """See `Request`."""
        self._is_chunked = is_chunked
        self._transport = transport
        self._loop = loop
        self._on_answered: Callable[[bool], None] | None = on_answered
        self._on_resume = on_resume
        self._closed = False
        self._is_called = False
        self._task: asyncio.Task[Any] | None = None
        """The task of the application while it runs."""
        self._app = server.config.loaded_app
        config = copy(server.config)
        config.loaded_app = self._call_app
        self._protocol: HttpToolsProtocol | None = HttpToolsProtocol(
            config=config, server_state=server.state, app_state=server.app_state, _loop=loop
        )
        self._protocol.connection_made(self)

    def begin(self, head: bytes) -> None:
        """Give uvicorn the head of the request."""
        self._feed(head)

    def add_body(self, piece: bytes) -> None:
        """See `Request`."""
        self._feed(chunk(piece) if self._is_chunked else piece)

    def end_body(self) -> None:
        """See `Request`."""
        if self._is_chunked:
            self._feed(chunk(b""))

    def check_time(self, seconds: float) -> None:
        """See `Request`. The application has limits of its own."""

    def _feed(self, data: bytes) -> None:
        if self._protocol is not None and not self._closed:
            self._protocol.data_received(data)

    def lose_connection(self, exc: Exception | None) -> None:
        """See `Request`."""
        protocol, self._protocol, self._on_answered = self._protocol, None, None
        if protocol is not None:
            protocol.connection_lost(exc)
        if self._task is not None:
            self._task.cancel(CALLER_GONE)  # it may wait for other requests, or for certificates

    def pause_writing(self) -> None:
        """See `Request`."""
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """See `Request`."""
        if self._protocol is not None:
            self._protocol.resume_writing()

    async def _call_app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._is_called = True
        self._task = asyncio.current_task()
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if self._protocol is not None:  # the server stops
                raise
        finally:
            self._task = None
            # uvicorn completes an answer that the application has not completed.
            self._loop.call_soon(self._end)

    def _end(self) -> None:
        on_answered = self._on_answered
        closed = self._closed
        self._closed = True  # uvicorn closes its transport at the end
        self.lose_connection(None)
        if on_answered is not None:
            on_answered(not closed)

    # the interface of a transport, for uvicorn's protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write a piece of the answer."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """End the connection after the answer."""
        if not self._closed and not self._is_called:
            self._loop.call_soon(self._end)
        self._closed = True

    def is_closing(self) -> bool:
        """Return True if nothing more can be written."""
        return self._closed or self._transport.is_closing()

    def pause_reading(self) -> None:
        """Stop feeding uvicorn."""
        self.is_paused = True

    def resume_reading(self) -> None:
        """Feed uvicorn again."""
        if self.is_paused:
            self.is_paused = False
            self._loop.call_soon(self._on_resume)

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - as asyncio has it
        """Return information about the connection."""
        return self._transport.get_extra_info(name, default)
