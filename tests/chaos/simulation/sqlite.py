"""The simulation on SQLite: the disk becomes full or slow, the machine ends, and pages are damaged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from app.domain.events import InstanceInterrupted, InstanceName
from app.store.opening import open_store
from app.store.port import OpenedStore
from tests.chaos.simulation.base import Fault, Simulation
from tests.chaos.simulation.clocks import Clock
from tests.chaos.simulation.exporter import Exporter
from tests.chaos.simulation.log import DAMAGE, Log
from tests.chaos.simulation.report import require
from tests.chaos.simulation.scene import RULES
from tests.chaos.simulation.sqlite_reader import INSTANCES, SQLiteReader
from tests.support.simulated_disk import SimulatedDisk

_PAGE_BYTES: Final = 2048


class SQLiteSimulation(Simulation):
    """One exporter, and the disk of its store."""

    def __init__(self, path: Path, seed: int, log: Log, disk: SimulatedDisk) -> None:
        self._exporter: Exporter
        self._reader = SQLiteReader(path, lambda: self._exporter.metrics.pending)
        super().__init__(seed, ["one"], log)
        self._path = path
        self._disk = disk
        self._disk.on_sync = self._sync
        self._disk.on_end = self._process_ended
        self._slow = False
        (self._exporter,) = self.exporters

    def faults(self) -> Mapping[Fault, float]:
        return {
            self._power_loss: 0.002,
            self._full_disk: 0.004,
            self._slow_disk: 0.004,
            self._damage: 0.0005,
        }

    def open_store(self, name: str, clock: Clock) -> OpenedStore:
        self._disk.restart()
        del name, clock
        return open_store(f"sqlite:///{self._path}", RULES)

    def kill_soon(self, exporter: Exporter, uses: int) -> None:
        del exporter  # there is one
        self._disk.writes_to_live = uses

    def kill_now(self, exporter: Exporter) -> None:
        self._disk.ended = exporter.killed = True

    def check_log(self) -> None:
        require(not self.log.take(DAMAGE), "damage is reported that has not happened")

    def heal(self) -> None:
        self._slow = self._disk.full = False
        self._disk.writes_to_live = None

    def age(self, seconds: float) -> None:
        """Do nothing, because SQLite has no clock."""

    def reader(self) -> SQLiteReader:
        return self._reader

    def started(self, exporter: Exporter) -> None:
        moved_aside_to = exporter.opened.moved_aside_to
        if moved_aside_to is not None:
            self._begin_again(moved_aside_to)

    def _process_ended(self) -> None:
        self._exporter.killed = True

    def _sync(self) -> None:
        if self._slow:
            self.pass_time(self.random.uniform(0, 30))

    # faults

    async def _power_loss(self) -> None:
        """End the machine, and lose some of what is not synced."""
        self._disk.writes_to_live = self.random.randint(0, 20)
        await self.deliver()
        self.kill_now(self._exporter)
        await self._exporter.end()
        self.report.note(f"lost {self._disk.lose_unsynced(self.random)} writes")
        await self.start(self._exporter)

    async def _full_disk(self) -> None:
        self._disk.full = not self._disk.full

    async def _slow_disk(self) -> None:
        self._slow = not self._slow

    async def _damage(self) -> None:
        """Damage some pages while the exporter runs, or after its end. A start finds that at the latest."""
        exporter, running = self._exporter, self.random.random() < 0.5
        if not running:
            self.kill_now(self._exporter)
            await exporter.end()
        with self._path.open("r+b") as file:
            pages = file.seek(0, 2) // _PAGE_BYTES
            for _ in range(self.random.randint(1, 4)):
                file.seek(self.random.randrange(pages) * _PAGE_BYTES)
                file.write(self.random.randbytes(_PAGE_BYTES))
        if running:
            await self.deliver()
            exporter.read_ledger()
            if not exporter.lost_store:
                self.kill_now(self._exporter)
            await exporter.end()
        await self.start(exporter)

    def _begin_again(self, moved_aside_to: Path) -> None:
        """Begin with what a damaged store has kept."""
        require(bool(self.log.take(DAMAGE)), "no line in the log reports the damage")
        self.report.explain(f"moved aside to {moved_aside_to.name}")
        with self._reader.reading() as connection:
            keys = {key for (key,) in connection.execute("SELECT key FROM event_keys")}
            self.judge.begin_again(self._exporter, keys)
            model = self.judge.model
            described = connection.execute(f"SELECT identity, name {INSTANCES} WHERE kind > 0")
            model.describe((str(identity), InstanceName.from_path(str(name))) for identity, name in described)
            operations = f"SELECT operation {INSTANCES} WHERE announced = ? AND failed = ?"
            model.announced = {operation for (operation,) in connection.execute(operations, (1, 0))}
            model.failures = {operation for (operation,) in connection.execute(operations, (0, 1))}
            pending = connection.execute("SELECT key, name, id, at FROM pending")
            self.judge.expect_pending(
                [
                    InstanceInterrupted(key, at, InstanceName.from_path(name), identity)
                    for key, name, identity, at in pending
                ]
            )
        # What was delivered before may count again, and is not delivered again.
        self.cloud.messages = [
            message for message in self.cloud.messages if message.event not in self.delivered
        ]
        self._disk.unsynced.clear()
