"""The course of a run, and its failure."""

from collections import Counter
from dataclasses import dataclass, field


class SimulationError(Exception):
    """The exporter differs from the model."""


@dataclass(slots=True)
class Report:
    """The course of a run."""

    steps: int = 0
    events: int = 0
    seconds: float = 0.0
    simulated_days: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    explained: list[str] = field(default_factory=list)
    """The losses that an exporter reported."""
    trace: list[str] = field(default_factory=list)
    """The last things that happened."""

    def note(self, what: str) -> None:
        """Add to the trace."""
        self.trace = [*self.trace[-30:], f"step {self.steps}: {what}"]

    def explain(self, what: str) -> None:
        """Note a loss that an exporter reported."""
        self.note(what)
        self.explained.append(f"step {self.steps}: {what}")


def require(condition: bool, what: str) -> None:  # noqa: FBT001
    """Raise SimulationError with this message unless the condition holds."""
    if not condition:
        raise SimulationError(what)
