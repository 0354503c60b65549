import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.corking import corked_protocol

REQUEST = b"GET / HTTP/1.1\r\nHost: exporter\r\n\r\n"


class Wire(asyncio.Transport):
    """The end of a connection, and what was written to it, write by write."""

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


def connected(app: ASGIApp, *wires: Wire) -> list[HttpToolsProtocol]:
    """One server's connections."""
    protocol = corked_protocol()
    config = uvicorn.Config(app, http=protocol, lifespan="off", log_config=None)
    config.load()
    connections = [protocol(config=config, server_state=ServerState(), app_state={}) for _ in wires]
    for connection, wire in zip(connections, wires, strict=True):
        connection.connection_made(wire)
    return connections


async def turns(number: int = 10) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


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


def test_answers_of_one_turn_leave_together_and_each_on_its_own_connection() -> None:
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


def test_a_caller_that_goes_before_its_answer_leaves_keeps_nobody_from_theirs() -> None:
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


def test_a_head_does_not_wait_for_a_body_that_is_late() -> None:
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


def test_what_is_written_before_a_close_is_sent() -> None:
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
async def served(app: ASGIApp) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a real server of the application."""
    config = uvicorn.Config(app, http=corked_protocol(), lifespan="off", log_config=None, port=0)
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
