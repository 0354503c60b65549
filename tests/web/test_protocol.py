import asyncio
import gc
import tracemalloc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from app.errors import BodyTimeoutError, BodyTooLargeError
from app.web.answers import Answer, Headers
from app.web.connections import LARGE_HEAD_BYTES, MAX_HELD_BYTES, MAX_LARGE_HEADS
from app.web.protocol import HEAD_SECONDS, Connection, protocol_for
from app.web.push_request import BODY_SECONDS
from tests.support.process import eventually

REQUEST = b"GET / HTTP/1.1\r\nHost: exporter\r\n\r\n"
POST = b"POST /fast HTTP/1.1\r\nHost: exporter\r\nContent-Length: 4\r\n\r\n"
FINE = Answer(200, ((b"content-type", b"text/plain"),), b"fine")
CLOSING = ((b"connection", b"close"),)


class Wire(asyncio.Transport):
    """The end of a connection, which records every write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False
        self.reading = True
        self.unsent = 0

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.closed = True

    def is_reading(self) -> bool:
        return self.reading

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.closed:
            raise RuntimeError("the handler is closed")  # as uvloop has it
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


async def answering(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


class Handler:
    """Admits every caller, or waits for `authenticated`, and keeps what it receives."""

    max_body_bytes = 10_000

    def __init__(self, authenticated: "asyncio.Future[Answer | None] | None" = None) -> None:
        self.requests: list[Request] = []
        self.refused = 0
        self._authenticated = authenticated

    def admits(self, _headers: Headers) -> bool:
        return self._authenticated is None

    async def authenticate(self, _headers: Headers) -> Answer | None:
        assert self._authenticated is not None
        return await self._authenticated

    def receive(self, headers: Headers, body: bytes, respond: Callable[[Answer], None]) -> None:
        self.requests.append(Request(headers, body, respond))

    def refuse(self, exc: BodyTimeoutError | BodyTooLargeError) -> Answer:
        self.refused += 1
        return Answer(413 if isinstance(exc, BodyTooLargeError) else 408, CLOSING, b"no")


class Request(NamedTuple):
    headers: Headers
    body: bytes
    respond: Callable[[Answer], None]


def connected(
    app: ASGIApp, *wires: Wire, handler: Handler | None = None, is_stopping: bool = False
) -> list[Connection]:
    """Return the connections of one server, with the handler at `/fast`."""
    handlers = {} if handler is None else {"/fast": handler}
    protocol = protocol_for(handlers, is_stopping=lambda: is_stopping)
    config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None)
    config.load()
    state = ServerState()
    connections = [
        cast("Connection", cast("Any", protocol)(config=config, server_state=state, app_state={}))
        for _ in wires
    ]
    for connection, wire in zip(connections, wires, strict=True):
        connection.connection_made(wire)
    return connections


async def turns(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(eventually, condition, within=20, what="the condition")


def test_a_head_is_sent_before_a_late_body() -> None:
    late = asyncio.Event()

    async def slow(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await late.wait()
        await send({"type": "http.response.body", "body": b"{}"})

    async def scenario() -> Wire:
        wire = Wire()
        (connection,) = connected(slow, wire)
        connection.data_received(REQUEST)
        await turns()
        assert b"".join(wire.writes).endswith(b"\r\n\r\n")
        late.set()
        await turns()
        connection.connection_lost(None)
        return wire

    assert asyncio.run(scenario()).writes[1:] == [b"{}"]


def test_data_written_before_a_close_is_sent() -> None:
    async def scenario() -> Wire:
        wire = Wire()
        (connection,) = connected(answering, wire)
        connection.data_received(REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await turns()
        connection.connection_lost(None)
        return wire

    wire = asyncio.run(scenario())
    assert wire.closed
    assert b"".join(wire.writes).endswith(b"{}")


@asynccontextmanager
async def served(
    app: ASGIApp, handler: Handler | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve the application, and yield a connection to it."""
    handlers = {} if handler is None else {"/fast": handler}
    config = uvicorn.Config(app, http=protocol_for(handlers), lifespan="off", log_config=None, port=0)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    reader, writer = await asyncio.open_connection(*server.servers[0].sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        await server.shutdown()


def test_pipelined_requests_are_answered_in_their_order() -> None:
    async def echo(scope: Scope, _receive: Receive, send: Send) -> None:
        body = scope["path"].encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": body})

    async def scenario() -> list[bytes]:
        async with served(echo) as (reader, writer):
            writer.write(b"".join(REQUEST.replace(b"/ ", b"/%d " % number) for number in range(5)))
            return [(await reader.readuntil(b"/%d" % number))[-2:] for number in range(5)]

    assert asyncio.run(scenario()) == [b"/0", b"/1", b"/2", b"/3", b"/4"]


def test_a_large_answer_reaches_a_slow_reader_whole() -> None:
    size = 10_000_000

    async def large(_scope: Scope, _receive: Receive, send: Send) -> None:
        headers = [(b"content-length", b"%d" % size)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(10):
            await send({"type": "http.response.body", "body": b"x" * (size // 10), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def scenario() -> int:
        async with served(large) as (reader, writer):
            writer.write(REQUEST)
            await reader.readuntil(b"\r\n\r\n")
            return len(await reader.readexactly(size))

    assert asyncio.run(scenario()) == size


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the path and the body, as an ASGI application gets them."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    text = b"%b %b" % (scope["path"].encode(), body)
    headers = [(b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def sent(*chunks: bytes) -> tuple[Handler, Wire]:
    """Send the chunks on a connection, and answer the pushes with `fine`."""
    handler, wire = Handler(), Wire()

    async def scenario() -> None:
        (connection,) = connected(echo, wire, handler=handler)
        answered = 0
        for chunk in chunks:
            connection.data_received(chunk)
        for _ in range(20):
            await turns()
            for request in handler.requests[answered:]:
                answered += 1
                request.respond(FINE)
        connection.connection_lost(None)

    asyncio.run(scenario())
    return handler, wire


def test_a_push_reaches_its_handler_and_is_answered_in_one_write() -> None:
    handler, wire = sent(POST + b"body")

    (request,) = handler.requests
    assert request.body == b"body"
    assert request.headers == [(b"host", b"exporter"), (b"content-length", b"4")]
    (answer,) = wire.writes
    assert answer == b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\nfine"


def test_whitespace_around_a_header_value_is_ignored() -> None:
    # https://www.rfc-editor.org/rfc/rfc9110#section-5.5
    expecting = POST.replace(b"Host: exporter", b"Host: \t exporter \t\r\nExpect: \t 100-continue \t")
    handler, wire = sent(expecting, b"body")

    (request,) = handler.requests
    assert request.headers[:2] == [(b"host", b"exporter"), (b"expect", b"100-continue")]
    assert wire.writes[0] == b"HTTP/1.1 100 Continue\r\n\r\n"


def test_an_answer_has_the_newest_default_headers_of_uvicorn() -> None:
    handler, wire = Handler(), Wire()

    async def scenario() -> None:
        (connection,) = connected(echo, wire, handler=handler)
        for date in (b"now", b"a second later"):
            connection.server.state.default_headers = [(b"date", date)]
            connection.data_received(POST + b"body")
            handler.requests[-1].respond(FINE)
        connection.connection_lost(None)

    asyncio.run(scenario())
    assert [b"\r\ndate: now\r\n" in one for one in wire.writes] == [True, False]
    assert [b"\r\ndate: a second later\r\n" in one for one in wire.writes] == [False, True]


WHOLE = POST + b"body"
CHUNKED = POST.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked")


UPGRADE = WHOLE.replace(
    b"Host", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\nHost"
)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(WHOLE, id="usual"),
        pytest.param(CHUNKED + b"3\r\nbod\r\n1\r\ny\r\n0\r\n\r\n", id="chunked"),
        pytest.param(CHUNKED + b"4\r\nbody\r\n0\r\nAuthorization: x\r\n\r\n", id="trailer"),
        pytest.param(WHOLE.replace(b"1.1\r", b"1.0\r"), id="http-1.0"),
        pytest.param(
            WHOLE.replace(b"1.1\r", b"1.0\r").replace(b"Host", b"Connection: keep-alive\r\nHost"),
            id="http-1.0-to-be-kept",
        ),
        pytest.param(WHOLE.replace(b"Host", b"Connection: close\r\nHost"), id="last-one"),
        pytest.param(WHOLE.replace(b"Host", b"Expect: 100-continue\r\nHost"), id="expectation"),
        pytest.param(UPGRADE, id="upgrade"),
    ],
)
def test_a_push_reaches_its_handler_however_it_is_written_and_cut(data: bytes) -> None:
    for cut in range(len(data)):
        handler, wire = sent(data[:cut], data[cut:])

        assert [request.body for request in handler.requests] == [b"body"]
        assert b"authorization" not in dict(handler.requests[0].headers)
        written = b"".join(wire.writes).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert written.startswith(b"HTTP/1.1 200 OK\r\n")
        assert written.endswith(b"\r\n\r\nfine")
        last = b"1.0\r" in data or b"Connection: close" in data
        assert wire.closed == (b"connection: close" in written) == last


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(POST.replace(b"/fast", b"/fast?a=b") + b"body", id="query"),
        pytest.param(POST.replace(b"POST", b"PUT") + b"body", id="another-method"),
        pytest.param(
            CHUNKED.replace(b"POST", b"PUT") + b"3\r\nbod\r\n1\r\ny\r\n0\r\nX: y\r\n\r\n", id="chunked"
        ),
    ],
)
def test_any_other_request_reaches_the_application_however_it_is_cut(data: bytes) -> None:
    for cut in range(len(data)):
        handler, wire = sent(data[:cut], data[cut:])

        assert not handler.requests
        assert b"".join(wire.writes).endswith(b"\r\n\r\n/fast body")


def test_pipelined_requests_of_both_ways_are_answered_one_after_the_other() -> None:
    other = POST.replace(b"/fast", b"/slow") + b"last"
    handler, wire = sent((POST + b"1111") + other + (POST + b"2222") + other)

    assert [request.body for request in handler.requests] == [b"1111", b"2222"]
    written = b"".join(wire.writes)
    assert [written.find(part) > 0 for part in (b"fine", b"/slow last")] == [True, True]
    assert written.count(b"HTTP/1.1 200 OK") == 4
    assert written.endswith(b"/slow last")


def test_an_offer_to_change_the_protocol_changes_nothing_for_the_requests_around_it() -> None:
    other = UPGRADE.replace(b"/fast", b"/slow")
    handler, wire = sent(WHOLE + UPGRADE + other + WHOLE)

    assert [dict(request.headers) for request in handler.requests] == [
        {b"host": b"exporter", b"content-length": b"4"}
        | ({b"connection": b"Upgrade, HTTP2-Settings"} if offered else {})
        for offered in (False, True, False)
    ]
    assert b"".join(wire.writes).count(b"HTTP/1.1 200 OK") == 4
    assert not wire.closed


def test_the_body_of_an_unknown_caller_is_not_read_before_it_is_authenticated() -> None:
    async def scenario() -> Wire:
        authenticated: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        handler, wire = Handler(authenticated), Wire()
        (connection,) = connected(echo, wire, handler=handler)
        connection.data_received(POST.replace(b": 4", b": 5000000"))
        for _ in range(100):
            if wire.is_reading():
                connection.data_received(b"x" * 50_000)
        assert not wire.is_reading()
        assert not handler.requests
        authenticated.set_result(Answer(401, (), b"no"))
        await turns()
        assert wire.is_reading()
        connection.connection_lost(None)
        return wire

    assert b"".join(asyncio.run(scenario()).writes).startswith(b"HTTP/1.1 401 ")


def test_a_body_that_is_too_large_is_refused_before_its_end() -> None:
    handler, wire = sent(POST.replace(b": 4", b": 5000000") + b"x" * 10_001)

    assert not handler.requests
    assert wire.writes[0].startswith(b"HTTP/1.1 413 ")
    assert wire.closed


def test_a_body_of_many_chunks_that_is_too_large_is_refused_once() -> None:
    handler, wire = sent(CHUNKED + (b"3e8\r\n" + b"x" * 1000 + b"\r\n") * 30 + b"0\r\n\r\n")

    assert (handler.requests, handler.refused) == ([], 1)
    assert b"".join(wire.writes).count(b"HTTP/1.1") == 1


def test_a_body_that_never_arrives_is_refused() -> None:
    async def scenario() -> Wire:
        wire = Wire()
        (connection,) = connected(echo, wire, handler=Handler())
        connection.data_received(POST + b"bo")
        now = connection.loop.time()
        connection.check(now + BODY_SECONDS - 1)
        assert not wire.writes
        connection.check(now + BODY_SECONDS + 1)
        connection.connection_lost(None)
        return wire

    wire = asyncio.run(scenario())
    assert wire.writes[0].startswith(b"HTTP/1.1 408 ")
    assert wire.closed


def test_a_caller_that_has_disconnected_is_not_answered_and_does_not_affect_the_others() -> None:
    async def scenario() -> tuple[Wire, Wire]:
        handler, gone, waiting = Handler(), Wire(), Wire()
        first, second = connected(echo, gone, waiting, handler=handler)
        first.data_received(POST + b"body")
        second.data_received(POST + b"body")
        gone.closed = True
        first.connection_lost(None)
        for request in handler.requests:
            request.respond(FINE)
        second.connection_lost(None)
        return gone, waiting

    gone, waiting = asyncio.run(scenario())
    assert (gone.writes, len(waiting.writes)) == ([], 1)


@pytest.mark.parametrize("way", ["/fast", "/other"])
def test_a_request_is_answered_when_the_server_stops_and_its_connection_closes(way: str) -> None:
    async def scenario() -> Wire:
        handler, wire = Handler(), Wire()
        (connection,) = connected(echo, wire, handler=handler)
        connection.data_received(POST.replace(b"/fast", way.encode()) + b"body")
        for one in list(connection.server.state.connections):
            one.shutdown()
        assert not wire.is_closing()
        for request in handler.requests:
            request.respond(FINE)
        await turns()
        assert wire.is_closing()
        connection.connection_lost(None)
        return wire

    wire = asyncio.run(scenario())
    # Not every version of uvicorn says that it closes.
    assert way == "/other" or b"\r\nconnection: close\r\n" in wire.writes[0]


def test_an_idle_connection_closes_when_the_server_stops() -> None:
    async def scenario() -> Wire:
        wire = Wire()
        (connection,) = connected(echo, wire)
        connection.shutdown()
        return wire

    assert asyncio.run(scenario()).closed


def test_while_the_exporter_stops_each_push_is_the_last_of_its_connection() -> None:
    async def scenario() -> Wire:
        handler, wire = Handler(), Wire()
        (connection,) = connected(echo, wire, handler=handler, is_stopping=True)
        connection.data_received(POST + b"body")
        handler.requests[0].respond(FINE)
        return wire

    wire = asyncio.run(scenario())
    assert wire.closed
    assert b"\r\nconnection: close\r\n" in wire.writes[0]


@pytest.mark.parametrize("path", [b"/fast", b"/other"])
def test_a_body_that_is_not_http_is_refused(path: bytes) -> None:
    broken = CHUNKED.replace(b"/fast", path) + b"4\r\nbodyXX"
    handler, wire = sent(broken)

    assert not handler.requests
    assert b"".join(wire.writes).startswith(b"HTTP/1.1 400 ")
    assert wire.closed


@pytest.mark.parametrize("path", [b"/fast", b"/other"])
def test_a_connection_is_kept_during_a_request_and_closed_when_it_is_idle(path: bytes) -> None:
    async def scenario() -> None:
        handler, wire = Handler(), Wire()
        (connection,) = connected(echo, wire, handler=handler)
        connection.data_received(POST.replace(b"/fast", path) + b"1111")
        later = connection.loop.time() + 10_000
        connection.check(later)
        assert not wire.closed
        for request in handler.requests:
            request.respond(FINE)
        await turns()
        connection.check(connection.loop.time() + connection.server.config.timeout_keep_alive - 1)
        assert not wire.closed
        connection.check(later)
        assert wire.closed

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\r\n\r\n" + WHOLE + b"\r\n\r\n", id="around"),
        pytest.param(b"\n\n" + WHOLE + b"\n\n\n", id="line-feeds"),
        pytest.param(b"\r" + WHOLE + b"\r", id="carriage-returns"),
    ],
)
def test_empty_lines_around_a_request_are_ignored_however_they_are_cut(data: bytes) -> None:
    for cut in range(len(data)):
        handler, wire = sent(data[:cut], data[cut:])

        assert [request.body for request in handler.requests] == [b"body"]
        assert not wire.closed


@pytest.mark.parametrize("head", [b"M-SEARCH / HTTP/1.1\r\nA: b\r\n", b"\rGET / HTTP/1.1\r\nA: b\r\n"])
def test_half_a_head_does_not_reach_the_application_and_has_its_time(head: bytes) -> None:
    async def scenario() -> Wire:
        wire = Wire()
        (connection,) = connected(answering, wire)
        connection.data_received(head)
        await turns()
        assert not wire.closed
        connection.check(connection.loop.time() + HEAD_SECONDS + 1)
        connection.connection_lost(None)
        return wire

    wire = asyncio.run(scenario())
    assert (wire.writes, wire.closed) == ([], True)


@pytest.mark.parametrize("path", [b"/fast", b"/other"])
def test_no_further_request_is_answered_while_its_caller_does_not_read(path: bytes) -> None:
    async def scenario() -> None:
        handler, wire = Handler(), Wire()
        (connection,) = connected(echo, wire, handler=handler)
        connection.pause_writing()
        connection.data_received(WHOLE.replace(b"/fast", path) * 2)
        connection.eof_received()
        await turns()
        assert not handler.requests
        assert not wire.writes
        assert not wire.is_closing()
        connection.resume_writing()
        for _ in range(2):
            await turns()
            for request in handler.requests:
                request.respond(FINE)
            handler.requests.clear()
        assert b"".join(wire.writes).count(b"HTTP/1.1 200 OK") == 2
        assert wire.closed
        connection.connection_lost(None)

    asyncio.run(scenario())


def test_connections_hold_only_so_much_data_together() -> None:
    async def scenario() -> list[bool]:
        wires = [Wire(), Wire(), Wire()]
        connections = connected(answering, *wires)
        connections[0].data_received(REQUEST[:-2])
        wires[1].unsent = MAX_HELD_BYTES - 100
        connections[1].pause_writing()
        await turns()
        assert not any(wire.closed for wire in wires)
        connections[2].data_received(REQUEST[:-2] + b"A: " + b"x" * 100)
        await turns()
        for connection in connections:
            connection.connection_lost(None)
        return [wire.closed for wire in wires]

    assert asyncio.run(scenario()) == [True, True, False]


@pytest.mark.parametrize("path", [b"/fast", b"/other"])
def test_only_so_many_requests_with_a_large_head_are_in_progress(path: bytes) -> None:
    small = WHOLE.replace(b"/fast", path)
    large = small.replace(b"exporter", b"x" * LARGE_HEAD_BYTES)

    async def scenario() -> None:
        handler, wires = Handler(), [Wire() for _ in range(MAX_LARGE_HEADS + 3)]
        connections = connected(echo, *wires, handler=handler)
        for connection in connections[:-2]:
            connection.data_received(large)
        connections[-2].data_received(small)
        assert [wire.closed for wire in wires] == [*([False] * MAX_LARGE_HEADS), True, False, False]
        assert wires[-3].writes[0].startswith(b"HTTP/1.1 431 ")
        connections[0].connection_lost(None)
        connections[-1].data_received(large)
        assert not wires[-1].closed
        for request in handler.requests:
            request.respond(FINE)
        await turns()
        for _ in range(2):
            connections[-1].data_received(small)
        for connection in connections[1:MAX_LARGE_HEADS]:
            connection.data_received(large)
        assert not any(wire.closed for wire in wires[:MAX_LARGE_HEADS])
        for connection in connections:
            connection.connection_lost(None)

    asyncio.run(scenario())


def test_the_authentication_of_a_caller_that_has_gone_ends() -> None:
    async def scenario() -> "asyncio.Future[Answer | None]":
        authenticated: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        (connection,) = connected(echo, Wire(), handler=Handler(authenticated))
        connection.data_received(WHOLE)
        await turns()
        connection.connection_lost(None)
        await turns()
        assert not connection.server.state.tasks
        return authenticated

    assert asyncio.run(scenario()).cancelled()


def test_the_application_ends_when_its_caller_goes(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> list[str]:
        steps: list[str] = []

        async def waiting(_scope: Scope, _receive: Receive, _send: Send) -> None:
            steps.append("began")
            try:
                await asyncio.Event().wait()
            finally:
                steps.append("ended")

        (connection,) = connected(waiting, Wire())
        connection.data_received(REQUEST)
        await turns()
        connection.connection_lost(None)
        await turns()
        assert not connection.server.state.tasks
        return steps

    assert asyncio.run(scenario()) == ["began", "ended"]
    assert not caplog.records


@pytest.mark.parametrize("path", [b"/fast", b"/other"])
def test_an_idle_connection_keeps_nothing_of_its_last_request(path: bytes) -> None:
    number, size = 20, 50_000
    data = WHOLE.replace(b"/fast", path).replace(b"exporter", b"x" * size)

    async def scenario() -> int:
        handler, wires = Handler(), [Wire() for _ in range(number)]
        connections = connected(echo, *wires, handler=handler)
        before, _ = tracemalloc.get_traced_memory()
        for connection in connections:
            connection.data_received(data[:-1])
            connection.data_received(data[-1:])
        for request in handler.requests:
            request.respond(FINE)
        await turns()
        handler.requests.clear()
        after, _ = tracemalloc.get_traced_memory()
        assert all(wire.writes and not wire.closed for wire in wires)
        return after - before

    tracemalloc.start()
    try:
        assert asyncio.run(scenario()) < number * size / 2
    finally:
        tracemalloc.stop()


async def use_and_lose(freed: list[int], data: bytes) -> None:
    """Send the data on a connection, answer what is a push, and lose the connection."""
    authenticated = asyncio.get_running_loop().create_future() if b"Authorization" in data else None
    handler, wire = Handler(authenticated), Wire()
    (connection,) = connected(echo, wire, handler=handler)
    weakref.finalize(connection, freed.append, 1)
    connection.data_received(data)
    for request in handler.requests:
        request.respond(FINE)
    await turns()
    handler.requests.clear()
    connection.connection_lost(None)
    await turns()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(WHOLE, id="push"),
        pytest.param(WHOLE.replace(b"/fast", b"/other"), id="other-request"),
        pytest.param(WHOLE[:20], id="half-a-head"),
        pytest.param(WHOLE[:-2], id="half-a-body"),
        pytest.param(WHOLE[:-2].replace(b"/fast", b"/other"), id="half-a-body-of-another"),
        pytest.param(CHUNKED + b"4\r\nbo", id="half-a-chunk"),
        pytest.param(WHOLE.replace(b"Host", b"Authorization: x\r\nHost"), id="authentication"),
        pytest.param(WHOLE * 3 + b"\x00", id="garbage-at-last"),
    ],
)
def test_a_connection_is_freed_without_the_garbage_collector(data: bytes) -> None:
    async def scenario() -> int:
        freed: list[int] = []
        for _ in range(100):
            await use_and_lose(freed, data)
        return len(freed)

    gc.disable()
    try:
        assert asyncio.run(scenario()) == 100
    finally:
        gc.enable()
