"""The series of the store's totals: what is exported of each row, and when it is held."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import Final, TypeAlias, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from app.domain.events import BELIEVED_AHEAD_SECONDS
from app.domain.instances import OTHER_LABELS, Labels
from app.domain.totals import LIFETIME_BOUNDS, ClusterTotals, LabelSetTotals, LifetimeTotals, Totals
from app.exposition import RenderedTable

PREFIX: Final = "spot_interruption_exporter"
"""The beginning of the names of the exporter's metrics about itself."""
_LE: Final = [*(floatToGoString(bound) for bound in LIFETIME_BOUNDS), "+Inf"]
_SHARED_FAMILIES: Final = ("spot_last_interruption_timestamp_seconds", "spot_instances")
"""Families of the store's totals that replicas share, so that only the leader exports them."""
_NO_LABEL_SET: Final = LabelSetTotals(OTHER_LABELS)
_NO_CLUSTER: Final = ClusterTotals("")
_NO_LIFETIME: Final = LifetimeTotals("", "")
"""Rows of counters at 0, for series that are held."""
_Row: TypeAlias = LabelSetTotals | ClusterTotals | LifetimeTotals
_Cluster: TypeAlias = tuple[ClusterTotals, ClusterTotals, bool]
_LabelSet: TypeAlias = tuple[LabelSetTotals, LabelSetTotals]
_Lifetime: TypeAlias = tuple[LifetimeTotals, LifetimeTotals]
"""A row, and the row whose counters are exported: see `TotalsSeries`."""
_Key = TypeVar("_Key")
_AnyRow = TypeVar("_AnyRow", LabelSetTotals, ClusterTotals, LifetimeTotals)


