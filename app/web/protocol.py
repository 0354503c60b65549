"""uvicorn's HTTP protocol with three differences.

Answers leave together, each in one write. uvicorn writes an answer's head and its body as soon as it has
them; each write is a packet and wakes up its receiver, and a commit answers many requests at once.

A POST that arrived completely can take the fast path: it is answered when its answer is there, without a task
of its own and without ASGI. Any other request takes uvicorn's path.

What a stranger may cost is bounded: the size of a head, the requests that wait for answers, the time for
which a connection may owe something, the number of connections. uvicorn has a timer per answer instead.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.web.connections import DEFAULT_CONNECTIONS, ConnectionsLimit

MAX_HEAD_BYTES: Final = 65_536
MAX_HEADERS: Final = 100
MAX_QUEUED: Final = 16
"""Requests of one connection that wait for their answers."""
HEAD_SECONDS: Final = 10.0
"""Time for a head, and for the rest of a body that was refused."""
UNDRAINED_SECONDS: Final = 30.0
"""Time for which a caller may leave its answers unread."""
_EMPTY_LINES: Final = (b"\n\r\n", b"\n\n")
_BEGINS_HEAD: Final = re.compile(rb"(\r?\n)*[A-Z]*([A-Z] [^\r\n]*(\r?\n|\r?$|$)|$)")
"""Bytes that may become a request. Any others are refused at once."""
_UPGRADE: Final = re.compile(rb"^(upgrade|http2-settings):[^\n]*\n", re.IGNORECASE | re.MULTILINE)

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Names, in lower case, and values."""


