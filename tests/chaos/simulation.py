"""A simulation of the writer and a SQLite store for months, with one seed for everything that happens.

The clock jumps and stops, the disk becomes full or slow, the process or the machine ends at any write, pages
are damaged, outages last hours, and backlogs come in any order. After each step the exported counts are those
of a plain model. Only damage may change them, and then the store has moved a file aside.

`python -m tests.chaos.simulation [--seed 1] [--steps 100000] [--seeds 1]`.
"""

import argparse
import asyncio
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Final

import apsw

from app.domain.batch import Applied
from app.domain.changes import Rules
from app.domain.events import (
    CreationFailed,
    Event,
    InstanceCreated,
    InstanceInterrupted,
    InstanceName,
    Listed,
)
from app.domain.instances import Labels
from app.domain.ledger import Query
from app.errors import StoreUnavailableError
from app.metrics import Metrics
from app.periodic import PeriodicTasks
from app.recorder import Recorder
from app.store.opening import open_store
from app.store.port import OpenedStore, Store
from app.store.watched import WatchedLedger
from tests.chaos.cloud import PROJECT, Cloud
from tests.chaos.plain_model import Model, Waiting
from tests.support.output import print_line
from tests.support.simulated_disk import SimulatedDisk

_BEGINS: Final = 1_780_000_000.0
_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR
GRACE_SECONDS: Final = 1800.0
RULES: Final = Rules(GRACE_SECONDS)
_LONGEST_STEP_SECONDS: Final = 60.0
_LARGEST_BATCH: Final = 30
_STEPS_PER_QUIET: Final = 500
"""After this many steps everything is well for hours, and then the gauge must be right too."""
_PAGE_BYTES: Final = 2048
_FAULTS: Final[Mapping[str, float]] = {
    "kill": 0.004,
    "power_loss": 0.002,
    "outage": 0.002,
    "full_disk": 0.004,
    "slow_disk": 0.004,
    "clock_jump": 0.004,
    "clock_stop": 0.002,
    "damage": 0.0005,
}
"""The probability of each fault in a step."""


class SimulationError(Exception):
    """The exporter differs from the model."""


@dataclass(slots=True)
class Clocks:
    """The true time, which is Google's; the exporter's clock; and the monotonic clock."""

    true: float = _BEGINS
    ahead: float = 0.0
    """The exporter's clock is ahead of the true time by this many seconds."""
    stopped: bool = False
    monotonic: float = 0.0

    def wall(self) -> float:
        """Return the time of the exporter's clock."""
        return self.true + self.ahead

    def pass_time(self, seconds: float, *, up: bool = True) -> None:
        """Let time pass."""
        self.true += seconds
        self.monotonic += seconds
        if self.stopped and up:
            self.ahead -= seconds


@dataclass(slots=True)
class Report:
    """The course of a run."""

    steps: int = 0
    events: int = 0
    seconds: float = 0.0
    simulated_days: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    explained: list[str] = field(default_factory=list)
    """The damage that the store reported."""


@dataclass(slots=True)
class _Life:
    """The parts of a running exporter."""

    opened: OpenedStore
    metrics: Metrics
    recorder: Recorder
    periodic: PeriodicTasks
    ledger: WatchedLedger
    writer: asyncio.Task[None]
    was_listed: bool = False
    fresh: bool = True
    """The last use of the store has succeeded."""


