"""The durable numbers behind the metrics, and the changes that a batch makes to them.

A shared row never changes: a batch copies each row before it changes it, so readers do not need a lock.
"""

from bisect import bisect_left
from collections.abc import Callable
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
"""Upper bounds of the lifetime histogram's buckets, in seconds, without the infinite last bound."""

_RESERVED: Final = frozenset((UNKNOWN, OTHER))
_RESERVED_SETS: Final = frozenset((UNKNOWN_LABELS, OTHER_LABELS))


@dataclass(slots=True)
class LabelSetTotals:
    """The totals of the Spot instances of one label set."""

    labels: Labels
    interruptions: int = 0
    created: int = 0
    failed: int = 0
    instances: int = 0
    """Number of live instances."""
    instance_seconds: float = 0.0
    changed_at: float = 0.0
    """Time when the last event was recorded, by the exporter's clock."""
    released: bool = False
    """The counters are released. Held counters show 0, so that `increase()` sees the first value."""

    def copy(self) -> "LabelSetTotals":
        """Return a copy of the row."""
        return LabelSetTotals(
            self.labels,
            self.interruptions,
            self.created,
            self.failed,
            self.instances,
            self.instance_seconds,
            self.changed_at,
            self.released,
        )


@dataclass(slots=True)
class ClusterTotals:
    """The totals of all clusters of one name."""

    cluster: str
    interruptions: int = 0
    last_interruption_at: float | None = None
    changed_at: float = 0.0
    released: bool = False

    def copy(self) -> "ClusterTotals":
        """Return a copy of the row."""
        return ClusterTotals(
            self.cluster, self.interruptions, self.last_interruption_at, self.changed_at, self.released
        )


@dataclass(slots=True)
class LifetimeTotals:
    """Ages at interruption: the count per bucket (the last bound is infinite), and the sum in seconds."""

    cluster: str
    machine_type: str
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LIFETIME_BOUNDS) + 1))
    sum: float = 0.0
    changed_at: float = 0.0
    released: bool = False

    def observe(self, age: float) -> None:
        """Add one age, in seconds."""
        self.buckets[bisect_left(LIFETIME_BOUNDS, age)] += 1
        self.sum += age

    def copy(self) -> "LifetimeTotals":
        """Return a copy of the row."""
        return LifetimeTotals(
            self.cluster, self.machine_type, list(self.buckets), self.sum, self.changed_at, self.released
        )


_Key = TypeVar("_Key")
_Row = TypeVar("_Row", LabelSetTotals, ClusterTotals, LifetimeTotals)


@dataclass(slots=True)
class Totals:
    """Rows by their keys: all rows, or those that a batch has changed."""

    label_sets: dict[Labels, LabelSetTotals] = field(default_factory=dict)
    clusters: dict[str, ClusterTotals] = field(default_factory=dict)
    lifetimes: dict[tuple[str, str], LifetimeTotals] = field(default_factory=dict)

    def update(self, changed: "Totals") -> None:
        """Add or replace the rows of a committed batch."""
        self.label_sets.update(changed.label_sets)
        self.clusters.update(changed.clusters)
        self.lifetimes.update(changed.lifetimes)

    def remove(self, gone: "Totals") -> None:
        """Remove these rows."""
        for labels in gone.label_sets:
            self.label_sets.pop(labels, None)
        for cluster in gone.clusters:
            self.clusters.pop(cluster, None)
        for lifetime in gone.lifetimes:
            self.lifetimes.pop(lifetime, None)

    def __bool__(self) -> bool:
        return bool(self.label_sets or self.clusters or self.lifetimes)

    def idle(self, before: float) -> "Totals":
        """Return the rows that have no live instance, and no event since `before`."""
        label_sets = {
            labels: row
            for labels, row in self.label_sets.items()
            if not row.instances and row.changed_at < before and labels != UNKNOWN_LABELS
        }
        kept = self.label_sets.keys() - label_sets.keys()
        clusters = {labels.cluster for labels in kept}
        types = {(labels.cluster, labels.machine_type) for labels in kept}
        return Totals(
            label_sets,
            {
                name: row
                for name, row in self.clusters.items()
                if name not in clusters and row.changed_at < before and name != UNKNOWN
            },
            {key: row for key, row in self.lifetimes.items() if key not in types and row.changed_at < before},
        )


