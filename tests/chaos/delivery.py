"""Deliveries to several replicas through their balancer, each repeated until it is acknowledged."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx

from tests.chaos.traffic import Message
from tests.support.replicas import Replicas

CALLERS: Final = 24
_TIMEOUT_SECONDS: Final = 4


@dataclass(slots=True)
class Report:
    """What was done, and what was wrong with the result."""

    delivered: int = 0
    acknowledged: int = 0
    repeated: Counter[str] = field(default_factory=Counter)
    """Requests that were not acknowledged, by what became of them."""
    slowest_refusal_seconds: float = 0.0
    steps: Counter[str] = field(default_factory=Counter)
    leaders: list[str] = field(default_factory=list)
    seconds: float = 0.0
    scrapes: int = 0
    wrong: list[str] = field(default_factory=list)


class Delivery:
    """Delivers messages as Pub/Sub does, again and again until each is acknowledged."""

    def __init__(self, replicas: Replicas, chance: random.Random) -> None:
        self.report = Report()
        self.unacknowledged = 0
        self._replicas = replicas
        self._chance = chance
        self._waiting: asyncio.Queue[Message] = asyncio.Queue()
        self._progress = asyncio.Condition()

    async def deliver(self, messages: Sequence[Message], wait_for: int) -> None:
        """Have these delivered; returns once so many of them are acknowledged."""
        self.report.delivered += len(messages)
        self.unacknowledged += len(messages)
        for message in messages:
            self._waiting.put_nowait(message)
        left = len(messages) - wait_for
        async with self._progress:
            await self._progress.wait_for(lambda: self.unacknowledged <= left)

    async def all_acknowledged(self) -> None:
        """Wait until nothing is under way."""
        async with self._progress:
            await self._progress.wait_for(lambda: not self.unacknowledged)

    async def call(self) -> None:
        """Deliver one message after the other."""
        limits = httpx.Limits(max_connections=2)
        async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_SECONDS, limits=limits) as client:
            while True:
                message = await self._waiting.get()
                urls = self._two_replicas() if message.twice else [self._replicas.nginx.url]
                await asyncio.gather(*(self._repeat(client, message, url) for url in urls))
                self.report.acknowledged += 1
                self.unacknowledged -= 1
                async with self._progress:
                    self._progress.notify_all()

    def _two_replicas(self) -> list[str]:
        return [self._replicas[name].url for name in self._chance.sample(self._replicas.names, 2)]

    async def _repeat(self, client: httpx.AsyncClient, message: Message, url: str) -> None:
        """Push to the URL, and then to whomever nginx chooses, until it is acknowledged."""
        while (refusal := await self._refusal(client, message, url)) is not None:
            self.report.repeated[refusal] += 1
            url = self._replicas.nginx.url
            await asyncio.sleep(self._chance.uniform(0.05, 0.2))  # as Pub/Sub backs off

    async def _refusal(self, client: httpx.AsyncClient, message: Message, url: str) -> str | None:
        began = time.monotonic()
        try:
            answer = await client.post(f"{url}/events/{message.endpoint}", content=message.body)
        except httpx.HTTPError as exc:
            return type(exc).__name__
        if answer.status_code == httpx.codes.OK:
            return None
        if "problem+json" not in answer.headers["content-type"]:
            return f"{answer.status_code} of nginx"
        took = time.monotonic() - began
        self.report.slowest_refusal_seconds = max(self.report.slowest_refusal_seconds, took)
        return f"{answer.status_code} {answer.json()['reason']}"
