"""The ground truth of a simulated fleet: the incarnations of its instances, and numbers derived from them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

Key: TypeAlias = tuple[str, ...]

HOUR: Final = 3600.0
LABELS: Final = ("project", "kubernetes_cluster", "cluster_location", "node_pool", "zone", "machine_type")


@dataclass(slots=True)
class Incarnation:
    """An incarnation of an instance name. If only an interruption is known, its id is empty."""

    labels: Key
    """Values of `LABELS`."""
    name: str
    id: str
    spot: bool
    created_at: float
    announced_at: float | None = None
    """The time at which its creation is pushed; None if it existed before the simulation began."""
    ended_at: float = float("inf")
    failed_at: float | None = None
    """The time at which the failure of its creation is pushed."""
    interrupted: bool = False
    counted_at: float | None = None
    """The time at which its interruption is counted: it is reported by a push or by its operation, and its
    creation is pushed or the grace period is over."""
    end_reported_at: float | None = None
    """The time at which its deletion is pushed."""

    def is_alive(self, at: float) -> bool:
        """Return whether the instance exists at this time."""
        return self.failed_at is None and self.created_at <= at < self.ended_at

    def alive_seconds(self, since: float, until: float) -> float:
        """Return how long the instance existed within this period."""
        if self.failed_at is not None:
            return 0.0
        return max(0.0, min(until, self.ended_at) - max(since, self.created_at))


class Truth:
    """The numbers of a perfect observer. Periods are `since` < t ≤ `until`; `by` names labels."""

    def __init__(
        self,
        incarnations: Sequence[Incarnation],
        expected_interruptions: Callable[[str, str, float, float], float],
    ) -> None:
        self.incarnations = incarnations
        self._expected_interruptions = expected_interruptions

    def interruptions(self, since: float, until: float, *by: str) -> Counter[Key]:
        """Return the number of interruptions counted in the period."""
        return self._count(by, lambda incarnation: _within(incarnation.counted_at, since, until))

    def created(self, since: float, until: float, *by: str) -> Counter[Key]:
        """Return the number of Spot creations announced in the period, including failed ones."""
        return self._count(
            by, lambda incarnation: incarnation.spot and _within(incarnation.announced_at, since, until)
        )

    def failed(self, since: float, until: float, *by: str) -> Counter[Key]:
        """Return the number of Spot creations whose failure is pushed in the period."""
        return self._count(
            by, lambda incarnation: incarnation.spot and _within(incarnation.failed_at, since, until)
        )

    def instance_hours(self, since: float, until: float, *by: str) -> dict[Key, float]:
        """Return the instance-hours of Spot instances in the period."""
        return self._sum(by, lambda incarnation: incarnation.alive_seconds(since, until) / HOUR)

    def expected(self, since: float, until: float, *by: str) -> dict[Key, float]:
        """Return the expected number of interruptions in the period, from the rates and storms."""

        def expected_of(incarnation: Incarnation) -> float:
            if not incarnation.alive_seconds(since, until):
                return 0.0
            *_, zone, machine_type = incarnation.labels
            return self._expected_interruptions(
                machine_type, zone, max(since, incarnation.created_at), min(until, incarnation.ended_at)
            )

        return self._sum(by, expected_of)

    def ages(self, since: float, until: float, *by: str) -> dict[Key, list[float]]:
        """Return the ages at the interruptions counted in the period, in seconds and ascending."""
        ages: dict[Key, list[float]] = {}
        for incarnation in self.incarnations:
            if incarnation.id and _within(incarnation.counted_at, since, until):
                ages.setdefault(_key(incarnation, by), []).append(
                    incarnation.ended_at - incarnation.created_at
                )
        return {key: sorted(values) for key, values in ages.items()}

    def alive(self, at: float, *by: str) -> Counter[Key]:
        """Return the number of Spot instances that exist at this time."""
        return self._count(by, lambda incarnation: incarnation.spot and incarnation.is_alive(at))

    def _count(self, by: Key, counts: Callable[[Incarnation], bool]) -> Counter[Key]:
        return Counter(_key(incarnation, by) for incarnation in self.incarnations if counts(incarnation))

    def _sum(self, by: Key, amount: Callable[[Incarnation], float]) -> dict[Key, float]:
        sums: dict[Key, float] = {}
        for incarnation in self.incarnations:
            if incarnation.spot and (value := amount(incarnation)):
                key = _key(incarnation, by)
                sums[key] = sums.get(key, 0.0) + value
        return sums


def _key(incarnation: Incarnation, by: Key) -> Key:
    return tuple(incarnation.labels[LABELS.index(label)] for label in by)


def _within(at: float | None, since: float, until: float) -> bool:
    return at is not None and since < at <= until
