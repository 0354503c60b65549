"""The comparison of an exporter's metrics and ledger with the sent events."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from math import inf
from typing import Final, TypeAlias

import httpx

from tests.chaos.incarnations import AGE_SECONDS
from tests.chaos.traffic import Labels, Traffic
from tests.support.prometheus import Series

COUNTERS: Final = (
    "interruption_events_total",
    "spot_interruptions_total",
    "spot_instances_created_total",
    "spot_instance_creations_failed_total",
    "spot_instance_seconds_total",
    "spot_instance_lifetime_seconds_count",
    "spot_instance_lifetime_seconds_sum",
    "spot_instance_lifetime_seconds_bucket",
)
"""The durable counters, which never go down."""
_BOUNDS_FROM_AGE: Final = (
    *(3600.0 * hours for hours in (1, 2, 4, 8, 12, 24, 48, 72, 120, 168, 336, 672)),
    inf,
)
"""The bounds of the lifetime buckets that are AGE_SECONDS or more."""
_ZERO_AT_END: Final = (
    "spot_instances",
    "spot_instance_creations_failed_total",
    "spot_interruption_exporter_pending_interruptions",
)

NonzeroSeries: TypeAlias = Callable[[str], Mapping[Labels, float]]
"""A function that returns the series of a metric whose value is not 0."""


def differences(traffic: Traffic, shown: NonzeroSeries) -> Iterator[str]:
    """Yield a line for each label set whose value differs from the sent events."""
    sent: Mapping[str, Mapping[Labels, float]] = {
        "interruption_events_total": traffic.by_cluster,
        "spot_interruptions_total": traffic.interruptions,
        "spot_instances_created_total": traffic.created,
        "spot_instance_lifetime_seconds_count": traffic.lifetimes,
        "spot_instance_lifetime_seconds_sum": {
            labels: AGE_SECONDS * count for labels, count in traffic.lifetimes.items()
        },
        "spot_instance_lifetime_seconds_bucket": {
            labels | {("le", f"{bound:g}")}: count
            for labels, count in traffic.lifetimes.items()
            for bound in _BOUNDS_FROM_AGE
        },
        "spot_last_interruption_timestamp_seconds": traffic.newest,
        **{name: {} for name in _ZERO_AT_END},
    }
    for name, expected in sent.items():
        counted = {_with_float_bound(labels): value for labels, value in shown(name).items()}
        for labels in expected.keys() | counted.keys():
            if counted.get(labels, 0) != expected.get(labels, 0):
                counts = f"{expected.get(labels, 0):g} sent, {counted.get(labels, 0):g} counted"
                yield f"{name}{dict(sorted(labels))}: {counts}"


def without_target_labels(labels: Mapping[str, str]) -> Labels:
    """Return the labels without those that Prometheus adds for the target."""
    return frozenset(
        (label, value) for label, value in labels.items() if label not in ("__name__", "job", "instance")
    )


def _with_float_bound(labels: Labels) -> Labels:
    """Write a bucket's bound in one way: `1800` and `1800.0` are the same bound."""
    return frozenset((label, f"{float(value):g}" if label == "le" else value) for label, value in labels)


def counter_faults(all_series: Sequence[Series]) -> Iterator[str]:
    """Yield a line for each durable counter that goes down, or begins above 0, which hides an increase."""
    for series in all_series:
        if series.samples[0][1] != 0:
            yield f"{series.labels} begins with {series.samples[0][1]:g}"
        for (_, before), (at, later) in pairwise(series.samples):
            if later < before:
                yield f"{series.labels} went down from {before:g} to {later:g} at {at:.3f}"


def ledger_differences(traffic: Traffic, client: httpx.Client, metrics_url: str) -> Iterator[str]:
    """Yield a line unless the ledger has each interruption exactly once."""
    rows = read_ledger(client, metrics_url)
    if rows != traffic.ledger:
        missing, extra = traffic.ledger - rows, rows - traffic.ledger
        yield f"the ledger lacks {missing.total()} rows and has {extra.total()} rows too many"


def read_ledger(client: httpx.Client, metrics_url: str) -> Counter[tuple[str, str]]:
    """Read all pages: instance ids, and the times of their interruptions."""
    rows: Counter[tuple[str, str]] = Counter()
    page = {"limit": "1000"}
    while True:
        answer = client.get(f"{metrics_url}/interruptions", params=page).json()
        for row in answer["interruptions"]:
            rows[row["instance_id"], datetime.fromisoformat(row["interrupted_at"]).isoformat()] += 1
        if answer["next"] is None:
            return rows
        page["cursor"] = answer["next"]
