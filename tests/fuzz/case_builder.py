"""The builder of a fuzz case: its random choices, and the record of its mutations."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

MARKER: Final = "Zq7never"
"""A text in every mutant. No refusal may repeat it."""


@dataclass(slots=True)
class CaseBuilder:
    """The state of a case while its entry, its text and its envelope are built."""

    rng: Random
    damage: list[str] = field(default_factory=list)
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    authorization: bytes | None = None

    def choose(self, options: Sequence[Any]) -> Any:  # noqa: ANN401  # of the options
        """Return one of the options."""
        return options[int(self.rng.random() * len(options))]

    def below(self, limit: int) -> int:
        """Return a number from 0 to `limit` - 1."""
        return int(self.rng.random() * limit)
