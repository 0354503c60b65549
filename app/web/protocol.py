"""The HTTP protocol of a server: pushes go to their handlers, every other request to uvicorn.

uvicorn uses it in place of its own (`http=`). A connection has one request at a time; what comes after it
waits, unread. Both ways get a request in the same pieces (its head, then its body), so an answer does not
depend on the packets. What a stranger may cost is bounded: the size of a head, the bytes that wait, the time
for which a caller may let the server wait, the number of connections.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol, cast

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from app.web.answers import CONTINUE, Answer, encode
from app.web.connections import DEFAULT_CONNECTIONS, ConnectionsLimit
from app.web.heads import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    ChunkedBody,
    body_length,
    end_of_head,
    may_begin_head,
    without_upgrade,
)
from app.web.problems import HEAD_TOO_LARGE, NOT_HTTP
from app.web.push_request import PushHandler, PushRequest
from app.web.uvicorn_request import UvicornRequest, UvicornServer

MAX_UNREAD_BYTES: Final = 65_536
"""While a request is in progress, no more is read than this and one packet."""
HEAD_SECONDS: Final = 10.0
"""Time for a head, and for the rest of a body that was refused."""
UNDRAINED_SECONDS: Final = 30.0
"""Time for which a caller may leave its answers unread."""


class Request(Protocol):
    """A request in progress."""

    is_paused: bool
    """It cannot take more of its body now."""

    def add_body(self, piece: bytes) -> None:
        """Take the next piece of the body."""
        ...

    def end_body(self) -> None:
        """Note the end of the body."""
        ...

    def check_time(self, seconds: float) -> None:
        """Answer if the body takes too long. `seconds` is the time since the head."""
        ...

    def lose_connection(self, exc: Exception | None) -> None:
        """Note that the caller has gone."""
        ...

    def pause_writing(self) -> None:
        """Write nothing until `resume_writing`."""
        ...

    def resume_writing(self) -> None:
        """Write again."""
        ...


def protocol_for(
    handlers: Mapping[str, PushHandler],
    *,
    max_connections: int = DEFAULT_CONNECTIONS,
    is_stopping: Callable[[], bool] = lambda: False,
) -> type[asyncio.Protocol]:
    """Return the protocol of one server. `handlers` are those of pushes, by path.

    While `is_stopping` returns True, each connection is closed after its next answer.
    """
    # uvicorn only calls it, as it calls its own classes.
    return cast(
        "type[asyncio.Protocol]",
        partial(Connection, handlers, ConnectionsLimit(max_connections), is_stopping),
    )


class Connection(asyncio.Protocol):
    """A connection. httptools parses each request, in pieces, and calls the `on_` methods."""

    transport: asyncio.Transport

    def __init__(
        self,
        handlers: Mapping[str, PushHandler],
        limit: ConnectionsLimit,
        is_stopping: Callable[[], bool],
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """The arguments from `config` on are those that uvicorn passes to its own protocols."""
        self.loop = _loop or asyncio.get_running_loop()
        self._handlers = handlers
        self._limit = limit
        self._is_stopping = is_stopping
        self.server = UvicornServer(config, server_state, app_state)
        self._keep_alive_seconds = config.timeout_keep_alive
        self._parser: Any = httptools.HttpRequestParser(self)
        self._version = ""
        """The caller's version of HTTP. No caller changes it, and to get it takes 0.5 % of a push."""
        self._unread = b""
        """Data that the parser has not got yet."""
        self._is_feeding = False
        self._is_reading = True
        self._is_half_closed = False
        self._stays_open = True
        """The connection continues after the present answer."""
        self._waits_since = 0.0
        """The time, by the loop's clock, since when the server has waited for the caller: for a request, or
        for the rest of a head or of a body."""
        self._blocked_since: float | None = None
        """The time since when the caller has not read its answers, or has not let the connection end."""
        self._is_write_paused = False
        self._unsent_bytes = 0
        """Data that was to be sent when writing was paused."""
        self._held_bytes = 0
        """The size of the data that waits, as the limit knows it."""
        # the request that is being read
        self._in_head = True
        """The next byte for the parser belongs to a head."""
        self._body_left = 0
        """Bytes of the body that have not come yet, if the body is not chunked."""
        self._chunked: ChunkedBody | None = None
        """The body, if it is chunked."""
        self._is_complete = True
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        """Pieces of the body that the parser has just found."""
        # the request that is being answered
        self._is_due = False
        """An answer is due."""
        self._request: Request | None = None
        """The request in progress; None if there is none, or if it is answered."""

    # called by the event loop and by uvicorn

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        self.transport = cast("asyncio.Transport", transport)
        self._waits_since = self.loop.time()
        self._limit.add(self)
        self.server.state.connections.add(cast("Any", self))  # uvicorn only calls `shutdown`

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request in progress."""
        self._limit.discard(self)
        self.server.state.connections.discard(cast("Any", self))
        request, self._request = self._request, None
        if request is not None:
            request.lose_connection(exc)
        # Without these references the connection is freed at once, and not by the garbage collector.
        self._parser, self._unread = None, b""

    def data_received(self, data: bytes) -> None:
        """Handle what is complete, and keep the rest."""
        if self._in_head and not self._unread:
            self._waits_since = self.loop.time()
        self._unread = self._unread + data if self._unread else data
        self._feed()

    def eof_received(self) -> bool:
        """Keep the connection for the answer to a caller that sends nothing more."""
        self._is_half_closed = True
        return not self._waits_for_caller()

    def pause_writing(self) -> None:
        """Note that the caller does not read its answer."""
        self._is_write_paused = True
        if self._request is not None:
            self._request.pause_writing()
        self._unsent_bytes = self.transport.get_write_buffer_size()
        self._note_held()

    def resume_writing(self) -> None:
        """Note that the caller has read its answer."""
        self._is_write_paused = False
        if self._request is not None:
            self._request.resume_writing()
        self._unsent_bytes = 0
        self._feed()

    @property
    def unread_bytes(self) -> int:
        """The number of bytes that wait for the answer before them."""
        return len(self._unread)

    def shutdown(self) -> None:
        """Close the connection after the answer that is due. uvicorn calls this when the server stops."""
        self._stays_open = False
        if not self._is_due:
            self.transport.close()

    # called by the limit of the connections

    @property
    def idle_since(self) -> float | None:
        """The time since when no answer has been due, by the loop's clock; None while one is."""
        return None if self._is_due else self._waits_since

    def check(self, now: float) -> None:
        """Close the connection if its caller lets the server wait for too long. Called every second."""
        if self.transport.is_closing() or self._is_write_paused:
            self._blocked_since = now if self._blocked_since is None else self._blocked_since
            if now - self._blocked_since > UNDRAINED_SECONDS:
                self.transport.abort()
            return
        self._blocked_since = None
        if self._request is not None:
            if not self._is_complete:
                self._request.check_time(now - self._waits_since)
        elif not self._is_due:
            has_begun = bool(self._unread) or not self._in_head
            if now - self._waits_since > (HEAD_SECONDS if has_begun else self._keep_alive_seconds):
                self.transport.close()

    # reading

    def _feed(self) -> None:
        """Give the parser what has come, piece by piece, while the request in progress can take it."""
        if self._is_feeding:
            return
        self._is_feeding = True
        try:
            while self._unread and not self._is_blocked():
                piece = self._next_piece()
                if piece is None:
                    break
                self._parse(piece)
        finally:
            self._is_feeding = False
        reads = len(self._unread) <= MAX_UNREAD_BYTES or not self._is_blocked()
        if reads != self._is_reading:
            self._set_reading(reads)
        self._note_held()
        if self._is_half_closed and self._waits_for_caller():
            self.transport.close()

    def _note_held(self) -> None:
        held = len(self._unread) + self._unsent_bytes
        if held != self._held_bytes:
            self._held_bytes = held
            self._limit.note_held(self, held)

    def _waits_for_caller(self) -> bool:
        """Return True if nothing can go on without more data."""
        if self._is_due:
            return not (self._is_complete or self._unread)
        return not (self._unread and self._is_write_paused)

    def _is_blocked(self) -> bool:
        """Return True while nothing more can be parsed."""
        if self._in_head:
            return self._is_due or self._is_write_paused or self.transport.is_closing()
        request = self._request
        return (request is not None and request.is_paused) or self.transport.is_closing()

    def _set_reading(self, reading: bool) -> None:  # noqa: FBT001 - the new state
        if not self.transport.is_closing():
            self._is_reading = reading
            (self.transport.resume_reading if reading else self.transport.pause_reading)()

    def _next_piece(self) -> bytes | None:
        """Return the next whole head, or a piece of a body; None if a head is not complete yet."""
        data = self._unread
        if self._in_head:
            data = self._unread = data.lstrip(b"\r\n")  # empty lines before a request are ignored
            size = end_of_head(data)
            if not size and len(data) <= MAX_HEAD_BYTES and may_begin_head(data):
                return None
            size = size or len(data)
            if size > MAX_HEAD_BYTES and may_begin_head(data):
                self._refuse(HEAD_TOO_LARGE)
                return None
            self._unread = data[size:]
            return data[:size]
        if self._chunked is None:
            size = min(self._body_left, len(data))
            self._body_left -= size
        else:
            size = self._chunked.take(data)
            if self._chunked.is_too_large(len(data) - size):
                self._refuse(NOT_HTTP)
                return None
        self._unread = data[size:]
        return data[:size] or None

    def _parse(self, piece: bytes) -> None:
        begins = self._in_head
        try:
            try:
                self._parser.feed_data(piece)
            except httptools.HttpParserUpgrade:
                self._parse_without_upgrade(piece)
            if begins and (self._in_head or not self._has_url()):
                raise httptools.HttpParserInvalidURLError(self._url)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):  # the last for CONNECT
            self._refuse(NOT_HTTP)
            return
        if begins:
            self._begin(piece)
        pieces, self._pieces = self._pieces, []
        request = self._request
        if request is not None:
            if pieces:
                request.add_body(b"".join(pieces))
            if self._is_complete:
                request.end_body()
        if self._is_complete:
            self._in_head = True
            self._waits_since = self.loop.time()

    def _parse_without_upgrade(self, head: bytes) -> None:
        """Parse a head once more, without its offer to change the protocol. CONNECT raises again."""
        self._parser = httptools.HttpRequestParser(self)
        self._url, self._headers, self._in_head = b"", [], True
        self._parser.feed_data(without_upgrade(head))

    def on_url(self, url: bytes) -> None:
        """Add a part of the URL."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header; trailers are dropped."""
        if self._in_head:
            self._headers.append((name.lower(), value.rstrip(b" \t")))  # the parser strips only the left end

    def on_headers_complete(self) -> None:
        """Begin the body."""
        self._in_head, self._is_complete = False, False
        length = body_length(self._headers)
        self._body_left = length or 0
        self._chunked = ChunkedBody() if length is None else None

    def on_body(self, body: bytes) -> None:
        """Add a piece of the body."""
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        """End the request."""
        self._is_complete = True

    # answering

    def _has_url(self) -> bool:
        """Return True if uvicorn can read the URL. Most paths are of an endpoint."""
        if self._url.startswith(b"/") and self._url.isascii():
            return True
        try:
            path = httptools.parse_url(self._url).path
        except httptools.HttpParserInvalidURLError:
            return False
        return bool(path) and self._url.isascii()

    def _begin(self, head: bytes) -> None:
        self._is_due = True
        if len(self._headers) > MAX_HEADERS or not self._limit.begin_head(self, len(head)):
            self._refuse(HEAD_TOO_LARGE)
            return
        handler = None
        if self._parser.get_method() == b"POST":
            handler = self._handlers.get(self._url.decode("latin-1"))
        if handler is None:
            self._begin_uvicorn_request(head)
        else:
            self._begin_push(handler)

    def _begin_uvicorn_request(self, head: bytes) -> None:
        request = self._request = UvicornRequest(
            self.server,
            self.transport,
            self.loop,
            is_chunked=self._chunked is not None,
            on_answered=self._end_answer,
            on_resume=self._feed,
        )
        request.begin(without_upgrade(head))

    def _begin_push(self, handler: PushHandler) -> None:
        parser = self._parser
        self._version = self._version or parser.get_http_version()
        self._stays_open &= parser.should_keep_alive() and self._version != "1.0"
        request = PushRequest(handler, self._headers, respond=self._respond, on_admitted=self._read_body)
        self._request = request
        task = request.begin()
        if task is not None:
            tasks = self.server.state.tasks
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    def _read_body(self) -> None:
        """Read the body of an admitted push."""
        self._waits_since = self.loop.time()
        if not self._unread and self._expects_continue() and not self.transport.is_closing():
            self.transport.write(CONTINUE)
        self._feed()

    def _expects_continue(self) -> bool:
        return any(name == b"expect" and value.lower() == b"100-continue" for name, value in self._headers)

    def _respond(self, answer: Answer) -> None:
        """Send the answer of a push."""
        if self.transport.is_closing():
            return
        # A caller that waits for permission to send the body may send the next request in its place.
        gave_up = not self._is_complete and self._expects_continue()
        stays_open = self._stays_open and not answer.closes and not gave_up and not self._is_stopping()
        self.transport.write(encode(answer, self.server.state.default_headers, closes=not stays_open))
        self._end_answer(stays_open)

    def _end_answer(self, stays_open: bool) -> None:  # noqa: FBT001 - called by position
        self._request = None
        self._drop_head()
        self._is_due = False
        self._waits_since = self.loop.time()
        if not stays_open or not self._stays_open:
            self.transport.close()
        elif self._unread or self._is_half_closed:
            self._feed()

    def _refuse(self, answer: Answer) -> None:
        """Refuse what is not a request, and close the connection."""
        self._unread = b""
        self._drop_head()
        self._limit.note_malformed()
        request, self._request = self._request, None
        if request is not None:
            request.lose_connection(None)
        if not self.transport.is_closing():
            self.transport.write(encode(answer, self.server.state.default_headers, closes=True))
            self.transport.close()

    def _drop_head(self) -> None:
        # An idle connection does not keep up to 64 KiB.
        self._url, self._headers = b"", []
        self._limit.end_head(self)
