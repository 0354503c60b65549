"""The counters of each replica, and the names of all series."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

from app.domain.instances import Labels
from app.domain.totals import ClusterTotals, LabelSetTotals, LifetimeTotals, Totals
from app.store.redis.rows import Pairs, dumps, pairs

_Row = TypeVar("_Row", LabelSetTotals, ClusterTotals, LifetimeTotals)

Series: TypeAlias = Labels | str | tuple[str, str]
"""A label set, a cluster, or a pair of cluster and machine type: each has series of its own."""


class LabelSetRow(NamedTuple):
    """A replica's counters of a label set."""

    interruptions: int
    created: int
    failed: int
    instance_seconds: float
    released: bool


class ClusterRow(NamedTuple):
    """A replica's counter of a cluster."""

    interruptions: int
    released: bool


class LifetimeRow(NamedTuple):
    """A replica's lifetime histogram."""

    buckets: list[int]
    sum: float
    released: bool


def decode_series(text: str) -> Series:
    """Return the series of a member of `changed`, or of a field of a replica's totals."""
    parts = json.loads(text)
    match len(parts):
        case 1:
            return str(parts[0])
        case 2:
            return parts[0], parts[1]
        case _:
            return Labels(*parts)


def encode_series(series: Series) -> str:
    """Return the member or field of the series."""
    return dumps([series] if isinstance(series, str) else series)


def all_series(totals: Totals) -> Iterator[tuple[Series, float]]:
    """Return all series, and the time of the last event of each."""
    for labels, row in totals.label_sets.items():
        yield labels, row.changed_at
    for cluster, row_of_cluster in totals.clusters.items():
        yield cluster, row_of_cluster.changed_at
    for lifetime, row_of_lifetime in totals.lifetimes.items():
        yield lifetime, row_of_lifetime.changed_at


def encode_replica_totals(totals: Totals) -> Iterator[tuple[str, str]]:
    """Return a replica's own counters as fields and values."""
    for labels, row in totals.label_sets.items():
        yield (
            encode_series(labels),
            dumps(
                LabelSetRow(row.interruptions, row.created, row.failed, row.instance_seconds, row.released)
            ),
        )
    for name, cluster in totals.clusters.items():
        yield encode_series(name), dumps(ClusterRow(cluster.interruptions, cluster.released))
    for pair, lifetime in totals.lifetimes.items():
        yield encode_series(pair), dumps(LifetimeRow(lifetime.buckets, lifetime.sum, lifetime.released))


def decode_replica_totals(reply: Pairs) -> Totals:
    """Return a replica's own counters."""
    totals = Totals()
    for text, value in pairs(reply):
        series, counters = decode_series(text), json.loads(value)
        if isinstance(series, Labels):
            row = LabelSetRow._make(counters)
            totals.label_sets[series] = LabelSetTotals(
                series,
                row.interruptions,
                row.created,
                row.failed,
                instance_seconds=row.instance_seconds,
                released=row.released,
            )
        elif isinstance(series, str):
            cluster = ClusterRow._make(counters)
            totals.clusters[series] = ClusterTotals(series, cluster.interruptions, released=cluster.released)
        else:
            lifetime = LifetimeRow._make(counters)
            totals.lifetimes[series] = LifetimeTotals(
                *series, lifetime.buckets, lifetime.sum, released=lifetime.released
            )
    return totals


def is_behind(stored: Totals, memory: Totals) -> bool:
    """Return True if the server has lost some of a replica's counters that are in memory."""
    return (
        any(
            _is_ahead(row, stored.label_sets.get(labels) or LabelSetTotals(labels), _label_set_counters)
            for labels, row in memory.label_sets.items()
        )
        or any(
            _is_ahead(cluster, stored.clusters.get(name) or ClusterTotals(name), _cluster_counters)
            for name, cluster in memory.clusters.items()
        )
        or any(
            _is_ahead(lifetime, stored.lifetimes.get(pair) or LifetimeTotals(*pair), _lifetime_counters)
            for pair, lifetime in memory.lifetimes.items()
        )
    )


def _is_ahead(row: _Row, stored: _Row, counters: Callable[[_Row], Sequence[float]]) -> bool:
    mine, theirs = counters(row), counters(stored)
    if any(one > other for one, other in zip(mine, theirs, strict=True)):
        return True
    # A row that exports its values must not be held again. A row of zeros has nothing to hold.
    return any(mine) and row.released and not stored.released


def _label_set_counters(row: LabelSetTotals) -> Sequence[float]:
    return row.interruptions, row.created, row.failed, row.instance_seconds


def _cluster_counters(row: ClusterTotals) -> Sequence[float]:
    return (row.interruptions,)


def _lifetime_counters(row: LifetimeTotals) -> Sequence[float]:
    return row.buckets
