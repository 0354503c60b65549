"""The results of Prometheus for a simulated week are the truth, and every query of the README has a result.

The week's first and last scrapes are at its very beginning and end. So `increase()` over it, asked for its
end, has nothing to extrapolate. A Prometheus whose windows are open on the left (3.0 and later) misses the
first sample and extrapolates over one step: then what the first step brought may be missing, and the rest is
at most `EXTRAPOLATED` times as much.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from math import ceil, isnan, sqrt
from pathlib import Path
from typing import Final

import pytest
import yaml

from app.domain.totals import LIFETIME_BOUNDS
from tests.monitoring.conftest import RULES
from tests.simulation.fleet import DAY, LATE, hazard, stock_out
from tests.simulation.truth import LABELS, Key
from tests.simulation.week import SECONDS, STEP_SECONDS, Week

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
FLAVOUR: Final = ("machine_type", "zone")
_README: Final = Path(__file__).parents[2] / "README.md"


def grouped(week: Week, promql: str, by: Key, at: float | None = None) -> dict[Key, float]:
    """An instant vector by its labels; series that are 0 are left out, as in the truth's counts."""
    samples = week.prometheus.query(promql, week.ends if at is None else at)
    return {tuple(one.labels[label] for label in by): one.value for one in samples if one.value}


def increases(week: Week, counter: str, by: Key) -> dict[Key, float]:
    """Return the increase of a counter over the week."""
    return grouped(week, f"sum by ({', '.join(by)}) (increase({counter}[7d]))", by)


def assert_counted(measured: Mapping[Key, float], least: Mapping[Key, int], most: Mapping[Key, int]) -> None:
    """The measured values are whole numbers between the two, but for what is extrapolated."""
    assert measured.keys() <= most.keys()
    for key, number in most.items():
        value = measured.get(key, 0.0)
        assert least.get(key, 0) - ROUNDING <= value <= number * EXTRAPOLATED + ROUNDING, key


def assert_in_true_buckets(
    measured: Mapping[Key, float], true: Mapping[Key, list[float]], quantile: float
) -> None:
    """The measured quantiles are in the histogram's buckets in which those of the true ages are."""
    assert len(true) >= 4
    bounds = (0.0, *LIFETIME_BOUNDS, float("inf"))
    for key, ages in true.items():
        age = ages[ceil(quantile * len(ages)) - 1]
        [bucket] = [(lower, upper) for lower, upper in pairwise(bounds) if lower < age <= upper]
        assert bucket[0] <= measured[key] <= bucket[1], key


