"""HTTP as uvicorn speaks it, but for three things.

Answers leave together, each in one write. uvicorn writes an answer's head and its body as soon as it has
them; each write is a packet and wakes up who waits for it, and a commit answers many at once.

A request that has come whole is offered to be taken: then it is answered when its answer is there, without a
task of its own and the rest of ASGI. Whatever is unusual in how it comes goes uvicorn's way.

A connection has one timer, which closes it when it has been idle for too long. uvicorn makes a timer after
each answer and ends it with the next request.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Their names in lower case."""


class Answer(NamedTuple):
    """What a request is answered."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    """All but the body's length."""
    body: bytes


class Reply(Protocol):
    """What takes the answer to a request."""

    def expect(self, answer: Answer) -> None:
        """Get ready to give this answer, if it comes to that."""
        ...

    def give(self, answer: Answer) -> None:
        """Answer the request, unless the caller has gone; called once."""
        ...


Take: TypeAlias = Callable[[bytes, Headers, bytes, Reply], bool]
"""Takes a POST to a path, of these headers and this body, and will answer it once; or says no, at once."""


def protocol_for(take: Take) -> type[HttpToolsProtocol]:
    """The protocol of one server."""
    offer = staticmethod(take)

    class Offering(_Protocol):
        take = offer
        cork = _Cork()
        usual = _Usual()

    return Offering


class _Protocol(HttpToolsProtocol):
    take: Take
    cork: "_Cork"
    usual: "_Usual"
    _offered: list[bytes] | None = None
    """The body so far of a request that may be taken. It mostly comes in one piece, which is not copied."""
    _idle_since: float | None = None
    """By the loop's clock; None: something is under way."""
    _idle_timer: asyncio.TimerHandle | None = None
    _version = ""
    """The connection's: no client changes it, so it is asked for once."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Corked(transport, self.cork))  # type: ignore[arg-type]

    def on_message_begin(self) -> None:
        # Without a scope, which only uvicorn's way needs.
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
        if self._offered is not None and not self.transport.is_closing():
            self._go_on(self._offered)

    def on_headers_complete(self) -> None:
        if self._is_usual():
            self._offered = []
        else:
            self._go_uvicorns_way()

    def on_body(self, body: bytes) -> None:
        if self._offered is None:
            super().on_body(body)
        else:
            self._offered.append(body)

    def on_message_complete(self) -> None:
        if self._offered is not None:
            if self._was_taken(b"".join(self._offered)):
                self._offered = None
                return
            self._go_on(self._offered)
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
            self._look_in(self.timeout_keep_alive)

    def _look_in(self, seconds: float) -> None:
        self._idle_timer = self.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        """End the connection if it has been idle for long enough; look again when it may have been."""
        self._idle_timer = None
        if self._idle_since is not None:
            left = self._idle_since + self.timeout_keep_alive - self.loop.time()
            if left > 0:
                self._look_in(left)
            else:
                self.timeout_keep_alive_handler()

    def _is_usual(self) -> bool:
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

    def _was_taken(self, body: bytes) -> bool:
        before = self.cycle
        taken = self.cycle = _Taken(self)  # type: ignore[assignment]
        if self.take(self.url, self.headers, body, taken):
            return True
        self.cycle = before
        return False

    def _go_on(self, body: list[bytes]) -> None:
        """Go uvicorn's way after all."""
        self._offered = None
        self._go_uvicorns_way()
        super().on_body(b"".join(body))

    def _go_uvicorns_way(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()


class _Taken:
    """Stands where uvicorn's protocol has the request under way, and has what the protocol asks of that."""

    __slots__ = ("_expected", "_protocol", "disconnected", "keep_alive", "response_complete")

    message_event: Final = asyncio.Event()
    """Nobody waits for it."""

    def __init__(self, protocol: _Protocol) -> None:
        self._protocol = protocol
        self._expected: tuple[Answer | None, bytes] = (None, b"")
        """With how it is written, as long as the connection is kept."""
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False

    def expect(self, answer: Answer) -> None:
        """See `Reply`."""
        self._expected = (answer, self._encoded(answer))

    def give(self, answer: Answer) -> None:
        """See `Reply`."""
        self.response_complete = True
        if self.disconnected:
            return
        protocol = self._protocol
        expected, encoded = self._expected
        protocol.transport.write(encoded if answer is expected and self.keep_alive else self._encoded(answer))
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()

    def _encoded(self, answer: Answer) -> bytes:
        status, headers, body = answer
        usual = self._protocol.usual.encoded(self._protocol.server_state.default_headers)
        last = b"" if self.keep_alive else b"connection: close\r\n"
        return b"%b%b%bcontent-length: %d\r\n\r\n%b" % (_head(status, headers), usual, last, len(body), body)


@lru_cache(64)
def _head(status: int, headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return STATUS_LINE[status] + _lines(headers)


class _Usual:
    """The headers of all answers, as they are written. uvicorn makes new ones each second, for the date."""

    def __init__(self) -> None:
        self._headers: Headers = ()
        self._encoded = b""

    def encoded(self, headers: Headers) -> bytes:
        if headers is not self._headers:
            self._headers, self._encoded = headers, _lines(headers)
        return self._encoded


def _lines(headers: Headers) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


class _Cork:
    """What has been written in a turn of the loop."""

    def __init__(self) -> None:
        self._holding: list[_Corked] = []

    def hold(self, transport: "_Corked") -> None:
        if not self._holding:
            asyncio.get_running_loop().call_soon(self._pull)
        self._holding.append(transport)

    def _pull(self) -> None:
        holding, self._holding = self._holding, []
        for transport in holding:
            transport.send()


class _Corked:
    """A transport that keeps what is written until the turn ends."""

    def __init__(self, transport: asyncio.Transport, cork: _Cork) -> None:
        self._transport = transport
        self._cork = cork
        self._held = b""

    def write(self, data: bytes) -> None:
        if not self._held:
            self._cork.hold(self)
        self._held += data

    def close(self) -> None:
        self.send()
        self._transport.close()

    def is_closing(self) -> bool:  # asked for each request, and `__getattr__` comes last
        return self._transport.is_closing()

    def send(self) -> None:
        data, self._held = self._held, b""
        # The caller may have gone since; uvloop refuses a write then, and others wait for theirs.
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever else a transport has
        return getattr(self._transport, name)
