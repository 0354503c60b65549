"""An exporter in a process of its own, whose clock is the clock of the simulation, and that can be killed."""

import time
from collections.abc import Mapping
from math import isnan, nan
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx

from app.store.engine import SharedEngine
from tests.simulation.truth import HOUR
from tests.support.exporter import Exporter
from tests.support.process import LOOPBACK

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

_SPAWN: Final = get_context("spawn")
_WORK: Final = "periodic work"


class SharedClock:
    """A clock that this process sets, and that its child processes read."""

    def __init__(self, at: float) -> None:
        self._at = _SPAWN.Value("d", at, lock=False)

    def __call__(self) -> float:
        return time.time() if isnan(self._at.value) else self._at.value

    def set(self, at: float | None) -> None:
        """Let it stand still at this time; None: let it run with the real time."""
        self._at.value = nan if at is None else at


class SimulatedExporter:
    """Runs between `start` and `stop` or `kill`. It may be started again.

    A listing that a pending interruption requests takes a second: hours of the simulated time. So there is
    at most one of them in each life.
    """

    def __init__(self, directory: Path, settings: Mapping[str, object], clock: SharedClock) -> None:
        self._arguments = (directory, dict(settings), clock)
        self._process: SpawnProcess | None = None

    def start(self) -> None:
        """Start to serve."""
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.ports: tuple[int, int] = self._pipe.recv()
        self.metrics_url = f"http://{LOOPBACK}:{self.ports[1]}"
        self.client = httpx.Client(trust_env=False, timeout=60)

    def begin_periodic_work(self) -> None:
        """Have the exporter do its periodic work once."""
        self._pipe.send(_WORK)

    def end_periodic_work(self) -> None:
        """Return once the periodic work is done."""
        self._pipe.recv()

    def stop(self) -> None:
        """Stop as after SIGTERM."""
        if self._process is not None:
            self._pipe.send(None)
            self._process.join()
            self._clean_up()

    def kill(self) -> None:
        """End it by SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._clean_up()

    def _clean_up(self) -> None:
        self._process = None
        self._pipe.close()
        self.client.close()


def _serve(pipe: Connection, directory: Path, settings: Mapping[str, object], clock: SharedClock) -> None:
    """Run an exporter until the pipe has None; do its periodic work for each order before that."""
    with Exporter(
        directory, settings, two_listeners=True, clock=clock, shortest_pause_seconds=HOUR
    ) as exporter:
        pipe.send(exporter.ports)
        while (order := pipe.recv()) is not None:
            exporter.perform(_work(exporter)).result()
            pipe.send(order)


async def _work(exporter: Exporter) -> None:
    perform, store = exporter.parts.recorder.perform, exporter.parts.store
    if isinstance(store, SharedEngine):
        await perform(lambda _, now: store.sync(now))
    if exporter.parts.metrics.pending:
        await perform(lambda store, now: store.expire(now))
    await perform(lambda store, now: store.accrue_instance_seconds(now))
