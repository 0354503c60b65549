"""All series in one place: the totals of the store, and the metrics of this process.

https://prometheus.io/docs/instrumenting/writing_exporters/
"""

import platform
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate, product
from math import inf
from typing import Final, Literal, TypeAlias

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from app import VERSION
from app.documents import OUTCOMES, RELEASERS
from app.domain.batch import Applied
from app.domain.totals import LabelSetTotals, Totals
from app.exposition import Families, preferred_format
from app.refusals import RefusalLog
from app.series import PREFIX, TotalsSeries
from app.store.port import StoredState

Endpoint: TypeAlias = Literal["creation", "interruption"]
ENDPOINTS: Final[Sequence[Endpoint]] = ("creation", "interruption")
OTHER_ENDPOINT: Final = "other"
"""The label of requests that no endpoint takes."""
_ELSEWHERE: Final = ("not_found", "method_not_allowed")
_DELAY_BUCKETS: Final = (0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 21600, 86400, 604800)
_COMMIT_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
_SHORTEST_HOLD_SECONDS: Final = 0.001
"""Not 0, which would be no hold at all: a new series still shows 0 at its first scrape."""
_DELAY_LE: Final = [*(floatToGoString(bound) for bound in _DELAY_BUCKETS), "+Inf"]


disable_created_metrics()


