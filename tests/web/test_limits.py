"""Limits to the cost of a stranger without a token: memory, time, connections and log lines."""

import asyncio
import gc
import logging
import socket
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx
import pytest

from app.web import protocol
from tests.support.exporter import Exporter
from tests.support.process import eventually
from tests.support.raw_http import connected, read_answer, request_head
from tests.web.problems import assert_problem

pytestmark = pytest.mark.usefixtures("both_ways")

GET: Final = b"GET /healthz HTTP/1.1\r\nHost: exporter\r\n\r\n"
WITHIN: Final = 60
LARGEST_PACKET: Final = 1 << 18
"""The most that uvloop reads at once."""


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    with Exporter(tmp_path) as exporter:
        yield exporter


def is_well(connection: socket.socket) -> bool:
    """Return True if a request is answered. The whole answer is read, which may be in two packets."""
    connection.settimeout(WITHIN)
    connection.sendall(GET)
    answer = b""
    while not answer.endswith(b'{"status":"ok"}'):
        piece = connection.recv(65536)
        if not piece:
            return False
        answer += piece
    return answer.startswith(b"HTTP/1.1 200")


def closes(connection: socket.socket) -> bool:
    """Return True if the other side ends the connection."""
    try:
        return connection.recv(65536) == b""
    except ConnectionResetError:
        return True


def assert_raw_problem(answer: bytes, status: HTTPStatus, reason: str) -> None:
    """Assert that the bytes of an answer are this problem document, and that they end the connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().splitlines()
    headers = dict(line.split(": ", 1) for line in lines)
    assert first == f"HTTP/1.1 {status.value} {status.phrase}"
    assert headers["connection"] == "close"
    assert_problem(httpx.Response(status, headers=headers, content=body), status, reason)


def test_little_of_a_flood_of_requests_is_read_ahead(exporter: Exporter) -> None:
    requests = 20_000
    most = protocol.MAX_UNREAD_BYTES + LARGEST_PACKET
    with connected(exporter) as connection:
        assert is_well(connection)
        connections = exporter.perform(open_connections()).result(WITHIN)
        connection.settimeout(0)
        sent = 0
        data = GET * requests
        answered = b""

        def advance() -> bool:
            nonlocal sent, answered
            with suppress(BlockingIOError):
                sent += connection.send(data[sent : sent + 65536]) if sent < len(data) else 0
            with suppress(BlockingIOError):
                answered += connection.recv(1 << 20)
            assert max(one.unread_bytes for one in connections) <= most
            return answered.count(b'{"status":"ok"}') == requests

        eventually(advance, within=300, what="every answer")


async def open_connections() -> list[protocol.Connection]:
    """Return the server's connections."""
    return [one for one in gc.get_objects() if isinstance(one, protocol.Connection)]


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(GET[:-2] + b"X: " + b"x" * 100_000 + b"\r\n\r\n", id="one-long-header"),
        pytest.param(GET[:-2] + b"X: 1\r\n" * 101 + b"\r\n", id="many-headers"),
        pytest.param(GET[:-2] + b"X: " + b"x" * 100_000, id="no-end"),
        pytest.param(b"GET /" + b"x" * 100_000, id="long-path"),
    ],
)
def test_a_large_head_is_refused(exporter: Exporter, head: bytes) -> None:
    with connected(exporter) as connection:
        connection.sendall(head)
        answer = read_answer(connection)

    assert_raw_problem(answer, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "request_header_fields_too_large")


@pytest.mark.parametrize(
    ("seconds", "sent"),
    [
        pytest.param("HEAD_SECONDS", GET[:20], id="half-a-head"),
        pytest.param(
            "HEAD_SECONDS", request_head("Content-Length: 1000") + b"half", id="body-after-its-refusal"
        ),
    ],
)
def test_a_caller_that_is_too_slow_is_disconnected(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch, seconds: str, sent: bytes
) -> None:
    monkeypatch.setattr(protocol, seconds, 0.5)
    with connected(exporter) as connection:
        connection.settimeout(WITHIN)
        connection.sendall(sent)
        eventually(partial(closes, connection), within=WITHIN, what="the end of the connection")


def test_a_silent_connection_is_closed_after_the_time_for_idle_ones(tmp_path: Path) -> None:
    with Exporter(tmp_path, {"server.keep_alive_seconds": 1}) as exporter, connected(exporter) as connection:
        connection.settimeout(WITHIN)
        assert closes(connection)


