"""Deliveries to several replicas through their balancer, repeated until each is acknowledged."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx

from tests.chaos.traffic import Message
from tests.support.process import NO_AUTHORITIES
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
        limits = httpx.Limits(max_connections=2)
        async with httpx.AsyncClient(
            trust_env=False, timeout=_TIMEOUT_SECONDS, limits=limits, verify=NO_AUTHORITIES
        ) as client:
            while True:
                message = await self._queue.get()
                urls = self._two_replicas() if message.to_two_replicas else [self._replicas.nginx.url]
                await asyncio.gather(*(self._repeat(client, message, url) for url in urls))
                self.report.acknowledged += 1
                self.unacknowledged -= 1
                async with self._progress:
                    self._progress.notify_all()

    def _two_replicas(self) -> list[str]:
        return [self._replicas[name].url for name in self._rng.sample(self._replicas.names, 2)]

    async def _repeat(self, client: httpx.AsyncClient, message: Message, url: str) -> None:
        """Push to the URL, then to nginx, until the message is acknowledged."""
        while (refusal := await self._push_once(client, message, url)) is not None:
            self.report.repeated[refusal] += 1
            url = self._replicas.nginx.url
            await asyncio.sleep(self._rng.uniform(0.05, 0.2))  # as Pub/Sub backs off

    async def _push_once(self, client: httpx.AsyncClient, message: Message, url: str) -> str | None:
        began = time.monotonic()
        try:
            answer = await client.post(f"{url}/events/{message.endpoint}", content=message.body)
        except httpx.HTTPError as exc:
            return type(exc).__name__
        if answer.status_code == httpx.codes.OK:
            return None
        if "problem+json" not in answer.headers["content-type"]:
            return f"{answer.status_code} by nginx"
        took = time.monotonic() - began
        self.report.slowest_refusal_seconds = max(self.report.slowest_refusal_seconds, took)
        return f"{answer.status_code} {answer.json()['reason']}"
