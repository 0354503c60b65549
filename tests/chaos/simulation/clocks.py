"""The true time, and the clocks of the exporters."""

from dataclasses import dataclass, field
from typing import Final

BEGINS: Final = 1_780_000_000.0
HOUR: Final = 3600.0
DAY: Final = 24 * HOUR


@dataclass(slots=True)
class Clock:
    """The clock of an exporter's machine, which jumps and stops."""

    time: "Time"
    ahead: float = 0.0
    """It is ahead of the true time by this many seconds."""
    stopped: bool = False

    def wall(self) -> float:
        """Return what it shows."""
        return self.time.true + self.ahead

    def correct(self) -> None:
        """Let it show the true time again."""
        self.ahead, self.stopped = 0.0, False


@dataclass(slots=True)
class Time:
    """The true time, which is Google's, and the monotonic clock."""

    true: float = BEGINS
    passed: float = 0.0
    clocks: list[Clock] = field(default_factory=list)

    def add_clock(self) -> Clock:
        """Return a new clock, which is right so far."""
        self.clocks.append(Clock(self))
        return self.clocks[-1]

    def monotonic(self) -> float:
        """Return the monotonic clock."""
        return self.passed

    def let_pass(self, seconds: float, *, up: bool = True) -> None:
        """Let time pass. A clock stops only while its machine is `up`."""
        self.true += seconds
        self.passed += seconds
        for clock in self.clocks:
            if clock.stopped and up:
                clock.ahead -= seconds
