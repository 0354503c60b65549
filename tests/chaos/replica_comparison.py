"""The comparison of the metrics of several replicas, and their ledger, with the sent events."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Final

from tests.chaos.comparison import COUNTERS, counter_faults, ledger_differences, without_target_labels
from tests.chaos.traffic import Labels, Traffic
from tests.support.process import eventually
from tests.support.prometheus import Prometheus, Series
from tests.support.replicas import SCRAPE_SECONDS, Replicas

PENDING: Final = "spot_interruption_exporter_pending_interruptions"
_LEADER_METRICS: Final = ("spot_instances", PENDING)
_MAX_OVERLAP_SCRAPES: Final = 2.5
"""Two replicas that lead alternately within this many scrape intervals lead at the same time."""


class ReplicaComparison:
    """Compares the samples in Prometheus, and the ledger, with the sent events."""

    def __init__(
        self,
        replicas: Replicas,
        prometheus: Prometheus,
        traffic: Traffic,
        began: float,
        lease_changes: Sequence[tuple[float, float]],
    ) -> None:
        self._replicas = replicas
        self._prometheus = prometheus
        self._traffic = traffic
        self._began = began
        self._lease_changes = lease_changes
        self._sent: Mapping[str, Mapping[Labels, float]] = {
            "interruption_events_total": traffic.by_cluster,
            "spot_interruptions_total": traffic.interruptions,
            "spot_instances_created_total": traffic.created,
            "spot_instance_lifetime_seconds_count": traffic.lifetimes,
        }

    def wait_for_scrapes(self) -> None:
        """Wait until all counts are scraped, then for two more scrapes, which could show double counts."""
        with suppress(TimeoutError):
            eventually(lambda: not list(self._differences()), within=20, what="all counts are scraped")
        self._prometheus.wait_for_scrapes(2)

    def errors(self) -> list[str]:
        """Return one line per difference or violated rule."""
        series = [found for name in COUNTERS for found in self._raw(name)]
        replica = self._replicas[self._replicas.names[-1]]
        return [
            *self._differences(),
            *counter_faults(series),
            *ledger_differences(self._traffic, replica.client, f"http://{replica.metrics_address}"),
            *self._final_errors(),
            *self._simultaneous_leaders(),
        ]

    def leaders(self) -> list[str]:
        """Return the leading replicas in order."""
        led = [name for _, name in self._leader_scrapes()]
        return [name for before, name in pairwise(["", *led]) if name != before]

    def scrapes(self) -> int:
        """Return the number of successful scrapes of all replicas."""
        return sum(int(up) for series in self._raw("up") for _, up in series.samples)

    def _raw(self, name: str) -> list[Series]:
        return self._prometheus.raw(name, time.time() - self._began)

    def _differences(self) -> Iterator[str]:
        """Compare each series' increase, summed over all replicas, with the sent events."""
        for name, sent in self._sent.items():
            counted: Counter[Labels] = Counter()
            for series in self._raw(name):
                increase = sum(max(later - before, 0) for (_, before), (_, later) in pairwise(series.samples))
                counted[without_target_labels(series.labels)] += round(increase)
            for labels in sent.keys() | counted.keys():
                if counted[labels] != sent.get(labels, 0):
                    counts = f"{sent.get(labels, 0)} sent, {counted[labels]} counted"
                    yield f"{name}{dict(sorted(labels))}: {counts}"

    def _final_errors(self) -> list[str]:
        """Return the errors that stay. A failed scrape on a busy machine hides a metric for a moment."""
        errors: list[str] = []

        def has_none() -> bool:
            errors[:] = self._leader_metric_errors()
            return not errors

        with suppress(TimeoutError):
            eventually(has_none, within=30, what="one replica leads")
        return errors

    def _leader_metric_errors(self) -> Iterator[str]:
        """Check that exactly one replica reports 0 instances and 0 pending interruptions."""
        for name in _LEADER_METRICS:
            now = self._prometheus.query(name)
            if any(sample.value for sample in now) or len({sample.labels["instance"] for sample in now}) != 1:
                yield f"{name} should be 0 and on one replica at the end, but is: {now}"

    def _simultaneous_leaders(self) -> Iterator[str]:
        """Report a scrape of one leader between two close scrapes of another."""
        led = self._leader_scrapes()
        for name in {name for _, name in led}:
            for before, after in pairwise(at for at, leader in led if leader == name):
                between = [(at, other) for at, other in led if before < at < after]
                is_expected = any(begin <= before <= end for begin, end in self._lease_changes)
                if between and not is_expected and after - before < _MAX_OVERLAP_SCRAPES * SCRAPE_SECONDS:
                    yield f"{name} and {between[0][1]} both lead at {before:.1f}"

    def _leader_scrapes(self) -> list[tuple[float, str]]:
        """Return the time and the replica of each scrape with metrics that only the leader exposes."""
        return sorted(
            {
                (at, series.labels["instance"])
                for name in _LEADER_METRICS
                for series in self._raw(name)
                for at, _ in series.samples
            }
        )
