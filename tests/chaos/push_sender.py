"""Deliveries over raw connections, repeated as Pub/Sub does until each is acknowledged."""

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Final, Self

from tests.chaos.traffic import Message
from tests.support.process import LOOPBACK
from tests.support.raw_http import Answer, RawConnection

CALLERS: Final = 24
TIMEOUT_SECONDS: Final = 5.0
_SHORT_TIMEOUT_SHARE: Final = 0.1
"""The share of first deliveries whose caller times out after some milliseconds."""


class PushConnection(RawConnection):
    """A caller's connection. It does less than an HTTP library, which would limit the speed of a run."""

    def __init__(self, port: int) -> None:
        super().__init__(LOOPBACK, port)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    async def post(self, path: str, body: bytes, token: str, *, within: float = TIMEOUT_SECONDS) -> Answer:
        """Push a body. Raises like `send`."""
        head = f"POST {path} HTTP/1.1\r\nhost: {LOOPBACK}\r\ncontent-length: {len(body)}\r\n"
        if token:
            head += f"authorization: Bearer {token}\r\n"
        return await self.send(head.encode() + b"\r\n" + body, within=within)


class PushSender:
    """Delivers messages until each is acknowledged.

    `run` may run in its own thread; other threads may read the counts.
    """

    def __init__(
        self,
        port: int,
        messages: Sequence[Message],
        *,
        token: Callable[[], str] = str,
        seed: int = 0,
        short_timeout_share: float = _SHORT_TIMEOUT_SHARE,
    ) -> None:
        self.acknowledged = 0
        self.outcomes: Counter[str] = Counter()
        self.repeated: Counter[str] = Counter()
        """Requests that were not acknowledged, by status and reason or by exception."""
        self.under_way: set[int] = set()
        """Numbers of the requests that are not answered yet."""
        self._numbers = count()
        self.stopped = False
        """Set to True to stop."""
        self._port = port
        self._queue = deque(messages)
        self._token = token
        self._short_timeout_share = short_timeout_share
        self._rng = random.Random(seed)  # noqa: S311  # reproducible, not secret

    def run(self) -> None:
        """Deliver all messages."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(self._run_caller())

    async def _run_caller(self) -> None:
        async with PushConnection(self._port) as connection:
            while self._queue and not self.stopped:
                await self._deliver(connection, self._queue.popleft())

    async def _deliver(self, connection: PushConnection, message: Message) -> None:
        is_short = self._rng.random() < self._short_timeout_share
        within = self._rng.uniform(0.001, 0.02) if is_short else TIMEOUT_SECONDS
        while not self.stopped:
            number = next(self._numbers)
            self.under_way.add(number)
            try:
                answer = await connection.post(
                    f"/events/{message.endpoint}", message.body, self._token(), within=within
                )
            except (OSError, EOFError) as exc:  # a TimeoutError is an OSError
                self.repeated[type(exc).__name__] += 1
            else:
                if answer.status == 200:
                    self.outcomes[answer.outcome] += 1
                    self.acknowledged += 1
                    return
                self.repeated[answer.outcome] += 1
            finally:
                self.under_way.discard(number)
            within = TIMEOUT_SECONDS
            await asyncio.sleep(self._rng.uniform(0.05, 0.2))  # as Pub/Sub backs off
