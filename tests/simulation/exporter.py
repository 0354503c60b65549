"""An exporter in a process of its own, whose clock is the clock of the simulation, and that can be killed."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Mapping
from math import isnan, nan
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import httpx

from app.serving import drain
from app.store.engine import SharedEngine
from tests.simulation.truth import HOUR
from tests.support.exporter import Exporter
from tests.support.process import LOOPBACK, NO_AUTHORITIES, eventually
from tests.support.warm_python import PROGRAM

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerProcess

_CONTEXT: Final = get_context("forkserver")
# Each start is a fork of a process that has imported the exporter.
_CONTEXT.set_forkserver_preload([__name__, *PROGRAM])
_Order: TypeAlias = Literal["work", "is draining", "is lingering"]


class SharedClock:
    """A clock that this process sets, and that its child processes read."""

    def __init__(self, at: float) -> None:
        self._at = _CONTEXT.Value("d", at, lock=False)

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

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, object],
        clock: SharedClock,
        *,
        python: str = sys.executable,
    ) -> None:
        """`python` starts the child processes of the exporter."""
        self._arguments = (directory, dict(settings), clock, python)
        self._process: ForkServerProcess | None = None

    def start(self) -> None:
        """Start to serve."""
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        self.ports: tuple[int, int] = self._pipe.recv()
        self.metrics_url = f"http://{LOOPBACK}:{self.ports[1]}"
        self.client = httpx.Client(trust_env=False, timeout=60, verify=NO_AUTHORITIES)

    def begin_periodic_work(self) -> None:
        """Have the exporter do its periodic work once."""
        self._pipe.send("work")

    def end_periodic_work(self) -> None:
        """Return once the periodic work is done."""
        self._pipe.recv()

    def begin_drain(self) -> None:
        """Send SIGTERM, and return once the exporter is draining."""
        self._terminate()
        eventually(lambda: self._answer("is draining"), within=30, what="the exporter is draining")

    def begin_linger(self) -> None:
        """End the drain period by a further SIGTERM, and return once only scrapes are answered."""
        self._terminate()
        eventually(lambda: self._answer("is lingering"), within=30, what="the exporter is lingering")

    def end_linger(self) -> None:
        """End the linger period by a further SIGTERM, and return once the process has ended."""
        self._terminate()
        self.stop()

    def stop(self) -> None:
        """Stop without the drain and linger periods; if one has begun, return after its end."""
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

    def _terminate(self) -> None:
        assert self._process is not None
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGTERM)

    def _answer(self, order: _Order) -> bool:
        self._pipe.send(order)
        answer: bool = self._pipe.recv()
        return answer

    def _clean_up(self) -> None:
        self._process = None
        self._pipe.close()
        self.client.close()


def _serve(
    pipe: Connection, directory: Path, settings: Mapping[str, object], clock: SharedClock, python: str
) -> None:
    """Run an exporter until the pipe has None, and follow the orders before that. SIGTERM drains it."""
    sys.executable = python
    signals: asyncio.Queue[int] = asyncio.Queue()
    with Exporter(
        directory,
        settings,
        two_listeners=True,
        clock=clock,
        # The leases of replicas, which a Redis needs, are in real time.
        monotonic=clock if "prometheus.hold_seconds" in settings else time.monotonic,
        shortest_pause_seconds=HOUR,
        page_seconds=HOUR,  # a reading that is held is not given up
    ) as exporter:
        signal.signal(signal.SIGTERM, lambda number, _: exporter.perform(signals.put(number)))
        stopping = exporter.perform(_stop(exporter, signals))
        pipe.send(exporter.ports)
        while (order := pipe.recv()) is not None:
            pipe.send(_follow(order, exporter))
        if exporter.parts.stopping:
            stopping.result()


def _follow(order: _Order, exporter: Exporter) -> bool:
    match order:
        case "work":
            exporter.perform(_work(exporter)).result()
            return True
        case "is draining":
            return exporter.parts.stopping
        case "is lingering":
            return exporter.parts.gate.closed


async def _stop(exporter: Exporter, signals: "asyncio.Queue[int]") -> None:
    await signals.get()
    await drain(exporter.parts, signals)


async def _work(exporter: Exporter) -> None:
    perform, store, metrics = exporter.parts.recorder.perform, exporter.parts.store, exporter.parts.metrics
    if isinstance(store, SharedEngine):
        await perform(lambda _, now: store.sync(now))
    if rows := metrics.ready_to_release():
        await perform(lambda store, now: store.release_held(rows, now))
    if metrics.pending:
        await perform(lambda store, now: store.expire(now))
    await perform(lambda store, now: store.accrue_instance_seconds(now))