class Simulation:
    """One exporter, its cloud, and everything that goes wrong."""

    def __init__(self, path: Path, seed: int, disk: SimulatedDisk) -> None:
        self._path = path
        self._random = Random(seed)  # noqa: S311 - no secret
        self._disk = disk
        self._disk.on_sync = self._sync
        self._slow = False
        self.clocks = Clocks()
        self.cloud = Cloud(self._random)
        self.model = Model(self.cloud.nodes())
        self._in_doubt: list[Sequence[Event]] = []
        """Batches that were refused, or whose process ended. Each may be committed."""
        self._doubtful_failures: set[str] = set()
        """The operations of failures that may be committed. Only a redelivery shows it."""
        self._delivered: set[Event] = set()
        """The events whose delivery was tried since everything was well."""
        self._shown: dict[Labels, tuple[int, int, int, float]] = {}
        self.report = Report()
        self.trace: list[str] = []
        """The last things that happened."""

    async def run(self, steps: int) -> Report:
        """Run a number of steps. Raises SimulationError."""
        began = time.perf_counter()
        await self._start()
        try:
            for number in range(1, steps + 1):
                self.report.steps = number
                await self._step()
                if not number % _STEPS_PER_QUIET:
                    await self._quiet()
            await self._quiet()
        finally:
            await self._end()
        self.report.seconds = time.perf_counter() - began
        self.report.simulated_days = (self.clocks.true - _BEGINS) / _DAY
        return self.report

    # a step

    async def _step(self) -> None:
        self._pass_time(self._random.uniform(1, _LONGEST_STEP_SECONDS))
        for _ in range(self._random.choice((0, 0, 1, 1, 2))):
            self.cloud.act(self.clocks.true)
            self._pass_time(1)
        fault = self._draw_fault()
        if fault:
            self._note(fault)
            self.report.faults[fault] += 1
            await getattr(self, f"_{fault}")()
        await self._deliver()
        await self._run_periodic_work()
        if self._random.random() < 0.02:
            await self._list()
        if self._random.random() < 0.02:
            await self._recover()
        if self._random.random() < 0.02:
            self._read_ledger()
        await self._restart_if_needed()
        self._check()

    def _draw_fault(self) -> str | None:
        drawn = self._random.random()
        for fault, probability in _FAULTS.items():
            drawn -= probability
            if drawn < 0:
                return fault
        return None

    def _pass_time(self, seconds: float) -> None:
        self.clocks.pass_time(seconds)
        self.model.pass_time(seconds)

    def _sync(self) -> None:
        if self._slow:
            self._pass_time(self._random.uniform(0, 30))

    async def _deliver(self) -> None:
        events = self.cloud.take_due(self.clocks.true, self._random.randint(1, _LARGEST_BATCH))
        if not events:
            return
        self.report.events += len(events)
        self._delivered.update(events)
        recorder = self._life.recorder
        results = await asyncio.gather(*map(recorder.record, events), return_exceptions=True)
        refused = [error for error in results if isinstance(error, BaseException)]
        if self._disk.ended or refused:
            for error in refused:
                if not isinstance(error, StoreUnavailableError) and not self._disk.ended:
                    raise SimulationError(f"{error!r} instead of an outcome") from error
            self._life.fresh = False
            self._in_doubt.append(events)
            self.cloud.refuse(events, self.clocks.true)
        else:
            self._life.fresh = True
            for event in events:
                self._commit(event)
            self.cloud.repeat(events, self.clocks.true)

    def _commit(self, event: Event) -> None:
        self.model.commit(event)
        if isinstance(event, CreationFailed):
            self._doubtful_failures.discard(event.operation)

    async def _run_periodic_work(self) -> None:
        if self._is_running():
            self._life.fresh = await self._life.periodic.run_due(self.clocks.monotonic) and self._life.fresh
            self._check()  # before a listing describes the instances of what has expired

    async def _list(self, *, whole: bool = False) -> None:
        """List the fleet, slice by slice. A listing that is not `whole` may be given up."""
        began, fleet = self.clocks.wall(), self.cloud.listed()
        self._random.shuffle(fleet)
        self._life.was_listed = True
        if not await self._perform(lambda store, now: store.begin_listing(PROJECT, now)):
            return
        while fleet:
            part, fleet = fleet[:10], fleet[10:]
            if not await self._perform(partial(_record, began=began, listed=part)):
                return
            self.model.describe((one.id, one.name) for one in part)
            if not whole and self._random.random() < 0.2:
                self._pass_time(self._random.uniform(1, 20))
                await self._deliver()
            if not whole and self._random.random() < 0.05:
                return
        more = True
        while more:
            applied = await self._perform(lambda store, now: store.end_listing(PROJECT, began, (), now))
            more = applied is not None and applied.more

    async def _recover(self) -> None:
        """Read the operations."""
        operations = list(self.cloud.operations)
        while operations:
            part, operations = operations[:25], operations[25:]
            now = self.clocks.wall()
            if not await self._perform(partial(_recover, operations=part)):
                return
            since = self._keys_complete_since(now)
            for operation in part:
                if since <= operation.at:
                    self.model.commit(operation)

    async def _perform(self, work: Callable[[Store, float], Applied]) -> Applied | None:
        """Do periodic work, and return None if it failed or its process ended."""
        if not self._is_running():
            return None
        try:
            applied = await self._life.recorder.perform(work)
        except StoreUnavailableError:
            self._life.fresh = False
            return None
        return applied if self._is_running() else None

    def _is_running(self) -> bool:
        return not self._disk.ended

    def _read_ledger(self) -> None:
        if self._is_running():
            with suppress(StoreUnavailableError):
                self._life.ledger.interruptions(Query(limit=10))
                self._life.ledger.week(self.clocks.wall())

    # faults

    async def _kill(self) -> None:
        self._disk.writes_to_live = self._random.randint(0, 20)

    async def _power_loss(self) -> None:
        self._disk.writes_to_live = self._random.randint(0, 20)
        await self._deliver()
        await self._end()
        self._note(f"lost {self._disk.lose_unsynced(self._random)} writes")
        await self._start()

    async def _outage(self) -> None:
        await self._end(killed=self._random.random() < 0.7)
        self.clocks.pass_time(self._random.uniform(60, 8 * _HOUR), up=False)
        for _ in range(self._random.randint(0, 20)):
            self.cloud.act(self.clocks.true)
        await self._start()

    async def _full_disk(self) -> None:
        self._disk.full = not self._disk.full

    async def _slow_disk(self) -> None:
        self._slow = not self._slow

    async def _clock_jump(self) -> None:
        self.clocks.ahead = self._random.choice((0.0, 0.0, 1.0, -1.0)) * self._random.uniform(1, 2 * _DAY)
        self._note(f"the clock is ahead by {self.clocks.ahead:.0f} s")

    async def _clock_stop(self) -> None:
        self.clocks.stopped = not self.clocks.stopped

    async def _damage(self) -> None:
        """Damage some pages while the exporter runs, or after its end. A start finds that at the latest."""
        running = self._random.random() < 0.5
        if not running:
            await self._end()
        with self._path.open("r+b") as file:
            pages = file.seek(0, 2) // _PAGE_BYTES
            for _ in range(self._random.randint(1, 4)):
                file.seek(self._random.randrange(pages) * _PAGE_BYTES)
                file.write(self._random.randbytes(_PAGE_BYTES))
        if running:
            await self._deliver()
            self._read_ledger()
            await self._end(killed=not self._life.recorder.fatal.is_set())
        await self._start()

    # lives

    async def _start(self) -> None:
        self._disk.restart()
        clocks = self.clocks
        opened = open_store(f"sqlite:///{self._path}", RULES)
        metrics = Metrics(
            projects=[PROJECT],
            recovered_projects=[PROJECT],
            monotonic=lambda: clocks.monotonic,
            clock=clocks.wall,
        )
        recorder = Recorder(opened.store, metrics, batch_linger_seconds=0.0, clock=clocks.wall)
        metrics.restore(opened.store.state())
        self._life = _Life(
            opened,
            metrics,
            recorder,
            PeriodicTasks(recorder, metrics, are_listed=lambda: self._life.was_listed),
            WatchedLedger(opened.ledger, recorder.lose_store),
            asyncio.create_task(recorder.run()),
        )
        if opened.moved_aside_to is not None:
            self._explain(opened)
        await self._run_periodic_work()

    def _explain(self, opened: OpenedStore) -> None:
        """Begin again from a store that has lost something, and has said so."""
        self._note("the store was damaged")
        self.report.explained.append(f"step {self.report.steps}: moved aside to {opened.moved_aside_to}")
        totals, before = opened.store.state().totals, self._shown
        for labels, row in totals.label_sets.items():
            known = before.get(labels, (0, 0, 0, 0.0))
            now = (row.interruptions, row.created, row.failed, row.instance_seconds)
            for value, old in zip(now, known, strict=True):
                _require(value in {0, old}, f"{labels} came back at {value} instead of {old} or 0")
        self._shown = {}
        model = self.model = Model(self.cloud.nodes())
        for labels, row in totals.label_sets.items():
            model.interruptions[labels] = row.interruptions
            model.created[labels], model.failed[labels] = row.created, row.failed
        with self._reading() as connection:
            model.keys = {key for (key,) in connection.execute("SELECT key FROM event_keys")}
            described = connection.execute("SELECT identity, name FROM instances WHERE kind > 0")
            model.describe((str(identity), InstanceName.from_path(str(name))) for identity, name in described)
            for key, name, identity, at in connection.execute("SELECT key, name, id, at FROM pending"):
                event = InstanceInterrupted(key, at, InstanceName.from_path(name), identity)
                model.waiting[key] = Waiting(event, GRACE_SECONDS)
        # What was delivered before may count again, and is not delivered again.
        self.cloud.messages = [
            message for message in self.cloud.messages if message.event not in self._delivered
        ]
        self._in_doubt.clear()
        self._disk.unsynced.clear()

    async def _end(self, *, killed: bool = True) -> None:
        """End the process. After a kill nothing of what it still does reaches the disk."""
        if killed:
            self._disk.ended = True
        self._life.recorder.close()
        await asyncio.wait([self._life.writer])
        if not self._disk.ended and (error := self._life.writer.exception()) is not None:
            raise SimulationError("the writer has ended") from error
        self._life.opened.store.close()

    async def _restart_if_needed(self) -> None:
        if self._disk.ended or self._life.recorder.fatal.is_set() or self._life.writer.done():
            self._note(f"restart {self._life.recorder.fatal_error}")
            await self._end(killed=self._disk.ended)
            await self._start()

    # checks

    def _check(self) -> None:
        """Compare what is exported with the model, unless the store could not be used."""
        if not self._life.fresh or self._disk.ended:
            return
        self._resolve_doubts()
        self._expire()
        shown: dict[Labels, tuple[int, int, int, float]] = {}
        for row in self._life.metrics.label_sets():
            labels = row.labels
            shown[labels] = (row.interruptions, row.created, row.failed, row.instance_seconds)
            right = (self.model.interruptions[labels], self.model.created[labels], self.model.failed[labels])
            doubtful = len(self._doubtful_failures)
            _require(
                shown[labels][:2] == right[:2] and right[2] <= row.failed <= right[2] + doubtful,
                f"{labels}: exported {shown[labels][:3]}, right {right}",
            )
            before = self._shown.get(labels, (0, 0, 0, 0.0))
            pairs = zip(shown[labels], before, strict=True)
            _require(all(now >= old for now, old in pairs), f"{labels} went down from {before}")
        for expected in (self.model.interruptions, self.model.created, self.model.failed):
            _require((+expected).keys() <= shown.keys(), "label sets are missing")
        self._shown = shown

    def _resolve_doubts(self) -> None:
        """Commit the batches of which the store has the keys: all of a batch, or none."""
        batches, self._in_doubt = self._in_doubt, []
        for batch in batches:
            new = {
                event.key
                for event in batch
                if isinstance(event, InstanceCreated | InstanceInterrupted)
                and event.key not in self.model.keys
            }
            found = self._stored(new)
            _require(found in (set(), new), f"a part of a batch is committed: {found} of {new}")
            if new and found:
                for event in batch:
                    self._commit(event)
            elif not new:
                self._doubtful_failures |= {
                    event.operation for event in batch if isinstance(event, CreationFailed)
                }

    def _expire(self) -> None:
        """Expire what no longer waits in the store."""
        if self._life.metrics.pending == len(self.model.waiting):
            return
        with self._reading() as connection:
            stored = {key for (key,) in connection.execute("SELECT key FROM pending")}
        _require(stored <= self.model.waiting.keys(), "more interruptions wait than should")
        for key in sorted(self.model.waiting.keys() - stored):
            early = self.model.expire(key, GRACE_SECONDS)
            _require(early is None, early or "")

    async def _quiet(self) -> None:
        """Let everything be well for hours. Then no interruption waits, and the gauge is right."""
        self._note("quiet")
        self._slow = self._disk.full = False
        self._disk.writes_to_live = None
        self.clocks.ahead, self.clocks.stopped = 0.0, False
        await self._restart_if_needed()
        for minute in range(200):
            self._pass_time(60)
            while self.cloud.make_due(self.clocks.true):
                await self._deliver()
            await self._run_periodic_work()
            if not minute % 20:
                await self._list(whole=True)
                await self._recover()
            await self._restart_if_needed()
            self._check()
        self._delivered.clear()
        self.cloud.forget_operations(self.clocks.true - 3 * _DAY)
        _require(not self.model.waiting, f"{len(self.model.waiting)} interruptions wait still")
        alive = Counter(labels for labels, _ in self.cloud.labels_alive())
        rows = self._life.metrics.label_sets()
        gauge = +Counter({row.labels: row.instances for row in rows})
        _require(gauge == alive, f"alive: {_difference(gauge, alive)}")

    # the store's file

    def _stored(self, keys: set[str]) -> set[str]:
        marks = ", ".join("?" * len(keys))
        with self._reading() as connection:
            found = connection.execute(f"SELECT key FROM event_keys WHERE key IN ({marks})", tuple(keys))  # noqa: S608
            return {key for (key,) in found}

    def _keys_complete_since(self, now: float) -> float:
        with self._reading() as connection:
            since: float = connection.execute(
                "SELECT seconds FROM clocks WHERE name = 'keys_complete_since'"
            ).get
        return max(since, now - RULES.retention_seconds + _DAY)

    @contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        """Read the file, on a disk without faults."""
        flags = apsw.SQLITE_OPEN_READONLY
        with closing(apsw.Connection(str(self._path), flags=flags, vfs="unix")) as connection:
            connection.set_busy_timeout(2000)
            yield connection

    def _note(self, what: str) -> None:
        self.trace = [*self.trace[-30:], f"step {self.report.steps}: {what}"]


