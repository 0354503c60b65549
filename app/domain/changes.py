"""The state that a decision is made from, and the changes that it makes. A store makes them durable."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import TypeAlias

from app.domain.events import InstanceName, Node, frozen
from app.domain.instances import Instance, Labels, PendingInterruption
from app.domain.outcomes import Counted, Outcome, ReleasedBy


@frozen
class Rules:
    """Limits and times from the configuration."""

    grace_seconds: float = 1800.0
    """Longest time for which an interruption is pending."""
    retention_seconds: float = 31 * 86400.0
    """Time for which the store keeps an instance after its end."""
    max_label_sets: int = 10_000
    """Above this number, new label sets are committed under `other`."""
    max_unknown_deletions: int = 100_000
    """Above this number, the store forgets the oldest deletions of unknown instances."""


@frozen
class Known:
    """The stored state that an event meets: if its key was recorded, and all rows of its instance name."""

    seen: bool = False
    incarnations: Mapping[str, Instance] = field(default_factory=dict)
    """By identity."""
    pending: Sequence[PendingInterruption] = ()
    listed_at: float | None = None
    """The time when the last complete listing of all zones of the project began."""


@frozen
class StoreInstance:
    """Store the incarnation, and add the given facts about it to the totals."""

    instance: Instance
    created: bool = False
    """Count a creation: the incarnation is Spot, and a creation event has announced it."""
    failed: bool = False
    """Count that this creation has failed."""
    counted: Counted | None = None
    """Count this interruption, and add it to the ledger."""


@frozen
class RemoveInstance:
    """Remove the incarnation with this identity from the store."""

    name: InstanceName
    identity: str


@frozen
class EnsureSeries:
    """Make sure that the series of the label set exist, at 0 if nothing was counted yet."""

    labels: Labels
    only_cluster: bool = False
    """Only the series of the cluster."""


@frozen
class AddPending:
    """Add a pending interruption."""

    pending: PendingInterruption


@frozen
class ReleasePending:
    """Remove a pending interruption."""

    key: str
    name: InstanceName
    by: ReleasedBy


@frozen
class Attribute:
    """Write the incarnation's node into its ledger rows. Their `counted_as` and the totals do not change."""

    name: InstanceName
    identity: str
    node: Node


Change: TypeAlias = StoreInstance | RemoveInstance | EnsureSeries | AddPending | ReleasePending | Attribute


@frozen
class Decision:
    """An outcome, and the changes that make it true."""

    outcome: Outcome
    changes: Sequence[Change] = ()
