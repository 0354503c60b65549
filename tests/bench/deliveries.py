"""Numbered deliveries, and callers that push them over many connections as fast as they are answered."""

import asyncio
import re
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, NamedTuple, cast

import uvloop

from tests.support.entries import encoded, insert, preempted, push
from tests.support.process import LOOPBACK
from tests.support.program import SUBSCRIPTIONS

Kind = Literal["creation", "interruption"]

POOLS: Final = 20
_CLUSTERS: Final = 5
# Each placeholder is as long as its value. Ids of instances and operations are as long as Google's.
_INSTANCE: Final = "@instance@@@"
_SERIAL: Final = "@serial@@@@@"
_AT: Final = "2026-01-02T03:04:05.678901Z"
_DATA: Final = b"placeholder of the entry"
_MESSAGE_ID: Final = "@message id@"
_LENGTH: Final = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class Delivery(NamedTuple):
    """A delivery of an event. An equal one is a redelivery."""

    kind: Kind
    instance: int
    serial: int
    """The number of the operation; it distinguishes the events of an instance."""
    at: float


def entry_of(delivery: Delivery) -> bytes:
    """Return the log entry of a delivery."""
    template = _ENTRIES[delivery.kind, delivery.instance % POOLS]
    return (
        template.replace(_INSTANCE.encode(), b"%012d" % delivery.instance)
        .replace(_SERIAL.encode(), b"%012d" % delivery.serial)
        .replace(_AT.encode(), _timestamp(delivery.at))
    )


def body_of(delivery: Delivery) -> bytes:
    """Return the body of a push that brings the delivery."""
    before, after = _ENVELOPES[delivery.kind]
    message_id = b"%012d" % (2 * delivery.serial + (delivery.kind == "creation"))
    rest = after.replace(_MESSAGE_ID.encode(), message_id).replace(_AT.encode(), _timestamp(delivery.at))
    return before + b64encode(entry_of(delivery)) + rest


def _timestamp(at: float) -> bytes:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S.%f}Z".encode()


def _template(kind: Kind, pool: int) -> bytes:
    name, instance_id = f"gke-shop-spot-3c1f7a52-{_INSTANCE}", f"4158123{_INSTANCE}"
    operation = f"{_SERIAL}-5f2e8c1a9d3b7-64ba2d5c-9a7b3c1d"
    if kind == "interruption":
        operation = f"systemevent-{operation}"
        entry = preempted(name, instance_id=instance_id, operation=operation, timestamp=_AT)
        return encoded(entry | {"receiveTimestamp": _AT})
    cluster, pool_name = f"shop-{pool % _CLUSTERS}", f"spot-{pool}"
    operation = f"operation-{operation}"
    entry = insert(
        name,
        instance_id=instance_id,
        cluster=cluster,
        node_pool=pool_name,
        operation=operation,
        timestamp=_AT,
    )
    return encoded(entry | {"receiveTimestamp": _AT})


def _envelope(kind: Kind) -> tuple[bytes, bytes]:
    subscription = f"projects/shop-prod/subscriptions/{SUBSCRIPTIONS[kind]}"
    body = push(_DATA, message_id=_MESSAGE_ID, subscription=subscription, publish_time=_AT)
    before, _, after = body.partition(b64encode(_DATA))
    return before, after


_KINDS: Final[Sequence[Kind]] = ("creation", "interruption")
_ENTRIES: Final = {(kind, pool): _template(kind, pool) for kind in _KINDS for pool in range(POOLS)}
_ENVELOPES: Final = {kind: _envelope(kind) for kind in _KINDS}


@dataclass(slots=True)
class PushResults:
    """Results of pushes."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    """Time from the write of the request to the last byte of the answer."""
    refused: Counter[int] = field(default_factory=Counter)
    """Answers other than 200, by status."""


def push_all(
    port: int,
    token: str,
    deliveries: Iterator[Delivery],
    *,
    connections: int,
    window: int = 0,
    on_window: Callable[[PushResults], None] = lambda _: None,
) -> PushResults:
    """Push all deliveries. Each connection sends its next push as soon as the last is answered.

    If `window` is not 0, call `on_window` with the results of each `window` answers. Return the results
    of the remaining answers. Raises ConnectionError if the exporter closes a connection.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_push_all(port, _SharedState(token, deliveries, window, on_window), connections))


async def _push_all(port: int, shared: "_SharedState", connections: int) -> PushResults:
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: _Connection(shared), LOOPBACK, port) for _ in range(connections)
    ]
    shared.started = time.perf_counter()
    ends = [protocol.start(loop) for _, protocol in opened]
    try:
        await asyncio.gather(*ends)
    finally:
        for transport, _ in opened:
            transport.close()
    shared.results.seconds = time.perf_counter() - shared.started
    return shared.results


class _SharedState:
    """The deliveries and results that all connections share."""

    def __init__(
        self,
        token: str,
        deliveries: Iterator[Delivery],
        window: int,
        on_window: Callable[[PushResults], None],
    ) -> None:
        self.results = PushResults()
        self.started = 0.0
        self._deliveries = deliveries
        self._window = window
        self._on_window = on_window
        self._heads = {
            kind: (
                f"POST /events/{kind} HTTP/1.1\r\nHost: {LOOPBACK}\r\nAuthorization: Bearer {token}\r\n"
                "Content-Type: application/json\r\nContent-Length: "
            ).encode()
            for kind in _KINDS
        }

    def next(self) -> bytes | None:
        delivery = next(self._deliveries, None)
        if delivery is None:
            return None
        body = body_of(delivery)
        return b"%s%d\r\n\r\n%s" % (self._heads[delivery.kind], len(body), body)

    def answered(self, status: int, seconds: float) -> None:
        self.results.latencies_ms.append(seconds * 1000)
        if status != 200:
            self.results.refused[status] += 1
        if len(self.results.latencies_ms) == self._window:
            now = time.perf_counter()
            self.results.seconds = now - self.started
            self._on_window(self.results)
            self.results, self.started = PushResults(), now


class _Connection(asyncio.Protocol):
    """A connection that pushes one delivery after the other."""

    def __init__(self, shared: _SharedState) -> None:
        self._shared = shared
        self._answer = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def start(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Send the first push. The future is done when no delivery is left."""
        self._end = loop.create_future()
        self._push()
        return self._end

    def _push(self) -> None:
        request = self._shared.next()
        if request is None:
            self._end.set_result(None)
            return
        self._transport.write(request)
        self._sent_at = time.perf_counter()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head = self._answer.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(self._answer, 0, head)
        if len(self._answer) < head + 4 + (int(length[1]) if length else 0):
            return
        status, self._answer = int(self._answer[9:12]), b""
        self._shared.answered(status, time.perf_counter() - self._sent_at)
        self._push()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._end.done():
            self._end.set_exception(exc or ConnectionResetError("the exporter closed the connection"))
