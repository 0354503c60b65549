"""Choices for one case, which follow from its chance alone; and what is noted of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

MARKER: Final = "Zq7never"
"""It is in every mutant's text, and must be in no refusal."""


@dataclass(slots=True)
class Draft:
    """A case in the making: an entry, then a text, then an envelope around it."""

    chance: Random
    damage: list[str] = field(default_factory=list)
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    authorization: bytes | None = None

    def one(self, options: Sequence[Any]) -> Any:  # noqa: ANN401  # of the options
        """One of them."""
        return options[int(self.chance.random() * len(options))]

    def below(self, limit: int) -> int:
        """A number from 0, below the limit."""
        return int(self.chance.random() * limit)