class Metrics:
    """The registry behind /metrics. Only the event loop changes it; any thread may render it."""

    def __init__(
        self,
        *,
        cluster_label: str = "kubernetes_cluster",
        hold_seconds: float = 0.0,
        reasons: Iterable[str] = (),
        projects: Iterable[str] = (),
        listing_failures: Iterable[str] = (),
        recovered_projects: Iterable[str] = (),
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`reasons` are those of refused pushes; `listing_failures` those of failed listings and readings.

        `recovered_projects` are those whose operations are read.
        """
        self._monotonic = monotonic
        self._clock = clock
        self._lease_ends_at = inf
        self.pending = 0
        """The number of pending interruptions."""
        self.refusals = RefusalLog(monotonic)
        self._totals = TotalsSeries(cluster_label, hold_seconds, monotonic, clock, lambda: self.leads)
        self._shared = CollectorRegistry()
        self._registry = CollectorRegistry()
        self._registry.register(_ConditionalCollector(lambda: self.leads, self._shared))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._create_self_metrics()
        self.pushes: Mapping[Endpoint, PushCounters] = {
            endpoint: PushCounters(partial(self._refused, endpoint)) for endpoint in ENDPOINTS
        }
        self._registry.register(_PushCollector(self.pushes))
        self._start_at_zero(reasons)
        self._failures = list(listing_failures)
        for project in projects:
            self.add_listed_project(project)
        for project in recovered_projects:
            self.add_recovered_project(project)

    def _create_self_metrics(self) -> None:
        registry, prefix = self._registry, PREFIX
        self._errors = Counter(
            f"{prefix}_push_errors_total",
            "Pushes not answered 200",
            ["endpoint", "reason"],
            registry=registry,
        )
        self._released = Counter(
            f"{prefix}_pending_released_total",
            "Pending interruptions that were released, by cause",
            ["by"],
            registry=registry,
        )
        Gauge(
            f"{prefix}_pending_interruptions",
            "Interruptions whose instance is not known yet",
            registry=self._shared,
        ).set_function(lambda: self.pending)
        self.commit_seconds = Histogram(
            f"{prefix}_store_commit_seconds",
            "Duration of one commit, a batch of events",
            buckets=_COMMIT_BUCKETS,
            registry=registry,
        )
        self._resets = Counter(
            f"{prefix}_store_resets_total",
            "Damaged stores that were moved aside, and stores that have gone back to older data",
            registry=registry,
        )
        self._overflowed = Counter(
            f"{prefix}_label_overflow_total",
            "Events committed under `other`, because there are too many label sets",
            registry=registry,
        )
        self._listed_at = Gauge(
            f"{prefix}_inventory_last_success_timestamp_seconds",
            "Time of the newest complete listing of the fleet",
            ["project"],
            registry=self._shared,
        )
        self._listing_seconds = Gauge(
            f"{prefix}_inventory_duration_seconds",
            "Duration of the newest complete listing of the fleet",
            ["project"],
            registry=self._shared,
        )
        self._listed_instances = Gauge(
            f"{prefix}_inventory_instances",
            "Instances in the newest complete listing of the fleet",
            ["project"],
            registry=self._shared,
        )
        self._listing_failures = Counter(
            f"{prefix}_inventory_failures_total",
            "Listings of the fleet that failed, or lack some zones",
            ["project", "reason"],
            registry=registry,
        )
        self._recovered = Counter(
            f"{prefix}_recovered_interruptions_total",
            "Interruptions that were counted from the operations list, because no push had come",
            ["project"],
            registry=registry,
        )
        self._operations_read_at = Gauge(
            f"{prefix}_recovery_last_success_timestamp_seconds",
            "Time of the newest complete reading of the operations",
            ["project"],
            registry=self._shared,
        )
        self._recovery_failures = Counter(
            f"{prefix}_recovery_failures_total",
            "Readings of the operations that failed, or lack some zones",
            ["project", "reason"],
            registry=registry,
        )
        build = Gauge(
            f"{prefix}_build_info", "The running build", ["version", "python_version"], registry=registry
        )
        build.labels(VERSION, platform.python_version()).set(1)

    def _start_at_zero(self, reasons: Iterable[str]) -> None:
        for endpoint, reason in product(ENDPOINTS, list(reasons)):
            self._errors.labels(endpoint, reason)
        for reason in _ELSEWHERE:
            self._errors.labels(OTHER_ENDPOINT, reason)
        for releaser in RELEASERS:
            self._released.labels(releaser)

    def _refused(self, endpoint: str, reason: str, detail: str) -> None:
        self._errors.labels(endpoint, reason).inc()
        self.refusals.note(endpoint, reason, detail)

    def refused_elsewhere(self, reason: str, detail: str) -> None:
        """Count a request that no endpoint takes, such as a push to a mistyped URL."""
        self._refused(OTHER_ENDPOINT, reason, detail)

    @property
    def leads(self) -> bool:
        """True if this replica leads: it does the periodic work, and alone exports the shared series."""
        return self._monotonic() < self._lease_ends_at

    def restore(self, state: StoredState) -> None:
        """Show the state of the store, after it was opened or was unavailable."""
        self._lease_ends_at = state.lease_ends_at
        self._totals.restore(state.totals)
        self.pending = state.pending

    def show(self, applied: Applied) -> None:
        """Show the changes of a commit."""
        if applied.shared is not None:
            self._lease_ends_at = applied.shared.lease_ends_at
            for project, at in applied.shared.last_listed_at.items():
                self._listed_at.labels(project).set(at)
        self._totals.update(applied.changed, applied.removed)
        self.pending = applied.pending
        for releaser, number in applied.released.items():
            self._released.labels(releaser).inc(number)
        for counted in applied.counted:
            if counted.details.found_by == "operation":
                self._recovered.labels(counted.name.project).inc()
        if applied.overflowed:
            self._overflowed.inc(applied.overflowed)

    def listed(self, project: str, *, at: float, seconds: float, instances: int) -> None:
        """Show a complete listing of a project, which has the state of the moment `at`."""
        self._listed_at.labels(project).set(at)
        self._listing_seconds.labels(project).set(seconds)
        self._listed_instances.labels(project).set(instances)

    def add_listed_project(self, project: str) -> None:
        """Begin at 0 the counters of a project whose fleet is listed."""
        for failure in self._failures:
            self._listing_failures.labels(project, failure)

    def add_recovered_project(self, project: str) -> None:
        """Begin at 0 the counters of a project whose operations are read."""
        self._recovered.labels(project)
        for failure in self._failures:
            self._recovery_failures.labels(project, failure)

    def drop_project(self, project: str) -> None:
        """End the series of a project that is not listed any more."""
        for gauge in (
            self._listed_at,
            self._listing_seconds,
            self._listed_instances,
            self._operations_read_at,
        ):
            gauge.remove(project)
        for failure in self._failures:
            self._listing_failures.remove(project, failure)
            self._recovery_failures.remove(project, failure)

    def listing_failed(self, project: str, reason: str) -> None:
        """Count a listing of a project that failed, or lacks some zones."""
        self._listing_failures.labels(project, reason).inc()

    def operations_read(self, project: str) -> None:
        """Show a complete reading of a project's operations."""
        self._operations_read_at.labels(project).set(self._clock())

    def recovery_failed(self, project: str, reason: str) -> None:
        """Count a reading of a project's operations that failed, or lacks some zones."""
        self._recovery_failures.labels(project, reason).inc()

    def count_store_reset(self) -> None:
        """Count a damaged store that was moved aside, or a store that has gone back to older data."""
        self._resets.inc()

    def shorten_hold(self) -> None:
        """Release new series after their first scrape, because the exporter is stopping."""
        self._totals.hold_seconds = min(self._totals.hold_seconds, _SHORTEST_HOLD_SECONDS)

    def ready_to_release(self) -> Totals:
        """Return the held rows whose hold, which begins at their first scrape, has ended."""
        return self._totals.ready_to_release()

    def label_sets(self) -> Sequence[LabelSetTotals]:
        """Return the totals by label set. Nobody changes a row."""
        return self._totals.label_sets()

    def self_samples(self, names: Iterable[str]) -> Sequence[Sample]:
        """Return the samples of the exporter's metrics about itself, by their names without the prefix."""
        full = [f"{PREFIX}_{name}" for name in names]
        return [
            sample
            for registry in (self._registry, self._shared)
            for family in registry.restricted_registry(full).collect()
            for sample in family.samples
        ]

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the exposition in the format that the `Accept` header prefers, and its content type."""
        encode, content_type = preferred_format(accept)
        totals = self._totals.render(encode)
        own = Families(self._totals.hold_own(self._registry.collect()))
        return b"".join([*totals, encode(own)]), content_type


class _ConditionalCollector(Collector):
    """Renders another registry while a condition is true."""

    def __init__(self, condition: Callable[[], bool], registry: CollectorRegistry) -> None:
        self._condition = condition
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        return self._registry.collect() if self._condition() else ()


class PushCounters:
    """The counters of an endpoint's pushes. They are plain numbers, because each push changes three.

    A counter of prometheus_client takes a lock for each change, and four times as long.
    """

    def __init__(self, refused: Callable[[str, str], None]) -> None:
        self.refused = refused
        """Counts a push that was not answered 200, by its reason, and logs the detail.

        The detail has no secret and nothing of the body.
        """
        self.last_at: float | None = None
        """The time of the newest authentic push."""
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        """The number of pushes answered 200, by outcome."""
        self.delays = [0] * len(_DELAY_LE)
        """The number of committed events, by the bucket of their delay."""
        self.delay_seconds = 0.0

    def answered(self, outcome: str, delay_seconds: float | None = None) -> None:
        """Count a push answered 200, and the delay from its event's log time to its commit, if it had one."""
        self.outcomes[outcome] += 1
        if delay_seconds is not None:
            delay = max(delay_seconds, 0.0)
            self.delays[bisect_left(_DELAY_BUCKETS, delay)] += 1
            self.delay_seconds += delay


class _PushCollector(Collector):
    """Renders the push counters of the endpoints."""

    def __init__(self, pushes: Mapping[Endpoint, PushCounters]) -> None:
        self._pushes = pushes

    def describe(self) -> Iterable[Metric]:
        return self.collect()  # without it the registry could not find them by name

    def collect(self) -> Iterator[Metric]:
        messages = CounterMetricFamily(
            f"{PREFIX}_push_messages", "Pushes answered 200", labels=["endpoint", "outcome"]
        )
        delay = HistogramMetricFamily(
            f"{PREFIX}_event_delay_seconds",
            "Time from an event's log timestamp to its commit",
            labels=["endpoint"],
        )
        last = GaugeMetricFamily(
            f"{PREFIX}_last_push_timestamp_seconds",
            "Time of the newest authentic push",
            labels=["endpoint"],
        )
        for endpoint, pushes in self._pushes.items():
            for outcome, number in pushes.outcomes.items():
                messages.add_metric([endpoint, outcome], number)
            cumulated = accumulate(pushes.delays)
            delay.add_metric([endpoint], list(zip(_DELAY_LE, cumulated, strict=True)), pushes.delay_seconds)
            if pushes.last_at is not None:  # no series before the first push
                last.add_metric([endpoint], pushes.last_at)
        yield from (messages, delay, last)
