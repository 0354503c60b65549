"""What a fault must not do, and how much of everything there is while it happens."""

from dataclasses import dataclass
from typing import Final


class HarmError(Exception):
    """A fault did what it must not do."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    interruptions: int
    slow: int
    idle: int
    seconds: float
    """How long normal traffic is looked at, alone and beside a crowd."""


FULL: Final = Size(interruptions=3_000, slow=1_000, idle=10_000, seconds=25)
SHORT: Final = Size(interruptions=300, slow=50, idle=200, seconds=2)


def demand(fulfilled: bool, otherwise: str) -> None:  # noqa: FBT001
    """Raise HarmError, with that message, where something is not so."""
    if not fulfilled:
        raise HarmError(otherwise)
