"""The facts on the status page, as they were at one moment."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Final, TypeAlias

from prometheus_client.samples import Sample

from app.domain.events import UNKNOWN
from app.domain.instances import Labels
from app.domain.ledger import LabelSetWeek, LedgerEntry, PoolWeek
from app.domain.totals import LabelSetTotals

_Labels: TypeAlias = frozenset[tuple[str, str]]


class SelfMetrics:
    """The samples of the exporter's metrics about itself, by name and labels."""

    SERIES: Final = (
        "push_messages_total",
        "push_errors_total",
        "event_delay_seconds_bucket",
        "last_push_timestamp_seconds",
        "store_commit_seconds_bucket",
        "store_resets_total",
        "label_overflow_total",
        "inventory_last_success_timestamp_seconds",
        "inventory_duration_seconds",
        "inventory_instances",
        "inventory_failures_total",
    )

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._values: defaultdict[str, dict[_Labels, float]] = defaultdict(dict)
        for sample in samples:
            self._values[sample.name][frozenset(sample.labels.items())] = sample.value

    def value(self, series: str, **labels: str) -> float | None:
        """Return the value of the series with these labels, or None if there is no such series."""
        return self._of(series).get(frozenset(labels.items()))

    def by(self, label: str, series: str, **labels: str) -> Mapping[str, float]:
        """Return the values by one label, if the other labels are these."""
        wanted = labels.items()
        found = ((dict(pairs), value) for pairs, value in self._of(series).items() if wanted <= pairs)
        return {pairs[label]: value for pairs, value in found}

    def by_labels(self, label: str, second: str, series: str) -> Mapping[str, Mapping[str, float]]:
        """Return the values by two labels."""
        found: defaultdict[str, dict[str, float]] = defaultdict(dict)
        for labels, value in self._of(series).items():
            pairs = dict(labels)
            found[pairs[label]][pairs[second]] = value
        return found

    def observed(self, histogram: str, **labels: str) -> float:
        """Return the number of observations of a histogram."""
        return self._buckets(histogram, **labels).get(float("inf"), 0.0)

    def quantile_bound(self, share: float, histogram: str, **labels: str) -> float | None:
        """Return the lowest bound that covers this share of the observations.

        None if there is no observation; infinity if the share is above the largest bound.
        """
        buckets = self._buckets(histogram, **labels)
        needed = share * buckets.get(float("inf"), 0.0)
        return next((bound for bound, number in sorted(buckets.items()) if 0 < needed <= number), None)

    def largest_bound(self, histogram: str, **labels: str) -> float:
        """Return the largest finite bound of a histogram."""
        return max(bound for bound in self._buckets(histogram, **labels) if bound != float("inf"))

    def _buckets(self, histogram: str, **labels: str) -> Mapping[float, float]:
        buckets = self.by("le", f"{histogram}_bucket", **labels)
        return {float(bound): number for bound, number in buckets.items()}

    def _of(self, series: str) -> Mapping[_Labels, float]:
        return self._values[f"spot_interruption_exporter_{series}"]


class Window(Enum):
    """The period of the rates and shares."""

    WEEK = "in the last 7 days"
    SINCE_COUNTING_BEGAN = "since counting began"
    """Counting began less than 7 days ago, or the ledger cannot be read."""


@dataclass(slots=True)
class CountedLabels:
    """The numbers of one label set in the page's window."""

    labels: Labels
    instances: int = 0
    """Spot instances that live now."""
    interruptions: int = 0
    counted_as_unknown: int = 0
    """The number of these interruptions that the metrics have under `unknown`."""
    instance_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Ledger:
    """The ledger's rows of the last 7 days, by node pool and by label set, and the newest rows."""

    pools: Sequence[PoolWeek] = ()
    newest: Sequence[LedgerEntry] = ()
    week: Sequence[LabelSetWeek] = ()
    counting_since: float | None = None
    """The time since when interruptions are counted."""

    @property
    def last_week(self) -> int:
        """The counted interruptions of the last 7 days."""
        return sum(pool.last_week for pool in self.pools)


@dataclass(frozen=True)  # not slotted, because it keeps its sums over all label sets
class Snapshot:
    """Everything that is on the page. Times are by the exporter's clock."""

    now: float
    started_at: float
    label_sets: Sequence[LabelSetTotals]
    """The totals since counting began."""
    pending: int
    self_metrics: SelfMetrics
    ledger: Ledger | None
    """None if the ledger cannot be read."""
    refusals: Mapping[str, str] = field(default_factory=dict)
    """The newest detail of each reason for which a push was refused."""
    ledger_error: str = ""
    unhealthy_reason: str | None = None
    not_ready_reasons: Sequence[str] = ()
    listing_interval_seconds: float = 600.0

    @cached_property
    def window(self) -> Window:
        """The period of the rates and shares.

        The store knows starts and ends from before it began to count. So if the instance time of the
        last 7 days is more than the counted time, counting is younger than 7 days.
        """
        if self.ledger is None:
            return Window.SINCE_COUNTING_BEGAN
        counted = sum(row.instance_seconds for row in self.label_sets)
        lived = sum(row.instance_seconds for row in self.ledger.week)
        return Window.WEEK if lived < counted else Window.SINCE_COUNTING_BEGAN

    @cached_property
    def counted(self) -> Sequence[CountedLabels]:
        """The numbers of each label set in the window."""
        found = {row.labels: CountedLabels(row.labels, row.instances) for row in self.label_sets}
        if self.ledger is not None and self.window is Window.WEEK:
            for week in self.ledger.week:
                row = found.setdefault(week.labels, CountedLabels(week.labels))
                row.interruptions += week.interruptions
                row.counted_as_unknown += week.counted_as_unknown
                row.instance_seconds += week.instance_seconds
        else:
            for total in self.label_sets:
                row = found[total.labels]
                row.interruptions += total.interruptions
                row.counted_as_unknown += total.interruptions if total.labels.cluster == UNKNOWN else 0
                row.instance_seconds += total.instance_seconds
        return list(found.values())
