"""What became of an event: values that carry their attribution."""

from typing import Literal, TypeAlias

from app.domain.events import Ignored, InstanceName, Node
from app.domain.values import value

ReleasedBy: TypeAlias = Literal["creation", "inventory", "expiry"]


@value
class Tracked:
    """The instance is known from now on."""

    name: InstanceName
    node: Node


@value
class Counted:
    """An interruption was counted: a row of the ledger."""

    key: str
    at: float
    name: InstanceName
    id: str
    node: Node
    counted_as: str
    """The cluster under which it stands in the totals; empty: they do not include it."""
    age: float | None
    """Seconds since the instance's last start; None where that is unknown, or was observed before."""
    explained: bool
    """False: the node is a guess or unknown; something may still come that completes the row."""
    released_by: ReleasedBy | None = None
    """What ended its waiting; None: it did not wait."""


@value
class Duplicate:
    """The same event was recorded before."""


@value
class Pending:
    """The interruption is kept until something explains its instance."""

    project: str


Outcome: TypeAlias = Tracked | Counted | Duplicate | Pending | Ignored
