"""What an exporter shows and has in its ledger in the end, beside what was sent to it."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from math import inf
from typing import Final, TypeAlias

import httpx

from tests.chaos.lives import AGE_SECONDS
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
"""What is durable, and never goes down."""
_LONGER: Final = (*(3600.0 * hours for hours in (1, 2, 4, 8, 12, 24, 48, 72, 120, 168, 336, 672)), inf)
"""The bounds of the lifetimes' buckets from AGE_SECONDS on."""
_NONE_LEFT: Final = (
    "spot_instances",
    "spot_instance_creations_failed_total",
    "spot_interruption_exporter_pending_interruptions",
)

Shown: TypeAlias = Callable[[str], Mapping[Labels, float]]
"""A name's series that are not 0."""


def differences(made: Traffic, shown: Shown) -> Iterator[str]:
    """A line for each label set that is not exactly as it was sent."""
    sent: Mapping[str, Mapping[Labels, float]] = {
        "interruption_events_total": made.by_cluster,
        "spot_interruptions_total": made.interruptions,
        "spot_instances_created_total": made.created,
        "spot_instance_lifetime_seconds_count": made.lifetimes,
        "spot_instance_lifetime_seconds_sum": {
            labels: AGE_SECONDS * count for labels, count in made.lifetimes.items()
        },
        "spot_instance_lifetime_seconds_bucket": {
            labels | {("le", f"{bound:g}")}: count
            for labels, count in made.lifetimes.items()
            for bound in _LONGER
        },
        "spot_last_interruption_timestamp_seconds": made.newest,
        **{name: {} for name in _NONE_LEFT},
    }
    for name, expected in sent.items():
        seen = {_respelled(labels): value for labels, value in shown(name).items()}
        for labels in expected.keys() | seen.keys():
            if seen.get(labels, 0) != expected.get(labels, 0):
                sent_seen = f"{expected.get(labels, 0):g} sent, {seen.get(labels, 0):g} seen"
                yield f"{name}{dict(sorted(labels))}: {sent_seen}"


def own(labels: Mapping[str, str]) -> Labels:
    """Without those that Prometheus adds."""
    return frozenset(
        (label, value) for label, value in labels.items() if label not in ("__name__", "job", "instance")
    )


def _respelled(labels: Labels) -> Labels:
    """A bucket's bound is spelt in several ways."""
    return frozenset((label, f"{float(value):g}" if label == "le" else value) for label, value in labels)


def faults(series: Sequence[Series]) -> Iterator[str]:
    """What no durable counter may do: go down, or begin above 0, where nobody sees it grow."""
    for one in series:
        if one.samples[0][1] != 0:
            yield f"{one.labels} begins with {one.samples[0][1]:g}"
        for (_, before), (at, later) in pairwise(one.samples):
            if later < before:
                yield f"{one.labels} went down from {before:g} to {later:g} at {at:.3f}"


def in_ledger(made: Traffic, client: httpx.Client, metrics_url: str) -> Iterator[str]:
    """Whether the ledger has each interruption, once."""
    rows = ledger(client, metrics_url)
    if rows != made.ledger:
        missing, excess = made.ledger - rows, rows - made.ledger
        yield f"the ledger lacks {missing.total()} and has {excess.total()} too many"


def ledger(client: httpx.Client, metrics_url: str) -> Counter[tuple[str, str]]:
    """All of it: instance ids, and the moments of their interruptions."""
    rows: Counter[tuple[str, str]] = Counter()
    page = {"limit": "1000"}
    while True:
        answer = client.get(f"{metrics_url}/interruptions", params=page).json()
        for row in answer["interruptions"]:
            rows[row["instance_id"], datetime.fromisoformat(row["interrupted_at"]).isoformat()] += 1
        if answer["next"] is None:
            return rows
        page["cursor"] = answer["next"]
