"""SIGTERM while many push: who was answered, and who was cut off."""

import asyncio
import signal
import time
from collections import Counter, deque
from collections.abc import Sequence

from tests.chaos.kills import port_of
from tests.chaos.pushes import CALLERS, Wire
from tests.chaos.traffic import Message
from tests.support.program import Exporter


class Farewell:
    """Pushes until the exporter is gone, and how they ended; SIGTERM comes when half are acknowledged."""

    def __init__(self, exporter: Exporter, messages: Sequence[Message], token: str) -> None:
        self.acknowledged: list[Message] = []
        self.cut_off: list[Message] = []
        """No byte came back: over a connection that was perhaps never accepted, or that had been closed."""
        self.wrong: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self._exporter = exporter
        self._waiting = deque(messages)
        self._half = len(messages) // 2
        self._token = token
        self._signalled_at = float("inf")

    async def run(self) -> None:
        """All of it."""
        # Every other caller has a new connection for each request: some wait to be accepted at the end.
        await asyncio.gather(*(self._call(fresh=number % 2 == 0) for number in range(2 * CALLERS)))

    async def _call(self, *, fresh: bool) -> None:
        async with Wire(port_of(self._exporter)) as wire:
            while self._waiting:
                try:
                    await self._push(wire, self._waiting.popleft())
                except ConnectionRefusedError:
                    self.refused["not connected"] += 1
                    return
                if fresh:
                    wire.close()
                if len(self.acknowledged) >= self._half and self._signalled_at == float("inf"):
                    self._signalled_at = time.monotonic()
                    self._exporter.process.send(signal.SIGTERM)

    async def _push(self, wire: Wire, message: Message) -> None:
        worked, began = wire.connected, time.monotonic()
        try:
            answer = await wire.post(f"/events/{message.endpoint}", message.body, self._token)
        except ConnectionRefusedError:
            raise
        except (OSError, EOFError) as exc:
            self.cut_off.append(message)
            if isinstance(exc, (TimeoutError, EOFError)):
                self.wrong["half an answer, or none in time"] += 1
            elif worked and began < self._signalled_at:
                self.wrong["none to what came before the signal"] += 1
        else:
            if answer.status == 200:
                self.acknowledged.append(message)
            else:
                self.refused[answer.outcome] += 1
