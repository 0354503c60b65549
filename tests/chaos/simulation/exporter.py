"""A simulated exporter: the writer and everything that uses its store."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from app.domain.batch import Applied
from app.domain.events import Event
from app.domain.ledger import Query
from app.domain.totals import Totals
from app.errors import StoreUnavailableError
from app.metrics import Metrics
from app.periodic import PeriodicTasks
from app.recorder import Recorder
from app.store.port import OpenedStore, Store
from app.store.watched import WatchedLedger
from tests.chaos.cloud import PROJECT
from tests.chaos.simulation.clocks import Clock
from tests.chaos.simulation.report import SimulationError
from tests.support.recording import record


@dataclass(slots=True)
class _Life:
    """The parts of a running exporter."""

    opened: OpenedStore
    metrics: Metrics
    recorder: Recorder
    periodic: PeriodicTasks
    ledger: WatchedLedger
    writer: asyncio.Task[None]


class Exporter:
    """An exporter that starts and ends. Its name and its clock remain."""

    def __init__(self, name: str, clock: Clock, open_store: Callable[[], OpenedStore]) -> None:
        self.name = name
        self.clock = clock
        self.was_listed = False
        self.fresh = False
        """The last use of the store has succeeded."""
        self.killed = False
        """The process has ended at some write. Whatever it does after that is not done."""
        self._open_store = open_store
        self._running = False

    @property
    def running(self) -> bool:
        """True if the process was started and has not ended."""
        return self._running and not self.killed

    @property
    def metrics(self) -> Metrics:
        """The metrics of the latest process."""
        return self._life.metrics

    @property
    def opened(self) -> OpenedStore:
        """The store of the latest process."""
        return self._life.opened

    @property
    def must_restart(self) -> bool:
        """True if the process has ended, or must."""
        recorder = self._life.recorder
        return self._running and (self.killed or recorder.fatal.is_set() or self._life.writer.done())

    @property
    def lost_store(self) -> bool:
        """True if only a restart can help."""
        return self._life.recorder.fatal.is_set()

    @property
    def fatal_error(self) -> str:
        """The reason for which only a restart can help."""
        return self._life.recorder.fatal_error

    def start(self) -> None:
        """Start a process. Raises StartError."""
        clock = self.clock
        opened = self._open_store()
        metrics = Metrics(
            projects=[PROJECT],
            recovered_projects=[PROJECT],
            monotonic=clock.time.monotonic,
            clock=clock.wall,
        )
        recorder = Recorder(opened.store, metrics, batch_linger_seconds=0.0, clock=clock.wall)
        metrics.restore(opened.store.state())
        self.was_listed, self.fresh, self.killed, self._running = False, True, False, True
        self._life = _Life(
            opened,
            metrics,
            recorder,
            PeriodicTasks(recorder, metrics, sync=opened.sync, are_listed=lambda: self.was_listed),
            WatchedLedger(opened.ledger, recorder.lose_store),
            asyncio.create_task(recorder.run()),
        )

    async def end(self) -> None:
        """End the process. After a kill nothing of what it still does has an effect."""
        if not self._running:
            return
        self._running = False
        self.fresh = self.fresh and not self.killed
        self._life.recorder.close()
        await asyncio.wait([self._life.writer])
        if not self.killed and (error := self._life.writer.exception()) is not None:
            raise SimulationError("the writer has ended") from error
        self._life.opened.store.close()

    async def record(self, events: Sequence[Event]) -> bool:
        """Deliver events, and return whether all were acknowledged."""
        recording = [record(self._life.recorder, event) for event in events]
        results = await asyncio.gather(*recording, return_exceptions=True)
        refused = [error for error in results if isinstance(error, BaseException)]
        for error in refused:
            if not isinstance(error, StoreUnavailableError) and not self.killed:
                raise SimulationError(f"{error!r} instead of an outcome") from error
        self.fresh = not refused and not self.killed
        return self.fresh

    async def run_periodic_work(self) -> None:
        """Run the periodic work that is due."""
        if self.running:
            if not await self._life.periodic.run_due(self.clock.time.monotonic()):
                self.fresh = False
            elif not self.fresh:
                await self.perform(_do_nothing)
            self.fresh = self.fresh and not self.killed

    async def perform(self, work: Callable[[Store, float], Applied]) -> Applied | None:
        """Do other work, and return None if it failed or the process ended."""
        if not self.running:
            return None
        try:
            applied = await self._life.recorder.perform(work)
        except StoreUnavailableError:
            self.fresh = False
            return None
        self.fresh = not self.killed
        return None if self.killed else applied

    def read_ledger(self) -> None:
        """Read the ledger as the page does."""
        if self.running:
            with suppress(StoreUnavailableError):
                self._life.ledger.interruptions(Query(limit=10))
                self._life.ledger.week(self.clock.wall())


def _do_nothing(store: Store, now: float) -> Applied:
    return store.release_held(Totals(), now)
