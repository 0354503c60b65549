import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.web.protocol import Answer, FastPath, Headers, Reply, protocol_for
from tests.support.process import eventually

REQUEST = b"GET / HTTP/1.1\r\nHost: exporter\r\n\r\n"
POST = b"POST /fast HTTP/1.1\r\nHost: exporter\r\nContent-Length: 4\r\n\r\n"
FINE = Answer(200, ((b"content-type", b"text/plain"),), b"fine")
OTHERWISE = Answer(503, (), b"gone")


class Wire(asyncio.Transport):
    """The end of a connection, which records every write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.closed:
            raise RuntimeError("the handler is closed")  # as uvloop has it
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


async def answering(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


def refuse(_path: bytes, _headers: Headers, _body: bytes, _reply: Reply) -> bool:
    return False


def connected(app: ASGIApp, *wires: Wire, fast_path: FastPath = refuse) -> list[HttpToolsProtocol]:
    """Return the connections of one server."""
    protocol = protocol_for(fast_path)
    config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None)
    config.load()
    connections = [protocol(config=config, server_state=ServerState(), app_state={}) for _ in wires]
    for connection, wire in zip(connections, wires, strict=True):
        connection.connection_made(wire)
    return connections


async def turns(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(eventually, condition, within=20, what="the condition")


def test_an_answer_is_one_write() -> None:
    async def scenario() -> Wire:
        wire = Wire()
        (connection,) = connected(answering, wire)
        connection.data_received(REQUEST)
        await turns()
        connection.connection_lost(None)
        return wire

    (answer,) = asyncio.run(scenario()).writes
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n{}")


def test_answers_of_one_iteration_are_flushed_together_on_their_connections() -> None:
    async def scenario() -> tuple[Wire, Wire]:
        wires = Wire(), Wire()
        connections = connected(answering, *wires)
        for connection in connections:
            connection.data_received(REQUEST)
        await turns()
        for connection in connections:
            connection.connection_lost(None)
        return wires

    assert [len(wire.writes) for wire in asyncio.run(scenario())] == [1, 1]


def test_a_caller_that_goes_before_its_answer_is_flushed_does_not_affect_the_others() -> None:
    async def scenario() -> tuple[Wire, Wire]:
        gone, waiting = Wire(), Wire()
        first, second = connected(answering, gone, waiting)
        first.data_received(REQUEST)
        second.data_received(REQUEST)
        await turns(1)  # both are answered, and neither answer has left
        gone.closed = True
        first.connection_lost(None)
        await turns()
        second.connection_lost(None)
        return gone, waiting

    gone, waiting = asyncio.run(scenario())
    assert (gone.writes, len(waiting.writes)) == ([], 1)


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
    app: ASGIApp, fast_path: FastPath = refuse
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Serve the application, and yield a connection to it."""
    config = uvicorn.Config(app, http=protocol_for(fast_path), lifespan="off", log_config=None, port=0)
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


class Request(NamedTuple):
    path: bytes
    headers: Headers
    body: bytes
    reply: Reply


