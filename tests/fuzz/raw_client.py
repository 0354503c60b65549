"""Pushes as raw bytes, because an HTTP library would refuse to send some of the hostile headers."""

from typing import Final
from urllib.parse import urlsplit

from tests.support.program import ExporterProcess
from tests.support.raw_http import Answer, RawConnection

_TIMEOUT_SECONDS: Final = 30.0


class Connection(RawConnection):
    """A connection to the exporter's main listener."""

    def __init__(self, exporter: ExporterProcess) -> None:
        address = urlsplit(exporter.url)
        super().__init__(str(address.hostname), int(address.port or 0))
        self._authorization = exporter.headers.get("authorization", "").encode()

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
        return await self.send(b"\r\n".join(fields) + body, within=_TIMEOUT_SECONDS)
