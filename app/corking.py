"""HTTP as uvicorn speaks it, but for one thing: answers leave together, each in one write.

uvicorn writes an answer's head and its body as soon as it has them. Each write is a packet and wakes up who
waits for it, which costs more than reading a push; and a commit answers many at once.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


def corked_protocol() -> type[HttpToolsProtocol]:
    """A protocol for one server, whose answers leave when the turn of its loop ends."""
    cork = _Cork()

    class CorkedProtocol(HttpToolsProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(_Corked(transport, cork))  # type: ignore[arg-type]

    return CorkedProtocol


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

    def send(self) -> None:
        data, self._held = self._held, b""
        # The caller may have gone since; uvloop refuses a write then, and others wait for theirs.
        if data and not self._transport.is_closing():
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever else a transport has
        return getattr(self._transport, name)
