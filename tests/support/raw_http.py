"""HTTP over plain connections, for requests that an HTTP library refuses to send or sends too slowly."""

import asyncio
import json
import socket
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.support.exporter import Exporter
from tests.support.process import LOOPBACK


def connected(exporter: Exporter) -> "closing[socket.socket]":
    """Connect to the exporter's main listener. The connection is closed at the end of a `with` block."""
    return closing(socket.create_connection((LOOPBACK, exporter.ports[0]), timeout=20))


def request_head(*headers: str, path: str = "/events/creation") -> bytes:
    """Return the head of a POST request with these header lines."""
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: exporter", *headers, "", ""]).encode()


def read_answer(connection: socket.socket) -> bytes:
    """Read until the other side closes the connection."""
    return b"".join(iter(partial(connection.recv, 65536), b""))


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer, and the seconds from the request to its last byte."""

    status: int
    head: bytes
    body: bytes
    seconds: float

    @property
    def content_type(self) -> str:
        return self.header(b"content-type")

    @property
    def closes(self) -> bool:
        return self.header(b"connection") == "close"

    @property
    def outcome(self) -> str:
        """The outcome of a push; for a refusal its status and reason."""
        document = self.document()
        return str(document["outcome"]) if self.status == 200 else f"{self.status} {document['reason']}"

    def header(self, name: bytes) -> str:
        """Return a header's value, "" if it is missing."""
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.lower() == name:
                return value.strip().decode("latin-1")
        return ""

    def document(self) -> Mapping[str, Any]:
        """Return the body's JSON object, empty if the body is not a JSON object."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}


class RawConnection:
    """A connection for one request at a time, opened again after it was closed."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def is_open(self) -> bool:
        """True if the next request uses the connection of the last one."""
        return self._streams is not None

    def close(self) -> None:
        """Close the connection at once."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def send(self, request: bytes, *, within: float) -> Answer:
        """Send a complete request, and read the answer.

        Raises OSError if the connection is closed or the timeout passes, EOFError after an incomplete answer.
        The next request then uses a new connection.
        """
        began = time.perf_counter()
        try:
            async with asyncio.timeout(within):
                head, body = await self._exchange(request)
        except BaseException:
            self.close()
            raise
        answer = Answer(int(head[9:12]), head, body, time.perf_counter() - began)
        if answer.closes:
            self.close()
        return answer

    async def _exchange(self, request: bytes) -> tuple[bytes, bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(request)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as exc:
            if exc.partial:
                raise
            raise ConnectionResetError("closed without an answer") from exc
        at = head.lower().find(b"content-length:")
        length = int(head[at + 15 : head.index(b"\r", at)]) if at >= 0 else 0
        return head, await reader.readexactly(length)
