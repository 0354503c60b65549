"""The durable numbers behind the metrics, and how a batch of changes raises them.

A row is never changed once it is shared: a batch copies what it touches, so a reader needs no lock.
"""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final, TypeVar

from app.domain.events import BELIEVED_AHEAD_SECONDS, UNKNOWN
from app.domain.instances import OTHER, OTHER_LABELS, UNKNOWN_LABELS, Labels

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
LIFETIME_BOUNDS: Final = (
    *(n * _MINUTE for n in (1, 5, 15, 30)),
    *(n * _HOUR for n in (1, 2, 4, 8, 12)),
    *(n * _DAY for n in (1, 2, 3, 5, 7, 14, 28)),
)
"""Upper bounds of the lifetime histogram's buckets, in seconds, without the last, infinite one."""

_RESERVED: Final = frozenset((UNKNOWN, OTHER))
_RESERVED_SETS: Final = frozenset((UNKNOWN_LABELS, OTHER_LABELS))


@dataclass(slots=True)
class LabelSetTotals:
    """What has happened to the Spot instances of one label set."""

    labels: Labels
    interruptions: int = 0
    created: int = 0
    failed: int = 0
    instances: int = 0
    """Alive now."""
    instance_seconds: float = 0.0
    touched_at: float = 0.0
    """When the last event of it was recorded, by the exporter's clock."""
    revealed: bool = False
    """Its counters show their values; until then they show 0, so that `increase()` sees the first one."""

    def copied(self) -> "LabelSetTotals":
        """A row of its own with the same values."""
        return LabelSetTotals(
            self.labels,
            self.interruptions,
            self.created,
            self.failed,
            self.instances,
            self.instance_seconds,
            self.touched_at,
            self.revealed,
        )


@dataclass(slots=True)
class ClusterTotals:
    """What has happened to all clusters of one name."""

    cluster: str
    interruptions: int = 0
    last_interruption_at: float | None = None
    touched_at: float = 0.0
    revealed: bool = False

    def copied(self) -> "ClusterTotals":
        """A row of its own with the same values."""
        return ClusterTotals(
            self.cluster, self.interruptions, self.last_interruption_at, self.touched_at, self.revealed
        )


@dataclass(slots=True)
class LifetimeTotals:
    """Ages at interruption: how many fell in each bucket (the last is infinite), and their sum in seconds."""

    cluster: str
    machine_type: str
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LIFETIME_BOUNDS) + 1))
    sum: float = 0.0
    touched_at: float = 0.0
    revealed: bool = False

    def observe(self, age: float) -> None:
        """Add one age, in seconds."""
        self.buckets[bisect_left(LIFETIME_BOUNDS, age)] += 1
        self.sum += age

    def copied(self) -> "LifetimeTotals":
        """A row of its own with the same values."""
        return LifetimeTotals(
            self.cluster, self.machine_type, list(self.buckets), self.sum, self.touched_at, self.revealed
        )


_Key = TypeVar("_Key")
_Row = TypeVar("_Row", LabelSetTotals, ClusterTotals, LifetimeTotals)


@dataclass(slots=True)
class Totals:
    """All rows by their keys; or those that a batch has touched."""

    label_sets: dict[Labels, LabelSetTotals] = field(default_factory=dict)
    clusters: dict[str, ClusterTotals] = field(default_factory=dict)
    lifetimes: dict[tuple[str, str], LifetimeTotals] = field(default_factory=dict)

    def update(self, changed: "Totals") -> None:
        """Take over the rows of a batch that was committed."""
        self.label_sets.update(changed.label_sets)
        self.clusters.update(changed.clusters)
        self.lifetimes.update(changed.lifetimes)

    def drop(self, gone: "Totals") -> None:
        """Forget these rows."""
        for labels in gone.label_sets:
            self.label_sets.pop(labels, None)
        for cluster in gone.clusters:
            self.clusters.pop(cluster, None)
        for lifetime in gone.lifetimes:
            self.lifetimes.pop(lifetime, None)

    def __bool__(self) -> bool:
        return bool(self.label_sets or self.clusters or self.lifetimes)

    def idle(self, before: float) -> "Totals":
        """The rows that have no live instance and no event since `before`."""
        label_sets = {
            labels: row
            for labels, row in self.label_sets.items()
            if not row.instances and row.touched_at < before and labels != UNKNOWN_LABELS
        }
        kept = self.label_sets.keys() - label_sets.keys()
        clusters = {labels.cluster for labels in kept}
        types = {(labels.cluster, labels.machine_type) for labels in kept}
        return Totals(
            label_sets,
            {
                name: row
                for name, row in self.clusters.items()
                if name not in clusters and row.touched_at < before and name != UNKNOWN
            },
            {key: row for key, row in self.lifetimes.items() if key not in types and row.touched_at < before},
        )


