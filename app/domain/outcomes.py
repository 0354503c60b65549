"""The outcomes of an event, as values with their attribution."""

from typing import Literal, TypeAlias

from app.domain.events import Ignored, InstanceName, InterruptionDetails, Node, frozen

ReleasedBy: TypeAlias = Literal["creation", "inventory", "expiry"]


@frozen
class Tracked:
    """The instance was stored."""

    name: InstanceName
    node: Node


@frozen
class Counted:
    """An interruption in the ledger. Almost all are counted."""

    key: str
    at: float
    name: InstanceName
    id: str
    node: Node
    counted_as: str
    """The cluster that the totals count it under; empty if the totals do not include it."""
    age: float | None
    """Seconds since the last start; None if unknown, or if the histogram already has this start."""
    attributed: bool
    """False: the node is a guess or unknown. A later event or listing may complete the row."""
    released_by: ReleasedBy | None
    """The cause that released it; None if it was not pending."""
    details: InterruptionDetails


@frozen
class Duplicate:
    """An event that was already recorded."""


@frozen
class Pending:
    """An interruption that is stored until its instance is described."""

    project: str


@frozen
class Ended:
    """A deletion of a known instance."""


Outcome: TypeAlias = Tracked | Counted | Duplicate | Pending | Ended | Ignored
