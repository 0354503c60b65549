"""Creations at a constant rate, with the latency of each push."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from tests.chaos.push_sender import PushConnection
from tests.support.entries import insert, made_id
from tests.support.measure import percentile
from tests.support.program import body_of

PUSHES_PER_SECOND: Final = 100
CLUSTER: Final = "tills"


class SteadyTraffic:
    """Pushes creations, at the same rate however long the answers take."""

    def __init__(self, port: int, token: str, seed: int) -> None:
        self.pushed = 0
        self.failed: list[str] = []
        self._port = port
        self._token = token
        self._seed = seed

    async def latencies_ms(self, seconds: float) -> list[float]:
        """Push for this long. Return the milliseconds from each push's scheduled time to its answer."""
        latencies: list[float] = []
        free: asyncio.Queue[PushConnection] = asyncio.Queue()
        connections = [PushConnection(self._port) for _ in range(32)]
        for connection in connections:
            free.put_nowait(connection)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds * PUSHES_PER_SECOND)):
                due = began + number / PUSHES_PER_SECOND
                await asyncio.sleep(max(due - time.monotonic(), 0))
                group.create_task(self._push(free, due, latencies))
        for connection in connections:
            connection.close()
        return latencies

    async def _push(self, free: "asyncio.Queue[PushConnection]", due: float, latencies: list[float]) -> None:
        self.pushed += 1
        name = f"gke-{self._seed}-{self.pushed}"
        body = body_of(insert(name, instance_id=made_id(name), cluster=CLUSTER))
        connection = await free.get()
        try:
            answer = await connection.post("/events/creation", body, self._token)
        except (OSError, EOFError) as exc:
            self.failed.append(type(exc).__name__)
        else:
            latencies.append(1000 * (time.monotonic() - due))
            if answer.status != 200 or answer.outcome != "tracked":
                self.failed.append(answer.outcome)
        finally:
            free.put_nowait(connection)


def median_and_p99(milliseconds: Sequence[float]) -> str:
    """Return the median and the 99th percentile as text."""
    return f"{percentile(milliseconds, 0.5):.1f}/{percentile(milliseconds, 0.99):.1f}"