def rules() -> list[dict[str, str]]:
    """Every rule of the file."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("by", GROUPINGS, ids="-".join)
@pytest.mark.parametrize(
    ("counter", "what"),
    [
        ("spot_interruptions_total", "interruptions"),
        ("spot_instances_created_total", "created"),
        ("spot_instance_creations_failed_total", "failed"),
    ],
)
def test_what_is_counted_is_what_happened_however_it_is_grouped(
    week: Week, counter: str, what: str, by: Key
) -> None:
    count = getattr(week.truth, what)
    true = count(week.begins, week.ends, *by)
    assert true

    assert_counted(increases(week, counter, by), count(week.begins + STEP_SECONDS, week.ends, *by), true)


def test_the_total_by_cluster_alone_is_of_all_clusters_of_that_name(week: Week) -> None:
    by = ("kubernetes_cluster",)
    true = week.truth.interruptions(week.begins, week.ends, *by)
    assert true["unknown",] > 10

    assert_counted(
        increases(week, "interruption_events_total", by),
        week.truth.interruptions(week.begins + STEP_SECONDS, week.ends, *by),
        true,
    )


@pytest.mark.parametrize("by", GROUPINGS[1:], ids="-".join)
def test_instance_hours_are_what_was_lived(week: Week, by: Key) -> None:
    measured = grouped(
        week, f"sum by ({', '.join(by)}) (increase(spot_instance_seconds_total[7d])) / 3600", by
    )

    # One step for each beginning and end is a matter of chance: half of them too much, half too little.
    assert measured == pytest.approx(week.truth.instance_hours(week.begins, week.ends, *by), rel=0.01)


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


def test_ages_are_observed_once_for_each_interruption_of_a_known_instance(week: Week) -> None:
    by = ("kubernetes_cluster", "machine_type")
    true = Counter({key: len(ages) for key, ages in week.truth.ages(week.begins, week.ends, *by).items()})
    later = week.truth.ages(week.begins + STEP_SECONDS, week.ends, *by)

    least = {key: len(ages) for key, ages in later.items()}
    assert_counted(increases(week, "spot_instance_lifetime_seconds_count", by), least, true)
    sums = increases(week, "spot_instance_lifetime_seconds_sum", by)
    for key, ages in week.truth.ages(week.begins, week.ends, *by).items():
        assert sum(later.get(key, ())) * 0.999 <= sums[key] <= sum(ages) * EXTRAPOLATED * 1.001


def test_what_is_alive_is_the_fleet_but_for_what_is_not_told_yet(week: Week) -> None:
    by = ("project", "kubernetes_cluster", "cluster_location", "node_pool", "zone")
    alive = grouped(week, f"sum by ({', '.join(by)}) (spot_instances)", by)
    untold = Counter(
        life.labels[:5]
        for life in week.truth.incarnations
        if (life.created_at <= week.ends < (life.announced_at or 0))
        or (life.ended_at <= week.ends < (life.counted_at or 0))
    )

    true = week.truth.alive(week.ends, *by)
    assert alive.keys() == true.keys()
    for key, number in true.items():
        assert abs(alive[key] - number) <= untold[key], key


def test_a_storm_shows_in_its_zone_and_machine_type_alone(week: Week) -> None:
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


def test_every_push_of_the_week_has_its_outcome_though_the_exporter_was_restarted(week: Week) -> None:
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
    # Restarted, its own counters began again; the durable ones did not.
    assert week.prometheus.value(f"max(resets({outcomes}[7d]))", week.ends) == len(week.fleet.rescalings)
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
    assert week.ends - 600 < newest <= week.ends


LEVELS: Final[Mapping[str, Key]] = {
    "label_set": LABELS,
    "cluster": ("project", "kubernetes_cluster", "cluster_location"),
    "node_pool": ("project", "kubernetes_cluster", "cluster_location", "node_pool"),
    "machine_type": ("machine_type",),
    "zone": ("zone",),
    "zone_machine_type": ("zone", "machine_type"),
}


def recorded(week: Week, series: str) -> tuple[dict[Key, float], float]:
    """Return the last recorded values of the rules, and their time."""
    at = max(one.value for one in week.prometheus.query(f"timestamp({series})"))
    return grouped(week, series, LEVELS[series.partition(":")[0]], at), at


@pytest.mark.parametrize("series", [rule["record"] for rule in rules() if "record" in rule])
def test_every_recording_rule_records(week: Week, series: str) -> None:
    assert week.prometheus.query(f"present_over_time({series}[1h])")


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

    # Such a window begins between two scrapes, and ends after the simulated time, which adds nothing.
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
        # One event more or less at the window's beginning, and what is extrapolated.
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
    # Not its process' own, which are not kept.
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
    """The queries of the README's section: one begins where a line of a block is not indented."""
    text = _README.read_text()
    heading = re.search(r"\n(#+) Questions[^\n]*\n", text)
    assert heading is not None
    text = text[heading.end() :]
    end = re.search(rf"\n\n#{{1,{len(heading[1])}}} [^\n]+\n\n", text)
    for block in re.findall(r"```promql\n(.*?)```", text[: end.start() if end else None], re.DOTALL):
        for query in re.split(r"\n(?=[^\s)])", block.strip()):
            if not query.startswith("#"):
                yield query


@pytest.mark.parametrize("query", list(questions()))
def test_each_question_of_the_readme_has_an_answer(week: Week, query: str) -> None:
    # Of what rules record, there is only what was recorded since.
    answer = week.prometheus.query(query, week.ends) or week.prometheus.query(query)

    assert answer
    assert not any(isnan(one.value) for one in answer)
