"""What the status page is made of, as it was at one moment."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from prometheus_client.samples import Sample

from app.domain.history import Entry, PoolHistory
from app.domain.totals import LabelSetTotals

_Labels: TypeAlias = frozenset[tuple[str, str]]


class Seen:
    """What this process has seen, by the names of the exporter's own series."""

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
        """The value; None where there is none yet."""
        return self._of(series).get(frozenset(labels.items()))

    def by(self, label: str, series: str, **labels: str) -> Mapping[str, float]:
        """The values by one label, where the others are these."""
        wanted = labels.items()
        found = ((dict(pairs), value) for pairs, value in self._of(series).items() if wanted <= pairs)
        return {pairs[label]: value for pairs, value in found}

    def by_two(self, label: str, second: str, series: str) -> Mapping[str, Mapping[str, float]]:
        """The values by two labels."""
        found: defaultdict[str, dict[str, float]] = defaultdict(dict)
        for labels, value in self._of(series).items():
            pairs = dict(labels)
            found[pairs[label]][pairs[second]] = value
        return found

    def observed(self, histogram: str, **labels: str) -> float:
        """How many observations a histogram has."""
        return self.by("le", f"{histogram}_bucket", **labels).get("+Inf", 0.0)

    def within(self, share: float, histogram: str, **labels: str) -> float | None:
        """The bound that this share of a histogram's observations does not exceed; None: it has none."""
        buckets = self.by("le", f"{histogram}_bucket", **labels)
        needed = share * buckets.get("+Inf", 0.0)
        bounds = sorted((float(bound), number) for bound, number in buckets.items())
        return next((bound for bound, number in bounds if 0 < needed <= number), None)

    def _of(self, series: str) -> Mapping[_Labels, float]:
        return self._values[f"spot_interruption_exporter_{series}"]


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the ledger tells of the week."""

    pools: Sequence[PoolHistory] = ()
    newest: Sequence[Entry] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that is on the page; times by the exporter's clock."""

    now: float
    started_at: float
    label_sets: Sequence[LabelSetTotals]
    waiting: int
    seen: Seen
    ledger: Ledger | None
    """None: it cannot be read."""
    ledger_trouble: str = ""
    ailing: str | None = None
    missing: Sequence[str] = ()
    listing_interval_seconds: float = 600.0