class Handler:
    """Records the requests that it may handle, and accepts those to `/fast`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __call__(self, path: bytes, headers: Headers, body: bytes, reply: Reply) -> bool:
        self.requests.append(Request(path, headers, body, reply))
        return path == b"/fast"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the path and the body, as an ASGI application gets them."""
    message = await receive()
    body: bytes = message["body"]
    while message["more_body"]:
        message = await receive()
        body += message["body"]
    text = b"%b %b" % (scope["path"].encode(), body)
    headers = [(b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def sent(*chunks: bytes) -> tuple[Handler, Wire]:
    """Send the chunks on a connection, and answer the accepted requests with `fine`."""
    handler, wire = Handler(), Wire()

    async def scenario() -> None:
        (connection,) = connected(echo, wire, fast_path=handler)
        for chunk in chunks:
            connection.data_received(chunk)
        await turns()
        for request in handler.requests:
            if request.path == b"/fast":
                request.reply.send(FINE)
        await turns()
        connection.connection_lost(None)

    asyncio.run(scenario())
    return handler, wire


def test_a_complete_request_takes_the_fast_path_and_is_answered_in_one_write() -> None:
    handler, wire = sent(POST + b"body")

    (request,) = handler.requests
    assert (request.path, request.body) == (b"/fast", b"body")
    assert request.headers == [(b"host", b"exporter"), (b"content-length", b"4")]
    (answer,) = wire.writes
    assert answer == b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\nfine"


def test_an_answer_has_the_newest_default_headers_of_uvicorn() -> None:
    handler, wire = Handler(), Wire()

    async def scenario() -> None:
        (connection,) = connected(echo, wire, fast_path=handler)
        for date in (b"now", b"a second later"):
            connection.server_state.default_headers = [(b"date", date)]
            connection.data_received(POST + b"body")
            handler.requests[-1].reply.send(FINE)
            await turns()
        connection.connection_lost(None)

    asyncio.run(scenario())
    assert [b"\r\ndate: now\r\n" in one for one in wire.writes] == [True, False]
    assert [b"\r\ndate: a second later\r\n" in one for one in wire.writes] == [False, True]


def test_a_request_that_the_fast_path_declines_reaches_the_application_unchanged() -> None:
    handler, wire = sent(POST.replace(b"/fast", b"/other?a=b") + b"body")

    assert [(request.path, request.body) for request in handler.requests] == [(b"/other?a=b", b"body")]
    assert b"".join(wire.writes).endswith(b"\r\n\r\n/other body")


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([POST + b"bo", b"dy"], id="body-in-two-reads"),
        pytest.param([POST, b"body"], id="body-after-the-head"),
        pytest.param([POST.replace(b"1.1\r", b"1.0\r") + b"body"], id="http-1.0"),
        pytest.param(
            [POST.replace(b"1.1\r\n", b"1.0\r\nConnection: keep-alive\r\n") + b"body"], id="http-1.0-kept"
        ),
        pytest.param([POST.replace(b"Host", b"Connection: close\r\nHost") + b"body"], id="last-one"),
        pytest.param([POST.replace(b"Host", b"Expect: 100-continue\r\nHost") + b"body"], id="expectation"),
        pytest.param([POST.replace(b"POST", b"PUT") + b"body"], id="another-method"),
    ],
)
def test_any_other_request_does_not_take_the_fast_path(chunks: Sequence[bytes]) -> None:
    handler, wire = sent(*chunks)

    assert not handler.requests
    assert b"".join(wire.writes).endswith(b"\r\n\r\n/fast body")


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([POST[:30], POST[30:] + b"body"], id="head-in-two-reads"),
        pytest.param(
            [
                POST.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked")
                + b"3\r\nbod\r\n1\r\ny\r\n0\r\n\r\n"
            ],
            id="chunked",
        ),
    ],
)
def test_a_complete_request_takes_the_fast_path_however_it_was_split(chunks: Sequence[bytes]) -> None:
    handler, wire = sent(*chunks)

    assert [request.body for request in handler.requests] == [b"body"]
    assert wire.writes[0].endswith(b"fine")


def test_an_offer_to_change_the_protocol_is_passed_over() -> None:
    upgrade = POST.replace(
        b"Host", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\nHost"
    )

    handler, wire = sent(upgrade + b"body")

    assert [request.body for request in handler.requests] == [b"body"]
    assert wire.writes[0].endswith(b"fine")


def test_a_pipelined_request_does_not_take_the_fast_path_and_is_answered_in_order() -> None:
    handler = Handler()

    async def scenario() -> None:
        async with served(echo, fast_path=handler) as (reader, writer):
            writer.write((POST + b"1111") + (POST + b"2222"))
            await until(lambda: len(handler.requests) == 1)
            handler.requests[0].reply.send(FINE)
            assert (await reader.readuntil(b"/fast 2222")).count(b"fine") == 1

    asyncio.run(scenario())
    assert [request.body for request in handler.requests] == [b"1111"]


