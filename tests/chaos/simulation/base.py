"""The steps of a simulation on any store, and the faults of time."""

import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from tests.chaos.simulation.clocks import BEGINS, DAY, HOUR
from tests.chaos.simulation.exporter import Exporter
from tests.chaos.simulation.log import Log
from tests.chaos.simulation.report import Report, require
from tests.chaos.simulation.scene import Scene

_LONGEST_STEP_SECONDS: Final = 60.0
_STEPS_PER_QUIET: Final = 500
"""After this many steps everything is well for hours, and then the gauge must be right too."""
_QUIET_MINUTES: Final = 200
_MOST_WRITES_TO_LIVE: Final = 20

Fault = Callable[[], Awaitable[None]]


class Simulation(Scene):
    """A scene in which everything goes wrong."""

    def __init__(self, seed: int, names: Sequence[str], log: Log) -> None:
        super().__init__(seed, names, log)
        self._faults: Mapping[Fault, float] = {
            self._kill: 0.004,
            self._outage: 0.002,
            self._jump: 0.004,
            self._stop_clock: 0.002,
            **self.faults(),
        }

    @abstractmethod
    def faults(self) -> Mapping[Fault, float]:
        """Return the faults of the store, and the probability of each in a step."""

    @abstractmethod
    def kill_soon(self, exporter: Exporter, uses: int) -> None:
        """Let the process of an exporter end after so many uses of its store."""

    @abstractmethod
    def kill_now(self, exporter: Exporter) -> None:
        """Kill the process of an exporter."""

    @abstractmethod
    def check_log(self) -> None:
        """Check that the exporters have reported no loss that has not happened."""

    @abstractmethod
    def heal(self) -> None:
        """End all faults of the store."""

    # the run

    async def run(self, steps: int) -> Report:
        """Run a number of steps. Raises SimulationError."""
        began = time.perf_counter()
        for exporter in self.exporters:
            await self.start(exporter)
        try:
            for number in range(1, steps + 1):
                self.report.steps = number
                await self._step()
                if not number % _STEPS_PER_QUIET:
                    await self._quiet()
            await self._quiet()
        finally:
            for exporter in self.exporters:
                self.kill_now(exporter)
                await exporter.end()
        self.report.seconds = time.perf_counter() - began
        self.report.simulated_days = (self.time.true - BEGINS) / DAY
        return self.report

    async def _step(self) -> None:
        self.pass_time(self.random.uniform(1, _LONGEST_STEP_SECONDS))
        self.let_cloud_act(self.random.choice((0, 0, 1, 1, 2)))
        fault = self._draw_fault()
        if fault is not None:
            name = getattr(fault, "__name__", "").strip("_")
            self.report.note(name)
            self.report.faults[name] += 1
            await fault()
        await self.deliver()
        await self.run_periodic_work()
        if self.random.random() < 0.02:
            await self.list_fleet()
        if self.random.random() < 0.02:
            await self.recover_interruptions()
        if self.random.random() < 0.02:
            self.random.choice(self.exporters).read_ledger()
        await self.restart_if_needed()
        self.judge.check(self.exporters)
        self.check_log()
        require(not self.log.bug, self.log.bug)

    def _draw_fault(self) -> Fault | None:
        drawn = self.random.random()
        for fault, probability in self._faults.items():
            drawn -= probability
            if drawn < 0:
                return fault
        return None

    # faults

    async def _kill(self) -> None:
        self.kill_soon(self.random.choice(self.exporters), self.random.randint(0, _MOST_WRITES_TO_LIVE))

    async def _outage(self) -> None:
        """Let no exporter run for a while."""
        for exporter in self.exporters:
            if self.random.random() < 0.7:
                self.kill_now(exporter)
            await exporter.end()
        self.pass_time(self.random.uniform(60, 8 * HOUR), up=False)
        for _ in range(self.random.randint(0, 20)):
            self.cloud.act(self.time.true)
        for exporter in self.exporters:
            await self.start(exporter)

    async def _jump(self) -> None:
        exporter = self.random.choice(self.exporters)
        direction, seconds = self.random.choice((0.0, 0.0, 1.0, -1.0)), self.random.uniform(1, 2 * DAY)
        if direction > 0 and seconds > 1.6 * DAY:
            seconds *= 30  # beyond the retention
        exporter.clock.ahead = direction * seconds
        self.report.note(f"the clock of {exporter.name} is ahead by {exporter.clock.ahead:.0f} s")

    async def _stop_clock(self) -> None:
        clock = self.random.choice(self.exporters).clock
        clock.stopped = not clock.stopped

    async def _quiet(self) -> None:
        """Let everything be well for hours. Then no interruption waits, and the gauge is right."""
        self.report.note("quiet")
        self.heal()
        for exporter in self.exporters:
            exporter.clock.correct()
        await self.restart_if_needed()
        for minute in range(_QUIET_MINUTES):
            self.pass_time(60)
            while self.cloud.make_due(self.time.true):
                await self.deliver()
            await self.run_periodic_work()
            if not minute % 20:
                await self.list_fleet(whole=True)
                await self.recover_interruptions()
            await self.restart_if_needed()
            self.judge.check(self.exporters)
        await self.run_periodic_work()
        self.delivered.clear()
        self.cloud.forget_operations(self.time.true - 3 * DAY)
        alive = Counter(labels for labels, _ in self.cloud.labels_alive())
        for exporter in self.exporters:
            require(exporter.fresh, f"{exporter.name} cannot use its store")
            self.judge.check_gauge(exporter, alive)
