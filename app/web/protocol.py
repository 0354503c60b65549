"""uvicorn's HTTP protocol with three differences.

Answers leave together, each in one write. uvicorn writes an answer's head and its body as soon as it has
them; each write is a packet and wakes up its receiver, and a commit answers many requests at once.

A POST that arrived completely can take the fast path: it is answered when its answer is there, without a task
of its own and without ASGI. Any other request takes uvicorn's path.

A connection has one timer, which closes it after it has been idle for too long. uvicorn creates a timer after
each answer and cancels it at the next request.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

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


def protocol_for(fast_path: FastPath) -> type[HttpToolsProtocol]:
    """Return the protocol class of one server."""
    handler = staticmethod(fast_path)

    class FastPathProtocol(_Protocol):
        fast_path = handler
        write_buffer = _WriteBuffer()
        default_headers = _DefaultHeaders()

    return FastPathProtocol


class _Protocol(HttpToolsProtocol):
    fast_path: FastPath
    write_buffer: "_WriteBuffer"
    default_headers: "_DefaultHeaders"
    _body_chunks: list[bytes] | None = None
    """The body so far of a request that may take the fast path. A single chunk is not copied."""
    _idle_since: float | None = None
    """By the loop's clock; None while a request is in progress."""
    _idle_timer: asyncio.TimerHandle | None = None
    _version = ""
    """The HTTP version. No client changes it during a connection, so it is read once."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_BufferedTransport(transport, self.write_buffer))  # type: ignore[arg-type]

    def on_message_begin(self) -> None:
        # Without a scope, which only uvicorn's path needs.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._idle_timer is not None:
            self._idle_timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._idle_since = None
        super().data_received(data)
        if self._body_chunks is not None and not self.transport.is_closing():
            self._fall_back(self._body_chunks)

    def on_headers_complete(self) -> None:
        if self._is_eligible():
            self._body_chunks = []
        else:
            self._replay_to_uvicorn()

    def on_body(self, body: bytes) -> None:
        if self._body_chunks is None:
            super().on_body(body)
        else:
            self._body_chunks.append(body)

    def on_message_complete(self) -> None:
        if self._body_chunks is not None:
            if self._try_fast_path(b"".join(self._body_chunks)):
                self._body_chunks = None
                return
            self._fall_back(self._body_chunks)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.flow.read_paused:
            self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._schedule_idle_check(self.timeout_keep_alive)

    def _schedule_idle_check(self, seconds: float) -> None:
        self._idle_timer = self.loop.call_later(seconds, self._check_idle)

    def _check_idle(self) -> None:
        """Close the connection if it has been idle for long enough; else check again when that can be."""
        self._idle_timer = None
        if self._idle_since is not None:
            left = self._idle_since + self.timeout_keep_alive - self.loop.time()
            if left > 0:
                self._schedule_idle_check(left)
            else:
                self.timeout_keep_alive_handler()

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
        self._protocol = protocol
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
        prepared, encoded = self._prepared
        protocol.transport.write(encoded if answer is prepared and self.keep_alive else self._encoded(answer))
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()

    def _encoded(self, answer: Answer) -> bytes:
        status, headers, body = answer
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
