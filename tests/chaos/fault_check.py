"""The check that a fault did no harm, and the sizes of the runs."""

from dataclasses import dataclass
from typing import Final


class FaultError(Exception):
    """The exporter did not withstand a fault."""


@dataclass(frozen=True, slots=True)
class Size:
    """The load during a fault."""

    interruptions: int
    slow: int
    """Callers that send one byte per second."""
    idle: int
    """Connections that send nothing."""
    seconds: float
    """Duration of each measurement of steady traffic, without and with the slow callers."""
    fetches_hurried: bool
    """Ends the minute in which the certificates are fetched five times at most."""
    damage_seconds: float
    """The time that a running exporter has to read a damaged page. A small store may be in its cache."""


FULL: Final = Size(
    interruptions=3_000, slow=1_000, idle=10_000, seconds=25, fetches_hurried=False, damage_seconds=8
)
SHORT: Final = Size(interruptions=300, slow=50, idle=200, seconds=2, fetches_hurried=True, damage_seconds=1)


def check(condition: bool, error: str) -> None:  # noqa: FBT001
    """Raise FaultError with this message unless the condition holds."""
    if not condition:
        raise FaultError(error)