def test_each_request_on_a_kept_connection_can_take_the_fast_path() -> None:
    async def scenario() -> list[bytes]:
        handler = Handler()
        async with served(echo, fast_path=handler) as (reader, writer):
            for number in range(3):
                writer.write(POST + b"%04d" % number)
                await until(lambda: len(handler.requests) > number)  # noqa: B023 - it is waited for here
                handler.requests[number].reply.send(FINE)
                await reader.readuntil(b"fine")
        return [request.body for request in handler.requests]

    assert asyncio.run(scenario()) == [b"0000", b"0001", b"0002"]


def test_a_caller_that_has_gone_is_not_answered_and_does_not_affect_the_others() -> None:
    async def scenario() -> tuple[Wire, Wire]:
        handler, gone, waiting = Handler(), Wire(), Wire()
        first, second = connected(echo, gone, waiting, fast_path=handler)
        first.data_received(POST + b"body")
        second.data_received(POST + b"body")
        gone.closed = True
        first.connection_lost(None)
        for request in handler.requests:
            request.reply.send(FINE)
        await turns()
        second.connection_lost(None)
        return gone, waiting

    gone, waiting = asyncio.run(scenario())
    assert (gone.writes, len(waiting.writes)) == ([], 1)


@pytest.mark.parametrize("prepared", [FINE, OTHERWISE])
def test_the_answer_is_the_sent_one_whatever_was_prepared(prepared: Answer) -> None:
    async def scenario() -> Wire:
        handler, wire = Handler(), Wire()
        (connection,) = connected(echo, wire, fast_path=handler)
        connection.data_received(POST + b"body")
        handler.requests[0].reply.prepare(prepared)
        assert not wire.writes
        handler.requests[0].reply.send(FINE)
        await turns()
        connection.connection_lost(None)
        return wire

    assert asyncio.run(scenario()).writes == sent(POST + b"body")[1].writes


@pytest.mark.parametrize("prepared", [False, True])
def test_a_fast_path_request_is_answered_when_the_server_stops_and_its_connection_closes(
    *, prepared: bool
) -> None:
    async def scenario() -> tuple[Wire, bool]:
        handler, wire = Handler(), Wire()
        (connection,) = connected(echo, wire, fast_path=handler)
        connection.data_received(POST + b"body")
        if prepared:
            handler.requests[0].reply.prepare(FINE)
        connection.shutdown()
        assert not wire.closed
        handler.requests[0].reply.send(FINE)
        await turns()
        closed = wire.closed
        connection.connection_lost(None)
        return wire, closed

    wire, closed = asyncio.run(scenario())
    assert closed
    assert b"\r\nconnection: close\r\n" in wire.writes[0]


def test_data_that_is_not_http_is_refused_and_does_not_take_the_fast_path() -> None:
    broken = POST.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked") + b"4\r\nbodyXX"
    handler, wire = sent(broken)

    assert not handler.requests
    assert wire.writes[0].startswith(b"HTTP/1.1 400 ")


def test_a_connection_is_kept_during_a_request_and_closed_when_it_is_idle() -> None:
    idle_seconds = 0.1

    async def scenario() -> float:
        clock = asyncio.get_running_loop().time
        handler, wire = Handler(), Wire()
        (connection,) = connected(echo, wire, fast_path=handler)
        connection.timeout_keep_alive = idle_seconds  # type: ignore[assignment]
        connection.data_received(POST + b"1111")
        handler.requests[0].reply.send(FINE)
        connection.data_received(POST + b"2222")
        began = clock()
        await until(lambda: clock() > began + 3 * idle_seconds)
        assert not wire.closed
        handler.requests[1].reply.send(FINE)
        answered_at = clock()
        await until(lambda: wire.closed)
        return clock() - answered_at

    assert asyncio.run(scenario()) >= idle_seconds


def test_a_connection_on_the_asgi_path_is_closed_when_it_is_idle() -> None:
    async def scenario() -> Wire:
        wire = Wire()
        (connection,) = connected(answering, wire)
        connection.timeout_keep_alive = 0.1  # type: ignore[assignment]
        connection.data_received(REQUEST)
        await until(lambda: wire.closed)
        return wire

    assert asyncio.run(scenario()).writes[0].endswith(b"{}")