def test_beyond_the_limit_the_connection_that_was_idle_longest_is_closed(tmp_path: Path) -> None:
    with (
        Exporter(tmp_path, {"server.max_connections": 2}) as exporter,
        connected(exporter) as first,
        connected(exporter) as second,
    ):
        assert is_well(first)
        assert is_well(second)
        with connected(exporter) as third:
            assert is_well(third)

        assert closes(first)
        assert is_well(second)


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"\x16\x03\x01 no HTTP \r\n\r\n", id="of-tls"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="of-http-2"),
        pytest.param(b"M-SEARCH / HTTP/1.1\r\nA b\r\n\r\n", id="half-http"),
    ],
)
def test_garbage_is_a_line_a_minute(
    exporter: Exporter, caplog: pytest.LogCaptureFixture, garbage: bytes
) -> None:
    for _ in range(20):
        with connected(exporter) as connection:
            connection.sendall(garbage)
            assert_raw_problem(read_answer(connection), HTTPStatus.BAD_REQUEST, "bad_request")

    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.message for record in warnings] == ["requests that are not HTTP were refused"]


def test_head_is_answered_where_get_is(exporter: Exporter) -> None:
    for path in ("/healthz", "/readyz", "/openapi.json", "/metrics", "/interruptions", "/"):
        got = exporter.client.get(f"{exporter.url}{path}")
        head = exporter.client.head(f"{exporter.url}{path}")
        assert (head.status_code, head.content) == (got.status_code, b""), path


def test_a_caller_that_sends_nothing_more_gets_its_answer(exporter: Exporter) -> None:
    body = b'{"message": {"messageId": "1", "data": "e30="}}'
    head = request_head(f"Authorization: {exporter.authorization}", f"Content-Length: {len(body)}")
    with connected(exporter) as connection:
        connection.sendall(head + body)
        connection.shutdown(socket.SHUT_WR)
        answer = read_answer(connection)

    assert answer.startswith(b"HTTP/1.1 422 ")  # no log entry


TRAILER: Final = request_head("Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\nAuthorization: {}\r\n\r\n"
REQUESTS: Final = {
    "malformed-url": b"POST http:// HTTP/1.1\r\nHost: exporter\r\nContent-Length: 4\r\n\r\nbody",
    "trailer": TRAILER,
    "upgrade": request_head("Connection: Upgrade", "Upgrade: h2c", "Content-Length: 4") + b"body",
    "chunked-upgrade": TRAILER.replace(b"Host", b"Connection: Upgrade\r\nUpgrade: h2c\r\nHost"),
    "pipelined": GET + request_head("Content-Length: 4") + b"body" + GET,
    "http-1.0": GET.replace(b"1.1", b"1.0"),
    "garbage": b"\x16\x03\x01\r\n\r\n",
    "line-feeds": GET.replace(b"\r\n", b"\n"),
    "empty-lines": b"\r\n\r\n" + GET + b"\r\n\r\n",
    "method-with-a-hyphen": GET.replace(b"GET", b"M-SEARCH"),
    "upgrade-in-mixed-case": GET[:-2] + b"Connection: uPgRaDe\r\nuPgRaDe: h2c\r\n\r\n",
    "preface-of-http-2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


@pytest.mark.parametrize("name", REQUESTS)
def test_the_answer_does_not_depend_on_how_the_bytes_are_cut(tmp_path: Path, name: str) -> None:
    with Exporter(tmp_path) as exporter:
        token = exporter.authorization.encode()
        data = REQUESTS[name].replace(b"{}", token)

        async def answers(cut: int) -> list[bytes]:
            reader, writer = await asyncio.open_connection("127.0.0.1", exporter.ports[0])
            writer.write(data[:cut])
            await asyncio.sleep(0.002)  # most arrive in two packets
            writer.write(data[cut:])
            with suppress(OSError):  # it has refused already
                writer.write_eof()
            answer = b""
            with suppress(ConnectionResetError):  # what it has refused to read is still on its way
                while chunk := await asyncio.wait_for(reader.read(65536), WITHIN):
                    answer += chunk
            writer.close()
            return [line for line in answer.split(b"\r\n") if line.startswith((b"HTTP/1.1", b"{"))]

        async def all_answers() -> list[list[bytes]]:
            return [await answers(cut) for cut in range(1, len(data), 3)]

        found = asyncio.run(all_answers())

    answered = {b"|".join(answer) for answer in found if answer}  # a reset can overtake an answer
    assert len(answered) == 1, answered
