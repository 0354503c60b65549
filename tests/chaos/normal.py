"""Normal traffic at an even rate, each push timed."""

import asyncio
import time
from typing import Final

from tests.chaos.pushes import Wire
from tests.support.entries import insert, made_id
from tests.support.program import body_of

PER_SECOND: Final = 100
CLUSTER: Final = "tills"


class Normal:
    """Creates one instance after the other."""

    def __init__(self, port: int, token: str, seed: int) -> None:
        self.pushed = 0
        self.failed: list[str] = []
        self._port = port
        self._token = token
        self._seed = seed

    async def latencies(self, seconds: float) -> list[float]:
        """In milliseconds, from when each was due."""
        took: list[float] = []
        free: asyncio.Queue[Wire] = asyncio.Queue()
        wires = [Wire(self._port) for _ in range(32)]
        for wire in wires:
            free.put_nowait(wire)
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(int(seconds * PER_SECOND)):
                due = began + number / PER_SECOND
                await asyncio.sleep(max(due - time.monotonic(), 0))
                group.create_task(self._push(free, due, took))
        for wire in wires:
            wire.close()
        return took

    async def _push(self, free: "asyncio.Queue[Wire]", due: float, took: list[float]) -> None:
        self.pushed += 1
        name = f"gke-{self._seed}-{self.pushed}"
        body = body_of(insert(name, instance_id=made_id(name), cluster=CLUSTER))
        wire = await free.get()
        try:
            answer = await wire.post("/events/creation", body, self._token)
        except (OSError, EOFError) as exc:
            self.failed.append(type(exc).__name__)
        else:
            took.append(1000 * (time.monotonic() - due))
            if answer.status != 200 or answer.outcome != "tracked":
                self.failed.append(answer.outcome)
        finally:
            free.put_nowait(wire)


def percentiles(milliseconds: list[float]) -> str:
    """The median, and what 99 of 100 stay below."""
    ordered = sorted(milliseconds)
    return f"{ordered[len(ordered) // 2]:.1f}/{ordered[len(ordered) * 99 // 100]:.1f}"