class TotalsDelta:
    """The changes of a batch to the totals: changed copies of rows."""

    __slots__ = ("_base", "_max_label_sets", "_now", "_released", "changed")

    def __init__(self, base: Totals, *, max_label_sets: int, released: bool, now: float) -> None:
        """Begin without changes. `released`: new rows are not held at 0."""
        self.changed = Totals()
        self._base = base
        self._max_label_sets = max_label_sets
        self._released = released
        self._now = now

    def admits(self, labels: Labels) -> bool:
        """Return True if the label set has series or may get them. If not, it counts under `other`."""
        base, changed = self._base.label_sets, self.changed.label_sets
        return labels in base or labels in changed or self._has_room(labels, base, changed, _RESERVED_SETS)

    def admits_cluster(self, cluster: str) -> bool:
        """Return True if the cluster has series or may get them. If not, it counts under `other`."""
        base, changed = self._base.clusters, self.changed.clusters
        return cluster in base or cluster in changed or self._has_room(cluster, base, changed, _RESERVED)

    def _has_room(
        self, key: _Key, base: dict[_Key, _Row], changed: dict[_Key, _Row], reserved: frozenset[_Key]
    ) -> bool:
        if key in reserved:
            return True
        # Reserved keys do not count towards the limit. Counting them is cheaper than filtering the table.
        free = sum(key in base or key in changed for key in reserved)
        return len(base) + sum(key not in base for key in changed) - free < self._max_label_sets

    def label_set(self, labels: Labels) -> LabelSetTotals:
        """Return the row of the label set, to change it."""
        base, changed = self._base.label_sets, self.changed.label_sets
        return changed.get(labels) or self._add(labels, base, changed, lambda: LabelSetTotals(labels))

    def cluster(self, cluster: str) -> ClusterTotals:
        """Return the row of the cluster, to change it."""
        base, changed = self._base.clusters, self.changed.clusters
        return changed.get(cluster) or self._add(cluster, base, changed, lambda: ClusterTotals(cluster))

    def lifetime(self, cluster: str, machine_type: str) -> LifetimeTotals:
        """Return the row of the histogram, to change it."""
        key = (cluster, machine_type)
        base, changed = self._base.lifetimes, self.changed.lifetimes
        return changed.get(key) or self._add(key, base, changed, lambda: LifetimeTotals(*key))

    def ensure_series(self, labels: Labels) -> None:
        """Make sure that the series of the label set and of its cluster exist."""
        if labels not in self._base.label_sets:
            self.label_set(labels)
        self.ensure_cluster(labels.cluster)
        if (labels.cluster, labels.machine_type) not in self._base.lifetimes:
            self.lifetime(labels.cluster, labels.machine_type)

    def ensure_cluster(self, cluster: str) -> None:
        """Make sure that the series of the cluster exist."""
        if cluster not in self._base.clusters:
            self.cluster(cluster)

    def count(self, labels: Labels, at: float, age: float | None) -> None:
        """Add an interruption to its label set, cluster and histogram. `age`: seconds, None if unknown."""
        self.label_set(labels).interruptions += 1
        cluster = self.cluster(labels.cluster)
        cluster.interruptions += 1
        newest = cluster.last_interruption_at
        # A stored time can be in the future, from a version that accepted every time. It is not the newest.
        if newest is None or at > newest or newest > self._now + BELIEVED_AHEAD_SECONDS:
            cluster.last_interruption_at = at
        lifetime = self.lifetime(labels.cluster, labels.machine_type)
        if age is not None:
            lifetime.observe(age)

    def _add(
        self, key: _Key, base: dict[_Key, _Row], changed: dict[_Key, _Row], make: Callable[[], _Row]
    ) -> _Row:
        """Add a copy of the base's row to the changed rows, or a new row, and return it."""
        known = base.get(key)
        if known is None:
            row = make()
            row.released = self._released
        else:
            row = known.copy()
        row.changed_at = self._now
        changed[key] = row
        return row
