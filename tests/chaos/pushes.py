"""Deliveries over plain connections, each repeated until it is acknowledged, as Pub/Sub does."""

import asyncio
import json
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Self

from tests.chaos.traffic import Message
from tests.support.process import LOOPBACK

CALLERS: Final = 24
TIMEOUT_SECONDS: Final = 5.0
_HASTY: Final = 0.1
"""The part of first deliveries whose caller hardly waits."""


class Answer(NamedTuple):
    """What came back, whole."""

    status: int
    body: bytes

    @property
    def outcome(self) -> str:
        """What became of the message; of a refusal the reason, with its status."""
        told = json.loads(self.body)
        return str(told["outcome"]) if self.status == 200 else f"{self.status} {told['reason']}"


class Wire:
    """One caller's connection, made anew where it has ended.

    Slimmer than a library's client: it must not be what limits a run, and it tells how a request ended.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def connected(self) -> bool:
        """Whether the next request goes over the connection of the last one."""
        return self._streams is not None

    async def post(self, path: str, body: bytes, token: str, *, within: float = TIMEOUT_SECONDS) -> Answer:
        """Raises OSError where the connection ends or nothing comes in time, EOFError after half an answer.

        The next one is over a new connection then.
        """
        head = f"POST {path} HTTP/1.1\r\nhost: {LOOPBACK}\r\ncontent-length: {len(body)}\r\n"
        if token:
            head += f"authorization: Bearer {token}\r\n"
        try:
            async with asyncio.timeout(within):
                return await self._exchange(head.encode() + b"\r\n" + body)
        except BaseException:
            self.close()
            raise

    async def _exchange(self, request: bytes) -> Answer:
        if self._streams is None:
            self._streams = await asyncio.open_connection(LOOPBACK, self._port)
        reader, writer = self._streams
        writer.write(request)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as exc:
            if exc.partial:
                raise
            raise ConnectionResetError("closed without an answer") from exc
        status, *lines = head.decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines if line)
        answer = Answer(int(status.split()[1]), await reader.readexactly(int(headers["content-length"])))
        if headers.get("connection") == "close":
            self.close()
        return answer

    def close(self) -> None:
        """End the connection at once."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


class Pushes:
    """Delivers messages until each is acknowledged.

    `run` may have a thread of its own; the counts are for others to read.
    """

    def __init__(
        self,
        port: int,
        messages: Sequence[Message],
        *,
        token: Callable[[], str] = str,
        seed: int = 0,
        hasty: float = _HASTY,
    ) -> None:
        self.acknowledged = 0
        self.outcomes: Counter[str] = Counter()
        self.repeated: Counter[str] = Counter()
        """Requests that were not acknowledged, by what became of them."""
        self.stopped = False
        """Set it to have no more delivered."""
        self._port = port
        self._waiting = deque(messages)
        self._token = token
        self._hasty = hasty
        self._chance = random.Random(seed)  # noqa: S311  # to be repeated, not to be secret

    def run(self) -> None:
        """Deliver all of it."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(CALLERS):
                group.create_task(self._call())

    async def _call(self) -> None:
        async with Wire(self._port) as wire:
            while self._waiting and not self.stopped:
                await self._repeat(wire, self._waiting.popleft())

    async def _repeat(self, wire: Wire, message: Message) -> None:
        hasty = self._chance.random() < self._hasty
        within = self._chance.uniform(0.001, 0.02) if hasty else TIMEOUT_SECONDS
        while not self.stopped:
            try:
                answer = await wire.post(
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
            within = TIMEOUT_SECONDS
            await asyncio.sleep(self._chance.uniform(0.05, 0.2))  # as Pub/Sub backs off
