"""Prometheus computes the truth about the simulated week, and each query of the documentation has an answer.

The first and last scrapes are exactly at the beginning and the end of the week. So `increase()` over the
week, evaluated at its end, does not extrapolate. Windows of Prometheus 3.0 and later are open on the left:
they miss the first sample and extrapolate over one step. Then the events of the first step may be missing,
and the rest is at most `EXTRAPOLATED` times the true value.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import ceil, isnan, sqrt
from typing import Final

import pytest

from app.domain.totals import LIFETIME_BOUNDS
from tests.simulation.fleet import DAY, LATE, hazard, stock_out
from tests.simulation.truth import HOUR, LABELS, Key
from tests.simulation.week import KILLS, SECONDS, STEP_SECONDS, Week
from tests.support.collector import ManagedCollector
from tests.support.docs import DOCS, README, blocks
from tests.support.rules import rule_groups

EXTRAPOLATED: Final = 1 + 1.1 * 2 * STEP_SECONDS / SECONDS
ROUNDING: Final = 1e-6
SIGMAS: Final = 4
GROUPINGS: Final = [
    (),
    ("kubernetes_cluster",),
    ("project", "kubernetes_cluster", "cluster_location"),
    ("project", "kubernetes_cluster", "cluster_location", "node_pool"),
    ("machine_type",),
    ("zone",),
    LABELS,
]
COUNTS: Final = (
    ("spot_interruptions_total", "interruptions"),
    ("spot_instances_created_total", "created"),
    ("spot_instance_creations_failed_total", "failed"),
)
with_each_store: Final = pytest.mark.parametrize("week", ["sqlite", "redis"], indirect=True)
FLAVOUR: Final = ("machine_type", "zone")


def grouped(week: Week, promql: str, by: Key, at: float | None = None) -> dict[Key, float]:
    """Return an instant vector by its labels, without series that are 0, as in the true counts."""
    samples = week.prometheus.query(promql, week.ends if at is None else at)
    return {tuple(one.labels[label] for label in by): one.value for one in samples if one.value}


def increases(week: Week, counter: str, by: Key) -> dict[Key, float]:
    """Return the increase of a counter over the week."""
    return grouped(week, f"sum by ({', '.join(by)}) (increase({counter}[7d]))", by)


def assert_counted(measured: Mapping[Key, float], least: Mapping[Key, int], most: Mapping[Key, int]) -> None:
    """Assert that the measured values are between the two numbers, except for extrapolation."""
    assert measured.keys() <= most.keys()
    for key, number in most.items():
        value = measured.get(key, 0.0)
        assert least.get(key, 0) - ROUNDING <= value <= number * EXTRAPOLATED + ROUNDING, key


def assert_in_true_buckets(
    measured: Mapping[Key, float], true: Mapping[Key, list[float]], quantile: float
) -> None:
    """Assert that each measured quantile is in the histogram bucket of the true quantile."""
    assert len(true) >= 4
    bounds = (0.0, *LIFETIME_BOUNDS, float("inf"))
    for key, ages in true.items():
        age = ages[ceil(quantile * len(ages)) - 1]
        [bucket] = [(lower, upper) for lower, upper in pairwise(bounds) if lower < age <= upper]
        assert bucket[0] <= measured[key] <= bucket[1], key


@with_each_store
@pytest.mark.parametrize("by", GROUPINGS, ids="-".join)
@pytest.mark.parametrize(("counter", "what"), COUNTS)
def test_the_counters_have_the_true_counts_in_every_grouping(
    week: Week, counter: str, what: str, by: Key
) -> None:
    count = getattr(week.truth, what)
    true = count(week.begins, week.ends, *by)
    assert true

    assert_counted(increases(week, counter, by), count(week.begins + STEP_SECONDS, week.ends, *by), true)


@with_each_store
def test_the_total_of_a_cluster_name_includes_all_clusters_of_that_name(week: Week) -> None:
    by = ("kubernetes_cluster",)
    true = week.truth.interruptions(week.begins, week.ends, *by)
    assert true["unknown",] > 10

    assert_counted(
        increases(week, "interruption_events_total", by),
        week.truth.interruptions(week.begins + STEP_SECONDS, week.ends, *by),
        true,
    )


@with_each_store
@pytest.mark.parametrize("by", GROUPINGS[1:], ids="-".join)
def test_instance_hours_are_the_true_hours(week: Week, by: Key) -> None:
    measured = grouped(
        week, f"sum by ({', '.join(by)}) (increase(spot_instance_seconds_total[7d])) / 3600", by
    )

    # Each beginning and end may be off by one step: half of them too much, half too little.
    assert measured == pytest.approx(week.truth.instance_hours(week.begins, week.ends, *by), rel=0.01)


def collected(collector: ManagedCollector, counter: str, by: Key) -> dict[Key, float]:
    """Return how much a collector saw a counter grow, without series that did not grow."""
    grown: dict[Key, float] = {}
    for labels, value in collector.grown(counter).items():
        if value:
            key = tuple(dict(labels)[label] for label in by)
            grown[key] = grown.get(key, 0.0) + value
    return grown


@pytest.mark.parametrize(("counter", "what"), COUNTS)
def test_prometheus_and_a_managed_collector_see_every_event_of_each_label_set_over_five_moves(
    week: Week, counter: str, what: str
) -> None:
    assert sum(week.begins < at < week.ends for at in week.moves) == 5
    count = getattr(week.truth, what)
    true = count(week.begins, week.ends, *LABELS)

    assert collected(week.collector, counter, LABELS) == true
    assert_counted(
        increases(week, counter, LABELS), count(week.begins + STEP_SECONDS, week.ends, *LABELS), true
    )


def test_a_managed_collector_sees_every_instance_hour_and_age_over_five_moves(week: Week) -> None:
    hours = collected(week.collector, "spot_instance_seconds_total", LABELS)
    true_hours = week.truth.instance_hours(week.begins, week.ends, *LABELS)
    by = ("kubernetes_cluster", "machine_type")
    ages = collected(week.collector, "spot_instance_lifetime_seconds_count", by)
    true_ages = week.truth.ages(week.begins, week.ends, *by)

    assert {key: seconds / HOUR for key, seconds in hours.items()} == pytest.approx(true_hours, rel=0.01)
    assert ages == {key: len(observed) for key, observed in true_ages.items()}


@pytest.mark.parametrize(("counter", "what"), COUNTS)
def test_a_kill_costs_a_new_managed_collector_at_most_the_events_since_the_last_scrape(
    week: Week, counter: str, what: str
) -> None:
    count = getattr(week.truth, what)
    true = count(week.begins, week.ends, *LABELS)
    seen = collected(week.collector_new_after_kills, counter, LABELS)
    unscraped: Counter[Key] = Counter()
    for scraped, killed in week.unscraped:
        unscraped += count(scraped, killed, *LABELS)

    assert len(week.unscraped) == KILLS
    for key in true:
        assert true[key] - unscraped[key] <= seen.get(key, 0) <= true[key], (key, week.unscraped)


def test_the_rate_by_machine_type_and_zone_is_the_true_hazard(week: Week) -> None:
    rates = grouped(
        week,
        """
        sum by (machine_type, zone) (increase(spot_interruptions_total[7d]))
          / (sum by (machine_type, zone) (increase(spot_instance_seconds_total[7d])) / 3600)
        """,
        FLAVOUR,
    )
    hours = week.truth.instance_hours(week.begins, week.ends, *FLAVOUR)
    expected = week.truth.expected(week.begins, week.ends, *FLAVOUR)
    stormy = {(storm.machine_type, storm.zone) for storm in week.fleet.storms}

    assert rates.keys() >= expected.keys()
    for key, number in expected.items():
        rate = number / hours[key]
        assert abs(rates[key] - rate) < SIGMAS * sqrt(number) / hours[key] + 0.01 * rate, key
        assert key in stormy or rate == pytest.approx(hazard(*key)), key


def test_the_share_of_launches_that_end_in_an_interruption_is_the_true_one(week: Week) -> None:
    shares = grouped(
        week,
        """
        sum by (machine_type) (increase(spot_interruptions_total[7d]))
          / (
            sum by (machine_type) (increase(spot_instances_created_total[7d]))
            - sum by (machine_type) (increase(spot_instance_creations_failed_total[7d]))
          )
        """,
        ("machine_type",),
    )
    truth, times, by = week.truth, (week.begins, week.ends), "machine_type"
    launched = truth.created(*times, by) - truth.failed(*times, by)

    assert len(shares) >= 4
    for key, interrupted in truth.interruptions(*times, by).items():
        if key != ("unknown",):
            assert shares[key] == pytest.approx(interrupted / launched[key], rel=0.005), key


def test_the_share_of_creations_that_fail_is_the_true_probability(week: Week) -> None:
    shares = grouped(
        week,
        """
        sum by (machine_type, zone) (increase(spot_instance_creations_failed_total[7d]))
          / sum by (machine_type, zone) (increase(spot_instances_created_total[7d]))
        """,
        FLAVOUR,
    )

    for key, created in week.truth.created(week.begins, week.ends, *FLAVOUR).items():
        probability = stock_out(*key)
        sigma = sqrt(probability * (1 - probability) / created)
        assert abs(shares.get(key, 0) - probability) < SIGMAS * sigma, key


@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_ages_at_interruption_are_the_true_ones_within_a_bucket(week: Week, quantile: float) -> None:
    measured = grouped(
        week,
        f"""
        histogram_quantile({quantile},
          sum by (machine_type, le) (increase(spot_instance_lifetime_seconds_bucket[7d])))
        """,
        ("machine_type",),
    )

    assert_in_true_buckets(measured, week.truth.ages(week.begins, week.ends, "machine_type"), quantile)


@with_each_store
def test_ages_are_observed_once_for_each_interruption_of_a_known_instance(week: Week) -> None:
    by = ("kubernetes_cluster", "machine_type")
    true = Counter({key: len(ages) for key, ages in week.truth.ages(week.begins, week.ends, *by).items()})
    later = week.truth.ages(week.begins + STEP_SECONDS, week.ends, *by)

    least = {key: len(ages) for key, ages in later.items()}
    assert_counted(increases(week, "spot_instance_lifetime_seconds_count", by), least, true)
    sums = increases(week, "spot_instance_lifetime_seconds_sum", by)
    for key, ages in week.truth.ages(week.begins, week.ends, *by).items():
        assert sum(later.get(key, ())) * 0.999 <= sums[key] <= sum(ages) * EXTRAPOLATED * 1.001


@with_each_store
def test_the_live_instances_are_the_fleet_except_for_undelivered_events(week: Week) -> None:
    by = ("project", "kubernetes_cluster", "cluster_location", "node_pool", "zone")
    alive = grouped(week, f"sum by ({', '.join(by)}) (spot_instances)", by)
    undelivered = Counter(
        life.labels[:5]
        for life in week.truth.incarnations
        if (life.created_at <= week.ends < (life.announced_at or 0))
        or (life.ended_at <= week.ends < (life.end_reported_at or 0))
    )

    true = week.truth.alive(week.ends, *by)
    assert alive.keys() == true.keys()
    for key, number in true.items():
        assert abs(alive[key] - number) <= undelivered[key], key


def test_a_storm_shows_only_in_its_zone_and_machine_type(week: Week) -> None:
    [storm] = week.fleet.storms
    rates = grouped(
        week,
        """
        sum by (machine_type, zone) (increase(spot_interruptions_total[90m]))
          / (sum by (machine_type, zone) (increase(spot_instance_seconds_total[90m])) / 3600)
        """,
        FLAVOUR,
        at=storm.ends + STEP_SECONDS,
    )

    times_as_often = {key: rate / hazard(*key) for key, rate in rates.items() if key[0] != "unknown"}
    assert max(times_as_often, key=times_as_often.__getitem__) == (storm.machine_type, storm.zone)


@with_each_store
def test_every_push_of_the_week_has_an_outcome_although_the_exporter_was_restarted(week: Week) -> None:
    outcomes = "spot_interruption_exporter_push_messages_total"
    refusals = "spot_interruption_exporter_push_errors_total"
    pushed = Counter(
        (event.endpoint, "refused" if event.forged else "taken")
        for event in week.fleet.events
        if week.begins < event.at <= week.ends
    )

    taken = grouped(week, f"sum by (endpoint) (increase({outcomes}[7d]))", ("endpoint",))
    refused = grouped(week, f"sum by (endpoint, reason) (increase({refusals}[7d]))", ("endpoint", "reason"))
    for endpoint in ("creation", "interruption"):
        assert (
            pushed[endpoint, "taken"] * 0.998 <= taken[endpoint,] <= pushed[endpoint, "taken"] * EXTRAPOLATED
        )
    assert refused == {
        ("interruption", "not_authenticated"): pytest.approx(pushed["interruption", "refused"], abs=1)
    }
    # After a restart the counters of pushes began at 0. The durable counters continued.
    assert week.prometheus.value(f"max(resets({outcomes}[7d]))", week.ends) == week.restarts
    assert week.prometheus.value("max(resets(spot_interruptions_total[7d]))", week.ends) == 0
    assert week.prometheus.value("max(resets(spot_instance_seconds_total[7d]))", week.ends) == 0


def test_the_delay_of_messages_is_the_true_one(week: Week) -> None:
    delay = "spot_interruption_exporter_event_delay_seconds"
    count = week.prometheus.value(f'sum(increase({delay}_count{{endpoint="interruption"}}[7d]))', week.ends)
    late = week.prometheus.value(
        f"""
        sum(increase({delay}_count{{endpoint="interruption"}}[7d]))
          - sum(increase({delay}_bucket{{endpoint="interruption", le=~"10(.0)?"}}[7d]))
        """,
        week.ends,
    )

    assert count is not None
    assert late is not None
    assert abs(late / count - LATE) < SIGMAS * sqrt(LATE / count)
    newest = week.prometheus.value("max(spot_interruption_exporter_last_push_timestamp_seconds)", week.ends)
    assert newest is not None
    pushed = [event.at for event in week.fleet.events if event.at <= week.ends and not event.forged]
    assert newest == pytest.approx(max(pushed), abs=1)


LEVELS: Final[Mapping[str, Key]] = {
    "label_set": LABELS,
    "cluster": ("project", "kubernetes_cluster", "cluster_location"),
    "node_pool": ("project", "kubernetes_cluster", "cluster_location", "node_pool"),
    "machine_type": ("machine_type",),
    "zone": ("zone",),
    "zone_machine_type": ("zone", "machine_type"),
}


def recorded(week: Week, series: str) -> tuple[dict[Key, float], float]:
    """Return the last recorded values of a series, and their time."""
    at = max(one.value for one in week.prometheus.query(f"timestamp({series})"))
    return grouped(week, series, LEVELS[series.partition(":")[0]], at), at


@pytest.mark.parametrize(
    ("series", "expression"),
    [
        pytest.param(rule["record"], rule["expr"], id=rule["record"])
        for group in rule_groups()
        for rule in group["rules"]
        if "record" in rule
    ],
)
def test_every_recording_rule_records(week: Week, series: str, expression: str) -> None:
    recorded = week.prometheus.query(f"present_over_time({series}[1h])")
    # A slow machine may begin to record when the last event of the week is older than a short window.
    assert recorded or week.prometheus.query(expression, week.ends)


@pytest.mark.parametrize(
    ("series", "what"),
    [
        *((f"{level}:spot_interruptions:increase7d", "interruptions") for level in [*LEVELS][:-1]),
        *((f"{level}:spot_interruptions:increase1d", "interruptions") for level in [*LEVELS][:-1]),
        ("zone_machine_type:spot_instance_creations_failed:increase1d", "failed"),
        ("zone_machine_type:spot_instance_creations_failed:increase7d", "failed"),
    ],
)
def test_the_rules_record_the_true_counts(week: Week, series: str, what: str) -> None:
    measured, at = recorded(week, series)
    days = int(series[-2])
    count, by = getattr(week.truth, what), LEVELS[series.partition(":")[0]]

    # The window begins between two scrapes, and ends after the simulated time, which adds no events.
    least, most = (count(at - days * DAY + late * STEP_SECONDS, week.ends, *by) for late in (1, -1))
    assert sum(most.values()) > 20
    for key, number in most.items():
        value = measured.get(key, 0.0)
        assert least[key] - ROUNDING <= value <= number * (1 + 3 * STEP_SECONDS / (days * DAY)), key


@pytest.mark.parametrize("level", ["cluster", "node_pool", "machine_type", "zone"])
def test_the_rules_record_the_true_rates_and_shares(week: Week, level: str) -> None:
    rates, at = recorded(week, f"{level}:spot_interruptions_per_instance_hour:ratio_increase7d")
    shares, _ = recorded(week, f"{level}:spot_interruptions_per_launch:ratio_increase7d")
    truth, since, by = week.truth, at - 7 * DAY, LEVELS[level]
    interrupted, hours = (
        truth.interruptions(since, week.ends, *by),
        truth.instance_hours(since, week.ends, *by),
    )
    launched = truth.created(since, week.ends, *by) - truth.failed(since, week.ends, *by)

    assert rates.keys() == shares.keys() == hours.keys()
    for key in hours:
        # One event more or less at the beginning of the window, and the extrapolation.
        assert rates[key] == pytest.approx(interrupted[key] / hours[key], rel=0.01 + 1 / interrupted[key])
        assert shares[key] == pytest.approx(
            interrupted[key] / launched[key], rel=0.01 + 1 / interrupted[key] + 1 / launched[key]
        )


@pytest.mark.parametrize("quantile", [50, 90])
def test_the_rules_record_the_true_ages(week: Week, quantile: int) -> None:
    ages = f"machine_type:spot_instance_age_at_interruption_seconds:p{quantile}_7d"
    measured, at = recorded(week, ages)

    assert_in_true_buckets(measured, week.truth.ages(at - 7 * DAY, week.ends, "machine_type"), quantile / 100)


def test_the_live_exporter_continues_the_series_of_its_past(week: Week) -> None:
    # Process metrics are not kept.
    every = '{job="spot-interruption-exporter", __name__!~"(process|python)_.*|scrape_.*"}'
    gone = f"{every} @ {week.ends} unless {every}"
    new = f"{every} unless {every} @ {week.ends}"

    assert week.prometheus.query(gone) == []
    assert week.prometheus.query(new) == []
    assert (
        week.prometheus.value(f"sum(spot_interruptions_total) - sum(spot_interruptions_total @ {week.ends})")
        == 0
    )


def questions() -> Iterator[str]:
    """Yield each query about the fleet once. A line that is not indented begins a query."""
    queries = [
        query
        for page in (README, DOCS / "queries.md", DOCS / "replicas.md", DOCS / "alerts.md")
        for block in blocks(page, "promql")
        for query in re.split(r"\n(?=[^\s)])", block.code.strip())
    ]
    yield from dict.fromkeys(queries)


@pytest.mark.parametrize("query", list(questions()))
def test_each_query_of_the_documentation_has_an_answer(week: Week, query: str) -> None:
    # The recorded series have values only from after the simulated week.
    answer = week.prometheus.query(query, week.ends) or week.prometheus.query(query)

    assert answer
    assert not any(isnan(one.value) for one in answer)
