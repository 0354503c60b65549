"""The clock of an exporter under test."""

import time
from dataclasses import dataclass


@dataclass(slots=True)
class Clock:
    """A clock that a test sets."""

    at: float | None = None
    """The time at which it stands still; None if it runs with the real time."""
    ahead: float = 0.0
    """Seconds that are added."""

    def __call__(self) -> float:
        return (time.time() if self.at is None else self.at) + self.ahead