class Tally:
    """The totals as a batch changes them: copies of the rows that it touched."""

    __slots__ = ("_base", "_max_label_sets", "_now", "_revealed", "changed")

    def __init__(self, base: Totals, *, max_label_sets: int, revealed: bool, now: float) -> None:
        """`revealed`: whether rows that appear now show their values at once."""
        self.changed = Totals()
        self._base = base
        self._max_label_sets = max_label_sets
        self._revealed = revealed
        self._now = now

    def admits(self, labels: Labels) -> bool:
        """Whether the label set has series of its own, or may have: beyond the limit it shares `other`'s."""
        base, changed = self._base.label_sets, self.changed.label_sets
        return labels in base or labels in changed or self._has_room(labels, base, changed, _RESERVED_SETS)

    def admits_cluster(self, cluster: str) -> bool:
        """Likewise for a cluster's own series."""
        base, changed = self._base.clusters, self.changed.clusters
        return cluster in base or cluster in changed or self._has_room(cluster, base, changed, _RESERVED)

    def _has_room(
        self, key: _Key, base: dict[_Key, _Row], changed: dict[_Key, _Row], reserved: frozenset[_Key]
    ) -> bool:
        if key in reserved:
            return True
        # The limit is for the others, and the base too long to be counted for each new row.
        free = sum(key in base or key in changed for key in reserved)
        return len(base) + sum(key not in base for key in changed) - free < self._max_label_sets

    def label_set(self, labels: Labels) -> LabelSetTotals:
        """The label set's row, to change."""
        base, changed = self._base.label_sets, self.changed.label_sets
        return (
            changed.get(labels)
            or self._touch(labels, base, changed)
            or self._new(labels, changed, LabelSetTotals(labels))
        )

    def cluster(self, cluster: str) -> ClusterTotals:
        """The cluster's row, to change."""
        base, changed = self._base.clusters, self.changed.clusters
        return (
            changed.get(cluster)
            or self._touch(cluster, base, changed)
            or self._new(cluster, changed, ClusterTotals(cluster))
        )

    def lifetime(self, cluster: str, machine_type: str) -> LifetimeTotals:
        """The histogram's row, to change."""
        key = (cluster, machine_type)
        base, changed = self._base.lifetimes, self.changed.lifetimes
        return (
            changed.get(key)
            or self._touch(key, base, changed)
            or self._new(key, changed, LifetimeTotals(cluster, machine_type))
        )

    def show(self, labels: Labels) -> None:
        """Have the label set's series exist, and its cluster's, at 0 if nothing has happened."""
        if labels not in self._base.label_sets:
            self.label_set(labels)
        self.show_cluster(labels.cluster)
        if (labels.cluster, labels.machine_type) not in self._base.lifetimes:
            self.lifetime(labels.cluster, labels.machine_type)

    def show_cluster(self, cluster: str) -> None:
        """Have the cluster's series exist."""
        if cluster not in self._base.clusters:
            self.cluster(cluster)

    def count(self, labels: Labels, at: float, age: float | None) -> None:
        """Raise everything that an interruption raises; `age` in seconds, None if unknown."""
        self.label_set(labels).interruptions += 1
        cluster = self.cluster(labels.cluster)
        cluster.interruptions += 1
        newest = cluster.last_interruption_at
        # Earlier versions believed any time: one that has still to come is not the newest.
        if newest is None or at > newest or newest > self._now + BELIEVED_AHEAD_SECONDS:
            cluster.last_interruption_at = at
        lifetime = self.lifetime(labels.cluster, labels.machine_type)
        if age is not None:
            lifetime.observe(age)

    def _touch(self, key: _Key, base: dict[_Key, _Row], changed: dict[_Key, _Row]) -> _Row | None:
        if key not in base:
            return None
        row = changed[key] = base[key].copied()
        row.touched_at = self._now
        return row

    def _new(self, key: _Key, changed: dict[_Key, _Row], row: _Row) -> _Row:
        row.touched_at = self._now
        row.revealed = self._revealed
        changed[key] = row
        return row