class Answer(NamedTuple):
    """The answer to a request."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    """Without the length of the body."""
    body: bytes


class Reply(Protocol):
    """The receiver of the answer to a request."""

    def prepare(self, answer: Answer) -> None:
        """Encode this answer, which will probably be sent."""
        ...

    def send(self, answer: Answer) -> None:
        """Answer the request, unless the caller has closed the connection. Called once."""
        ...


FastPath: TypeAlias = Callable[[bytes, Headers, bytes, Reply], bool]
"""Accepts a POST by its path, headers and body, and will answer it once; or returns False at once."""


def protocol_for(fast_path: FastPath, max_connections: int = DEFAULT_CONNECTIONS) -> type[HttpToolsProtocol]:
    """Return the protocol class of one server."""
    handler = staticmethod(fast_path)

    class FastPathProtocol(_Protocol):
        fast_path = handler
        write_buffer = _WriteBuffer()
        default_headers = _DefaultHeaders()
        connections_limit = ConnectionsLimit(max_connections)

    return FastPathProtocol


class _Protocol(HttpToolsProtocol):
    """A connection. Heads reach the parser whole, so the answer does not depend on the packets.

    While `MAX_QUEUED` requests wait for their answers, nothing is read.
    """

    fast_path: FastPath
    write_buffer: "_WriteBuffer"
    default_headers: "_DefaultHeaders"
    connections_limit: ConnectionsLimit
    _body_chunks: list[bytes] | None = None
    """The body so far of a request that may take the fast path. A single chunk is not copied."""
    _version = ""
    """The HTTP version. No client changes it during a connection, so it is read once."""
    _unread = b""
    """Data that the parser has not got yet."""
    _in_head = True
    """The next byte for the parser belongs to a head."""
    _body_left: int | None = None
    """Bytes of the body that have not come yet; None if its end is known only to the parser."""
    _feeding = False
    _half_closed = False
    _waits_since = 0.0
    """The time, by the loop's clock, since when the caller has owed something: a request, the rest of a head
    or of a refused body."""
    _blocked_since: float | None = None
    """The time since when the caller has not read its answers, or has not let the connection end."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_BufferedTransport(transport, self.write_buffer))  # type: ignore[arg-type]
        self._waits_since = self.loop.time()
        self.connections_limit.add(self)

    def on_message_begin(self) -> None:
        # Without a scope, which only uvicorn's path needs.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.connections_limit.discard(self)
        # Without these references a closed connection is freed at once, and not by the garbage collector.
        self.pipeline.clear()
        self._unread, self._body_chunks = b"", None
        self.scope = None  # type: ignore[assignment]

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection for the answer to a caller that sends nothing more."""
        self._half_closed = True
        self.transport.flush()  # type: ignore[attr-defined]  # ours: an answer may just have been written
        return self._in_head and not self._unread and not self._is_idle()

    def data_received(self, data: bytes) -> None:
        if self._in_head and not self._unread:
            self._waits_since = self.loop.time()
        self._unread = self._unread + data if self._unread else data
        self._feed()

    def _feed(self) -> None:
        """Give the parser what has come, piece by piece, while there is room for another request."""
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._unread and not self.transport.is_closing() and len(self.pipeline) < MAX_QUEUED:
                piece = self._next_piece()
                if piece is None:
                    break
                self._parse(piece)
        finally:
            self._feeding = False
        if len(self.pipeline) >= MAX_QUEUED:
            self.flow.pause_reading()

    def _next_piece(self) -> bytes | None:
        """Return the next whole head, or a piece of a body; None if a head is not complete yet."""
        data = self._unread
        if self._in_head:
            end = _end_of_head(data)
            if not end and len(data) <= MAX_HEAD_BYTES and _BEGINS_HEAD.match(data):
                return None
            size = end or len(data)
            piece, self._unread = data[:size], data[size:]
            if size > MAX_HEAD_BYTES and _BEGINS_HEAD.match(data):
                self._refuse_head()
                return None
            return _without_upgrade(piece)
        if self._body_left is None:
            # The end of a chunked body looks like the end of a head.
            size = _end_of_head(data) or len(data)
        else:
            size = min(self._body_left, len(data))
            self._body_left -= size
        self._unread = data[size:]
        return data[:size]

    def _parse(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
            if self._body_chunks is not None and not self._unread and not self.transport.is_closing():
                self._fall_back(self._body_chunks)
        except httptools.HttpParserUpgrade:  # CONNECT; other offers do not reach the parser
            self._refuse_malformed()
        except httptools.HttpParserError:
            self._refuse_malformed()

    def _refuse_malformed(self) -> None:
        self._unread = b""
        self.connections_limit.note_malformed()
        self.send_400_response("Invalid HTTP request received.")

    def _refuse_head(self) -> None:
        self._unread = b""
        self.connections_limit.note_malformed()
        if not self._is_idle():
            # The caller would take this answer for that of a request before.
            self.transport.close()
            return
        self.transport.write(
            STATUS_LINE[431]
            + _lines(self.server_state.default_headers)
            + b"content-length: 0\r\nconnection: close\r\n\r\n"
        )
        self.transport.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # not a trailer
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._body_left = False, _body_length(self.headers)
        if len(self.headers) > MAX_HEADERS:
            self._refuse_head()
        elif self._is_eligible():
            self._body_chunks = []
        else:
            self._replay_to_uvicorn()

    def on_body(self, body: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._body_chunks is None:
            super().on_body(body)
        else:
            self._body_chunks.append(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._waits_since = self.loop.time()
        if self.transport.is_closing():
            return
        if self._body_chunks is not None:
            if self._try_fast_path(b"".join(self._body_chunks)):
                self._body_chunks = None
                return
            self._fall_back(self._body_chunks)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._waits_since = self.loop.time()
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
        else:
            self.server_state.total_requests += 1
            if self.flow.read_paused:
                self.flow.resume_reading()
        # uvicorn's own timer would be one more for each answer.
        self._unset_keepalive_if_required()
        if self._unread:
            self._feed()
        if self._half_closed and self._is_idle():
            self.transport.close()

    def _is_idle(self) -> bool:
        """Return True if no answer is due."""
        return self.cycle is None or self.cycle.response_complete  # type: ignore[redundant-expr]

    def check(self, now: float) -> None:
        """Close the connection if its caller owes something for too long. Called every second."""
        if self.transport.is_closing() or self.flow.write_paused:
            if self._blocked_since is None:
                self._blocked_since = now
            elif now - self._blocked_since > UNDRAINED_SECONDS:
                self.transport.abort()
            return
        self._blocked_since = None
        if not self._is_idle():
            return
        waits_for_more = bool(self._unread) or not self._in_head
        if now - self._waits_since > (HEAD_SECONDS if waits_for_more else self.timeout_keep_alive):
            self.transport.close()

    @property
    def idle_since(self) -> float | None:
        """The time since when no answer has been due, by the loop's clock; None while one is."""
        return self._waits_since if self._is_idle() else None

    def _is_eligible(self) -> bool:
        """Return whether the request, by its head, may take the fast path."""
        parser = self.parser
        if not self._version:
            self._version = parser.get_http_version()
        return (
            parser.get_method() == b"POST"
            and self._version == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
            and not self.expect_100_continue
            and (self.cycle is None or self.cycle.response_complete)  # type: ignore[redundant-expr]
            and not self.flow.write_paused
        )

    def _try_fast_path(self, body: bytes) -> bool:
        before = self.cycle
        request = self.cycle = _FastPathRequest(self)  # type: ignore[assignment]
        if self.fast_path(self.url, self.headers, body, request):
            return True
        self.cycle = before
        return False

    def _fall_back(self, body: list[bytes]) -> None:
        """Continue on uvicorn's path."""
        self._body_chunks = None
        self._replay_to_uvicorn()
        super().on_body(b"".join(body))

    def _replay_to_uvicorn(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()


class _FastPathRequest:
    """A request on the fast path, with the attributes that uvicorn's protocol reads of its request cycle."""

    __slots__ = ("_prepared", "_protocol", "disconnected", "keep_alive", "response_complete")

    message_event: Final = asyncio.Event()
    """uvicorn sets it; nothing waits for it."""

    def __init__(self, protocol: _Protocol) -> None:
        self._protocol: _Protocol | None = protocol
        self._prepared: tuple[Answer | None, bytes] = (None, b"")
        """An answer and its encoding, which is valid while the connection is kept."""
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False

    def prepare(self, answer: Answer) -> None:
        """See `Reply`."""
        self._prepared = (answer, self._encoded(answer))

    def send(self, answer: Answer) -> None:
        """See `Reply`."""
        self.response_complete = True
        if self.disconnected:
            return
        protocol = self._protocol
        assert protocol is not None  # noqa: S101 - called once
        prepared, encoded = self._prepared
        protocol.transport.write(encoded if answer is prepared and self.keep_alive else self._encoded(answer))
        self._protocol, self._prepared = None, (None, b"")  # no cycle of references stays behind
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()

    def _encoded(self, answer: Answer) -> bytes:
        status, headers, body = answer
        assert self._protocol is not None  # noqa: S101 - the answer is not sent yet
        defaults = self._protocol.default_headers.encoded(self._protocol.server_state.default_headers)
        close = b"" if self.keep_alive else b"connection: close\r\n"
        return b"%b%b%bcontent-length: %d\r\n\r\n%b" % (
            _head(status, headers),
            defaults,
            close,
            len(body),
            body,
        )


@lru_cache(64)
def _head(status: int, headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return STATUS_LINE[status] + _lines(headers)


class _DefaultHeaders:
    """The encoding of the headers that every answer has. uvicorn replaces them each second, for the date."""

    def __init__(self) -> None:
        self._headers: Headers = ()
        self._encoded = b""

    def encoded(self, headers: Headers) -> bytes:
        if headers is not self._headers:
            self._headers, self._encoded = headers, _lines(headers)
        return self._encoded


def _end_of_head(data: bytes) -> int:
    """Return the length of the head, with the empty line at its end; 0 if it is not complete.

    A carriage return before a line feed may be missing. A regular expression takes 8 us longer.
    """
    ends = [at + len(mark) for mark in _EMPTY_LINES if (at := data.find(mark)) >= 0]
    return min(ends, default=0)


def _without_upgrade(head: bytes) -> bytes:
    """Return the head without an offer to change the protocol, which is passed over."""
    return _UPGRADE.sub(b"", head) if b"pgrade" in head or b"PGRADE" in head else head


def _body_length(headers: Headers) -> int | None:
    """Return the length of the body; None if it is chunked."""
    length = 0
    for name, value in headers:
        if name == b"transfer-encoding":
            return None
        if name == b"content-length":
            length = int(value)  # the parser has accepted it
    return length


def _lines(headers: Headers) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


class _WriteBuffer:
    """The transports with data that was written in this iteration of the event loop."""

    def __init__(self) -> None:
        self._transports: list[_BufferedTransport] = []

    def add(self, transport: "_BufferedTransport") -> None:
        if not self._transports:
            asyncio.get_running_loop().call_soon(self._flush)
        self._transports.append(transport)

    def _flush(self) -> None:
        transports, self._transports = self._transports, []
        for transport in transports:
            transport.flush()


class _BufferedTransport:
    """A transport that buffers its data until the iteration of the event loop ends."""

    def __init__(self, transport: asyncio.Transport, buffer: _WriteBuffer) -> None:
        self._transport = transport
        self._buffer = buffer
        self._data = b""

    def write(self, data: bytes) -> None:
        if not self._data:
            self._buffer.add(self)
        self._data += data

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:  # called for each request, and `__getattr__` is slower
        return self._transport.is_closing()

    def flush(self) -> None:
        data, self._data = self._data, b""
        # The caller may have gone since. uvloop would raise, and the other transports would not be flushed.
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any other attribute of a transport
        return getattr(self._transport, name)
