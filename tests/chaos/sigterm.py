"""SIGTERM while many push: who was answered, and who was cut off."""

import asyncio
import base64
import json
import signal
import time
from collections import Counter, deque
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from tests.chaos.harm import Size, demand
from tests.chaos.load import port_of, running, traffic_of
from tests.chaos.pushes import CALLERS, Pushes, Wire
from tests.chaos.traffic import Message, Traffic
from tests.chaos.verdict import ledger
from tests.support.program import Exporter, open_door


def sigterm(directory: Path, size: Size, seed: int) -> str:
    """Everybody gets a whole answer or none at all; the ledger has what was acknowledged, no more."""
    with open_door() as door, Exporter(directory, door) as exporter:
        creations, interruptions = _halves(traffic_of(size, seed))
        with running(Pushes(port_of(exporter), creations, token=lambda: door.token, hasty=0)):
            pass
        farewell = _Farewell(exporter, interruptions, door.token)
        asyncio.run(farewell.run())
        stopping = time.monotonic()
        status = exporter.process.wait(within=15)
        took = time.monotonic() - stopping
        exporter.process.start()
        rows = ledger(exporter.client, f"http://{exporter.metrics_address}")
        acknowledged = {_identity(message) for message in farewell.acknowledged}
        cut_off = {_identity(message) for message in farewell.cut_off}
        demand(status == 0, f"exit {status}")
        demand(not farewell.wrong, f"answers: {dict(farewell.wrong)}")
        demand(acknowledged <= rows.keys(), f"{len(acknowledged - rows.keys())} acknowledged and not kept")
        silent = (cut_off & rows.keys()) - acknowledged
        demand(not silent, f"{len(silent)} kept and not answered")
        return (
            f"{len(farewell.acknowledged)} acknowledged, refused {dict(farewell.refused)},"
            f" {len(farewell.cut_off)} connections not taken any more, none of their events kept;"
            f" exit 0 after {took:.1f} s"
        )


def _halves(made: Traffic) -> tuple[list[Message], list[Message]]:
    """The creations, and the interruptions, each once."""
    first: dict[object, Message] = {}
    for message in made.messages:
        first.setdefault((message.endpoint, _identity(message)), message)
    return (
        [message for message in first.values() if message.endpoint == "creation"],
        [message for message in first.values() if message.endpoint == "interruption"],
    )


def _identity(message: Message) -> tuple[str, str]:
    """An entry's instance id and moment, as the ledger has them."""
    entry = json.loads(base64.b64decode(json.loads(message.body)["message"]["data"]))
    return entry["resource"]["labels"]["instance_id"], datetime.fromisoformat(entry["timestamp"]).isoformat()


class _Farewell:
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