class TotalsSeries:
    """Renders the totals of the store. Counters of prometheus_client cannot be set to a value."""

    def __init__(
        self,
        cluster_label: str,
        hold_seconds: float,
        monotonic: Callable[[], float],
        clock: Callable[[], float],
        leads: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._leads = leads
        self._totals = Totals()
        self.hold_seconds = hold_seconds
        self._monotonic = monotonic
        self._held_since: dict[object, float] = {}
        self._restored = Totals()
        """The totals at the start, which are exported at first."""
        self._first_scrape_at: float | None = None
        self._lock = threading.Lock()
        self._cluster_label = cluster_label
        self._label_names = [
            "project",
            cluster_label,
            "cluster_location",
            "node_pool",
            "zone",
            "machine_type",
        ]
        self._clusters: RenderedTable[str, _Cluster] = RenderedTable(self._cluster_families, _cluster_values)
        self._label_sets: RenderedTable[Labels, _LabelSet] = RenderedTable(
            self._label_set_families, _label_set_values
        )
        self._lifetimes: RenderedTable[tuple[str, str], _Lifetime] = RenderedTable(
            self._lifetime_families, _lifetime_values
        )

    def restore(self, totals: Totals) -> None:
        """Show these totals. The first ones are those of the start."""
        if not self._restored:
            self._restored = Totals(dict(totals.label_sets), dict(totals.clusters), dict(totals.lifetimes))
        self._totals = totals

    def hold_own(self, families: Iterable[Metric]) -> Iterator[Metric]:
        """Return the families, with the exporter's own counters at 0 while the restored totals are shown."""
        is_starting = self._is_starting(self._monotonic())
        for family in families:
            if is_starting and family.name.startswith(PREFIX) and family.type in ("counter", "histogram"):
                family.samples = [sample._replace(value=0.0) for sample in family.samples]
            yield family

    def _is_starting(self, now: float) -> bool:
        """Return True until `hold_seconds` after the first scrape of this process.

        Some managed collectors take the first sample of a new target as the zero of its counter. So what was
        counted before the start is exported first, and what is counted since then is seen as an increase.
        """
        if self._first_scrape_at is None:
            self._first_scrape_at = now
        return now < self._first_scrape_at + self.hold_seconds

    def update(self, changed: Totals, removed: Totals) -> None:
        """Show the changes of a commit."""
        self._totals.update(changed)
        self._totals.remove(removed)

    def ready_to_release(self) -> Totals:
        """Return the rows whose hold has ended, and forget those that the store has released since."""
        ended = self._monotonic() - self.hold_seconds
        # An atomic copy, because a scrape in its thread may begin a hold at the same time.
        keys = {key for key, since in list(self._held_since.items()) if since <= ended}
        ready = Totals(
            _held(self._totals.label_sets, keys),
            _held(self._totals.clusters, keys),
            _held(self._totals.lifetimes, keys),
        )
        for key in keys - ready.label_sets.keys() - ready.clusters.keys() - ready.lifetimes.keys():
            del self._held_since[key]
        return ready

    def label_sets(self) -> Sequence[LabelSetTotals]:
        """Return the totals by label set. Nobody changes a row."""
        return list(self._totals.label_sets.values())

    def render(self, encode: Callable[[Collector], bytes]) -> Sequence[bytes]:
        """Return all families in a format. Only the leader exports the series that replicas share."""
        with self._lock:
            return [
                part
                for family in (
                    *self._clusters.render(*self._exported_clusters()),
                    *self._label_sets.render(
                        *self._exported(self._totals.label_sets, self._restored.label_sets, _NO_LABEL_SET)
                    ),
                    *self._lifetimes.render(
                        *self._exported(self._totals.lifetimes, self._restored.lifetimes, _NO_LIFETIME)
                    ),
                )
                if family.family.name not in _SHARED_FAMILIES or self._leads()
                for part in family.encode(encode)
            ]

    def _exported(
        self, rows: Mapping[_Key, _AnyRow], restored: Mapping[_Key, _AnyRow], zero: _AnyRow
    ) -> tuple[Sequence[_Key], Sequence[tuple[_AnyRow, _AnyRow]]]:
        """Return the keys, and the rows, each with the row whose counters are exported: perhaps `zero`."""
        # An atomic copy, because the event loop may change the dictionary at the same time.
        items = list(rows.items())
        now = self._monotonic()
        shown = restored if self._is_starting(now) else {}
        return (
            [key for key, _ in items],
            [
                (row, (shown.get(key, row) if shown else row) if self._is_released(key, row, now) else zero)
                for key, row in items
            ],
        )

    def _exported_clusters(self) -> tuple[Sequence[str], Sequence[_Cluster]]:
        """Return the clusters, each with the row whose counter is exported, and whether its time is."""
        # Earlier versions accepted any time. The next interruption replaces a time in the future.
        latest = self._clock() + BELIEVED_AHEAD_SECONDS
        keys, rows = self._exported(self._totals.clusters, self._restored.clusters, _NO_CLUSTER)
        return keys, [
            (row, counters, row.last_interruption_at is not None and row.last_interruption_at <= latest)
            for row, counters in rows
        ]

    def _is_released(self, key: object, row: _Row, now: float) -> bool:
        """Return whether to export the counters of the row.

        A new row shows 0 for `hold_seconds` after its first scrape. Without a hold, rows that an earlier
        configuration held are released at once.
        """
        if not row.released:
            self._held_since.setdefault(key, now)
        return row.released or self.hold_seconds <= 0

    def _cluster_families(self, rows: Sequence[_Cluster]) -> Sequence[Metric]:
        families = (
            CounterMetricFamily(
                "interruption_events",
                "The total number of interruption events for a given cluster",
                labels=[self._cluster_label],
            ),
            GaugeMetricFamily(
                "spot_last_interruption_timestamp_seconds",
                "Log time of the newest interruption",
                labels=[self._cluster_label],
            ),
        )
        for row in rows:
            _add(families, [row[0].cluster], _cluster_values(row))
        return families

    def _label_set_families(self, rows: Sequence[_LabelSet]) -> Sequence[Metric]:
        counter = partial(CounterMetricFamily, labels=self._label_names)
        families = (
            counter("spot_interruptions", "Interruptions of Spot instances, each counted once"),
            counter("spot_instances_created", "Spot instances whose creation was announced"),
            counter(
                "spot_instance_creations_failed",
                "Spot instances whose creation was announced and then failed",
            ),
            counter("spot_instance_seconds", "Time that Spot instances have lived, in seconds"),
            GaugeMetricFamily("spot_instances", "Spot instances alive now", labels=self._label_names),
        )
        for row in rows:
            _add(families, row[0].labels, _label_set_values(row))
        return families

    def _lifetime_families(self, rows: Sequence[_Lifetime]) -> Sequence[Metric]:
        family = HistogramMetricFamily(
            "spot_instance_lifetime_seconds",
            "Age of a Spot instance at its interruption, in seconds since its last start",
            labels=[self._cluster_label, "machine_type"],
        )
        for row in rows:
            ((*cumulated, _, total),) = _lifetime_values(row)
            family.add_metric(
                [row[0].cluster, row[0].machine_type],
                buckets=list(zip(_LE, cumulated, strict=True)),
                sum_value=total,
            )
        return (family,)


def _add(
    families: Sequence[CounterMetricFamily | GaugeMetricFamily],
    labels: Sequence[str],
    values: Sequence[Sequence[float]],
) -> None:
    """Add to each family a sample with its value, if it has one."""
    for family, of_family in zip(families, values, strict=True):
        for value in of_family:
            family.add_metric(labels, value)


def _cluster_values(row: _Cluster) -> Sequence[Sequence[float]]:
    totals, counters, has_newest = row
    newest = totals.last_interruption_at if has_newest else None
    return (counters.interruptions,), () if newest is None else (newest,)


def _label_set_values(row: _LabelSet) -> Sequence[Sequence[float]]:
    totals, counters = row
    return (
        (counters.interruptions,),
        (counters.created,),
        (counters.failed,),
        (counters.instance_seconds,),
        (totals.instances,),
    )


def _lifetime_values(row: _Lifetime) -> Sequence[Sequence[float]]:
    """Return the values of a histogram in the order of its lines: the buckets, their number, the sum."""
    _, counters = row
    cumulated = list(accumulate(counters.buckets))
    return ([*cumulated, cumulated[-1], counters.sum],)


def _held(rows: dict[_Key, _AnyRow], keys: set[object]) -> dict[_Key, _AnyRow]:
    # Asked every second: all rows would take 3 ms for 50,000 series.
    return {key: rows[key] for key in rows.keys() & keys if not rows[key].released}