def _record(store: Store, now: float, *, began: float, listed: Sequence[Listed]) -> Applied:
    return store.record_listed(PROJECT, began, listed, now)


def _recover(store: Store, now: float, *, operations: Sequence[InstanceInterrupted]) -> Applied:
    return store.recover(operations, -1, now)  # none is left to its push


def _require(condition: bool, what: str) -> None:  # noqa: FBT001
    if not condition:
        raise SimulationError(what)


def _difference(one: Counter[Labels], other: Counter[Labels]) -> dict[Labels, tuple[int, int]]:
    return {
        labels: (one[labels], other[labels])
        for labels in one.keys() | other.keys()
        if one[labels] != other[labels]
    }


def run(seed: int, steps: int) -> Report:
    """Run a simulation in a folder of its own. Raises SimulationError with what happened last."""
    with TemporaryDirectory() as folder, SimulatedDisk() as disk:
        simulation = Simulation(Path(folder) / "store.db", seed, disk)
        try:
            return asyncio.run(simulation.run(steps))
        except SimulationError as exc:
            exc.add_note("\n".join((f"seed {seed}", *simulation.trace)))
            raise


def main() -> None:
    """Run the seeds, and print a line for each."""
    options = _options()
    logging.disable()
    for seed in range(options.seed, options.seed + options.seeds):
        try:
            report = run(seed, options.steps)
        except SimulationError as exc:
            notes = "\n".join(exc.__notes__)
            sys.exit(f"FAIL  seed {seed}: {exc}\n{notes}")
        print_line(
            f"ok    seed {seed}: {report.steps} steps, {report.events} deliveries,"
            f" {report.simulated_days:.0f} days, {1000 * report.seconds / report.steps:.2f} ms a step;"
            f" {dict(report.faults)}; {len(report.explained)} damaged stores moved aside"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A simulation with one seed for everything that happens.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--seeds", type=int, default=1, help="the number of runs, each with the next seed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
