"""Deliveries to several replicas through their balancer, repeated until each is acknowledged."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from tests.chaos.load import port_of
from tests.chaos.push_sender import PushConnection
from tests.chaos.traffic import Message
from tests.support.replicas import Replicas

CALLERS: Final = 24
_TIMEOUT_SECONDS: Final = 4


@dataclass(slots=True)
class Report:
    """The course of a run, and the errors in its result."""

    delivered: int = 0
    acknowledged: int = 0
    repeated: Counter[str] = field(default_factory=Counter)
    """Requests that were not acknowledged, by status and reason or by exception."""
    slowest_refusal_seconds: float = 0.0
    steps: Counter[str] = field(default_factory=Counter)
    leaders: list[str] = field(default_factory=list)
    seconds: float = 0.0
    scrapes: int = 0
    errors: list[str] = field(default_factory=list)


class ReplicaSender:
    """Delivers messages as Pub/Sub does, again and again until each is acknowledged."""

    def __init__(self, replicas: Replicas, rng: random.Random) -> None:
        self.report = Report()
        self.unacknowledged = 0
        self._replicas = replicas
        self._rng = rng
        self._queue: asyncio.Queue[Message] = asyncio.Queue()
        self._progress = asyncio.Condition()

    async def deliver(self, messages: Sequence[Message], wait_for: int) -> None:
        """Queue these messages; return when this many of them are acknowledged."""
        self.report.delivered += len(messages)
        self.unacknowledged += len(messages)
        for message in messages:
            self._queue.put_nowait(message)
        left = len(messages) - wait_for
        async with self._progress:
            await self._progress.wait_for(lambda: self.unacknowledged <= left)

    async def wait_until_acknowledged(self) -> None:
        """Wait until all queued messages are acknowledged."""
        async with self._progress:
            await self._progress.wait_for(lambda: not self.unacknowledged)

    async def run_caller(self) -> None:
        """Deliver queued messages one after the other, without end."""
        nginx = self._replicas.nginx.port
        # The second is for the messages that go to two replicas at the same time.
        async with PushConnection(nginx) as first, PushConnection(nginx) as second:
            while True:
                message = await self._queue.get()
                if message.to_two_replicas:
                    ports = self._two_replicas()
                    both = zip((first, second), ports, strict=True)
                    await asyncio.gather(*(self._push_to_replica(message, *each) for each in both))
                else:
                    await self._repeat(first, message)
                self.report.acknowledged += 1
                self.unacknowledged -= 1
                async with self._progress:
                    self._progress.notify_all()

    def _two_replicas(self) -> list[int]:
        return [port_of(self._replicas[name]) for name in self._rng.sample(self._replicas.names, 2)]

    async def _push_to_replica(self, message: Message, nginx: PushConnection, port: int) -> None:
        """Push to a replica once, then to nginx, until the message is acknowledged."""
        async with PushConnection(port) as replica:
            refusal = await self._push_once(replica, message)
        if refusal is not None:
            await self._back_off(refusal)
            await self._repeat(nginx, message)

    async def _repeat(self, nginx: PushConnection, message: Message) -> None:
        """Push until the message is acknowledged."""
        while (refusal := await self._push_once(nginx, message)) is not None:
            await self._back_off(refusal)

    async def _back_off(self, refusal: str) -> None:
        self.report.repeated[refusal] += 1
        await asyncio.sleep(self._rng.uniform(0.05, 0.2))  # as Pub/Sub backs off

    async def _push_once(self, connection: PushConnection, message: Message) -> str | None:
        try:
            answer = await connection.post(
                f"/events/{message.endpoint}", message.body, token="", within=_TIMEOUT_SECONDS
            )
        except (OSError, EOFError) as exc:  # a TimeoutError is an OSError
            return type(exc).__name__
        if answer.status == HTTPStatus.OK:
            return None
        if "problem+json" not in answer.content_type:
            return f"{answer.status} by nginx"
        self.report.slowest_refusal_seconds = max(self.report.slowest_refusal_seconds, answer.seconds)
        return answer.outcome
