"""An HTTP client that sends raw bytes, because a library would refuse to send some of the hostile headers."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from tests.support.program import Exporter

_TIMEOUT_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, and its latency."""

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


class Connection:
    """A connection to the exporter's main listener, opened again after the other side closed it."""

    def __init__(self, exporter: Exporter) -> None:
        address = urlsplit(exporter.url)
        self._host, self._port = str(address.hostname), int(address.port or 0)
        self._authorization = exporter.headers.get("authorization", "").encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def push(
        self,
        endpoint: str,
        body: bytes,
        authorization: bytes | None = None,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> Answer:
        """Push a body. Raises OSError (TimeoutError included) or EOFError if no complete answer comes."""
        fields = [
            b"POST /events/%s HTTP/1.1\r\nhost: exporter" % endpoint.encode(),
            b"authorization: " + (self._authorization if authorization is None else authorization),
            *(name.encode() + b": " + value for name, value in headers),
            b"content-length: %d\r\n\r\n" % len(body),
        ]
        return await self.send(b"\r\n".join(fields) + body)

    async def send(self, request: bytes) -> Answer:
        """Send a complete request. Raises like `push`."""
        began = time.perf_counter()
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            if self._streams is None:
                self._streams = await asyncio.open_connection(self._host, self._port)
            reader, writer = self._streams
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15 : head.index(b"\r", at)]) if at >= 0 else 0
            body = await reader.readexactly(length)
        answer = Answer(int(head[9:12]), head, body, time.perf_counter() - began)
        if answer.closes:
            self.close()
        return answer
