"""The exporters of one store, and what they and their cloud do in a simulation."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from math import inf
from random import Random
from typing import Final

from app.domain.batch import Applied
from app.domain.changes import Rules
from app.domain.events import Event, InstanceInterrupted, Listed
from app.store.port import OpenedStore, Store
from tests.chaos.cloud import PROJECT, Cloud
from tests.chaos.simulation.clocks import DAY, Clock, Time
from tests.chaos.simulation.exporter import Exporter
from tests.chaos.simulation.judge import GRACE_SECONDS, Judge, Reader
from tests.chaos.simulation.log import Log
from tests.chaos.simulation.report import Report

RULES: Final = Rules(GRACE_SECONDS)
_LARGEST_BATCH: Final = 30


class Scene(ABC):
    """The exporters of one store, their cloud, and the model."""

    def __init__(self, seed: int, names: Sequence[str], log: Log) -> None:
        """`names`: those of the exporters. `log`: the log of all."""
        self.log = log
        self.random = Random(seed)  # noqa: S311 - no secret
        self.time = Time()
        self.cloud = Cloud(self.random)
        self.report = Report()
        self.judge = Judge(self.cloud.nodes(), self.reader(), self.time)
        self.exporters = [self._make_exporter(name) for name in names]
        self.delivered: set[Event] = set()
        """The events whose delivery was tried since everything was well."""

    def _make_exporter(self, name: str) -> Exporter:
        clock = self.time.add_clock()
        return Exporter(name, clock, lambda: self.open_store(name, clock))

    # the store

    @abstractmethod
    def open_store(self, name: str, clock: Clock) -> OpenedStore:
        """Open the store of an exporter. Raises StartError."""

    @abstractmethod
    def started(self, exporter: Exporter) -> None:
        """Note the start of an exporter."""

    @abstractmethod
    def age(self, seconds: float) -> None:
        """Let what the store forgets by its own clock become older."""

    @abstractmethod
    def reader(self) -> Reader:
        """Return the reader of the store."""

    # actions

    def pass_time(self, seconds: float, *, up: bool = True) -> None:
        """Let time pass. `up`: the exporters run, and can use the store."""
        self.time.let_pass(seconds, up=up)
        if up:
            self.judge.model.pass_time(seconds)
        self.age(seconds)

    def let_cloud_act(self, times: int) -> None:
        """Create or end instances."""
        for _ in range(times):
            self.cloud.act(self.time.true)
            self.pass_time(1)

    async def deliver(self) -> None:
        """Deliver some of the messages that are due to one of the exporters."""
        running = [exporter for exporter in self.exporters if exporter.running]
        if running:
            events = self.cloud.take_due(self.time.true, self.random.randint(1, _LARGEST_BATCH))
            await self.deliver_to(self.random.choice(running), events)

    async def deliver_to(self, exporter: Exporter, events: Sequence[Event]) -> None:
        """Deliver these events."""
        if not events:
            return
        self.report.events += len(events)
        self.delivered.update(events)
        if await exporter.record(events):
            self.judge.commit(events)
            self.cloud.repeat(events, self.time.true)
        else:
            self.judge.doubt(events)
            self.cloud.refuse(events, self.time.true)

    async def run_periodic_work(self) -> None:
        """Run the periodic work that is due, of each exporter."""
        for exporter in self.random.sample(self.exporters, len(self.exporters)):
            await exporter.run_periodic_work()
        self.judge.check(self.exporters)  # before a listing describes the instances of what has expired

    def leader(self) -> Exporter | None:
        """Return the exporter that lists the fleet, and reads the operations."""
        leaders = (one for one in self.exporters if one.running and one.metrics.leads)
        return next(leaders, None)

    async def list_fleet(self, *, whole: bool = False) -> None:
        """List the fleet, slice by slice. A listing that is not `whole` may be given up."""
        exporter = self.leader()
        if exporter is None:
            return
        began, fleet = exporter.clock.wall(), self.cloud.listed()
        self.random.shuffle(fleet)
        for one in self.exporters:
            one.was_listed = True
        if not await exporter.perform(lambda store, now: store.begin_listing(PROJECT, now)):
            return
        while fleet:
            part, fleet = fleet[:10], fleet[10:]
            if not await exporter.perform(partial(_record, began=began, listed=part)):
                self.judge.doubt_listed(part)
                return
            self.judge.model.describe((one.id, one.name) for one in part)
            if not whole and self.random.random() < 0.2:
                self.pass_time(self.random.uniform(1, 20))
                await self.deliver()
            if not whole and self.random.random() < 0.05:
                return
        more = True
        while more:
            applied = await exporter.perform(lambda store, now: store.end_listing(PROJECT, began, (), now))
            more = applied is not None and applied.more

    async def recover_interruptions(self) -> None:
        """Read the operations."""
        operations, exporter = list(self.cloud.operations), self.leader()
        while operations and exporter is not None:
            part, operations = operations[:25], operations[25:]
            now = exporter.clock.wall()
            if not await exporter.perform(partial(_recover, operations=part)):
                self.judge.doubt(part)
                return
            since = max(self.reader().keys_complete_since(), now - RULES.retention_seconds + DAY)
            self.judge.commit([operation for operation in part if since <= operation.at])

    # starts and ends

    async def start(self, exporter: Exporter) -> None:
        """Start an exporter."""
        exporter.start()
        self.started(exporter)
        await exporter.run_periodic_work()

    async def restart_if_needed(self) -> None:
        """Start the exporters again that have ended, or must."""
        for exporter in self.exporters:
            if exporter.must_restart:
                self.report.note(f"restart {exporter.name} {exporter.fatal_error}")
                await exporter.end()
                await self.start(exporter)


def _record(store: Store, now: float, *, began: float, listed: Sequence[Listed]) -> Applied:
    return store.record_listed(PROJECT, began, listed, now)


def _recover(store: Store, now: float, *, operations: Sequence[InstanceInterrupted]) -> Applied:
    return store.recover(operations, -inf, now)  # none is left to its push
