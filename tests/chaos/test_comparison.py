import random
from collections.abc import Callable

import pytest

from tests.chaos.comparison import counter_faults, differences
from tests.chaos.incarnations import AGE_SECONDS, traffic_of_incarnations
from tests.chaos.traffic import Labels
from tests.support.prometheus import Series

TRAFFIC = traffic_of_incarnations(random.Random(1), interruptions=40, names=10)  # noqa: S311
BOUNDS = (
    "1800.0",
    "3600.0",
    *(str(3600.0 * hours) for hours in (2, 4, 8, 12, 24, 48, 72, 120, 168, 336, 672)),
)

SeriesByName = dict[str, dict[Labels, float]]


def exact_series() -> SeriesByName:
    """Return the series of an exporter that has counted every event once."""
    buckets = {
        labels | {("le", bound)}: float(count)
        for labels, count in TRAFFIC.lifetimes.items()
        for bound in (*BOUNDS[1:], "+Inf")
    }
    return {
        "interruption_events_total": dict(TRAFFIC.by_cluster),
        "spot_interruptions_total": dict(TRAFFIC.interruptions),
        "spot_instances_created_total": dict(TRAFFIC.created),
        "spot_instance_lifetime_seconds_count": dict(TRAFFIC.lifetimes),
        "spot_instance_lifetime_seconds_sum": {
            labels: AGE_SECONDS * count for labels, count in TRAFFIC.lifetimes.items()
        },
        "spot_instance_lifetime_seconds_bucket": buckets,
        "spot_last_interruption_timestamp_seconds": dict(TRAFFIC.newest),
    }


def reader(series: SeriesByName) -> Callable[[str], dict[Labels, float]]:
    return lambda name: series.get(name, {})


def test_exact_series_have_no_differences() -> None:
    assert list(differences(TRAFFIC, reader(exact_series()))) == []


@pytest.mark.parametrize("name", exact_series())
@pytest.mark.parametrize("by", [-1, 1])
def test_a_label_set_that_is_off_by_one_is_reported(name: str, by: int) -> None:
    series = exact_series()
    labels = min(series[name], key=sorted)
    series[name][labels] += by

    [line] = differences(TRAFFIC, reader(series))
    assert line.startswith(name)


@pytest.mark.parametrize("name", exact_series())
def test_a_missing_and_an_additional_label_set_are_reported(name: str) -> None:
    series = exact_series()
    labels = min(series[name], key=sorted)
    series[name][labels | {("additional", "")}] = series[name].pop(labels)

    assert len(list(differences(TRAFFIC, reader(series)))) == 2


@pytest.mark.parametrize(
    "name",
    [
        "spot_instances",
        "spot_instance_creations_failed_total",
        "spot_interruption_exporter_pending_interruptions",
    ],
)
def test_a_gauge_that_should_be_zero_at_the_end_is_reported(name: str) -> None:
    assert list(differences(TRAFFIC, reader({**exact_series(), name: {frozenset(): 1.0}})))


def test_a_lifetime_that_is_too_short_is_reported() -> None:
    series = exact_series()
    bucket = min(TRAFFIC.lifetimes, key=sorted) | {("le", BOUNDS[0])}
    series["spot_instance_lifetime_seconds_bucket"][bucket] = 1

    assert len(list(differences(TRAFFIC, reader(series)))) == 1


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        pytest.param([0, 1, 1, 5], None, id="grows"),
        pytest.param([0, 2, 1], "went down from 2 to 1", id="down"),
        pytest.param([0, 2, 0, 2], "went down from 2 to 0", id="starts-over"),
        pytest.param([1, 2], "begins with 1", id="begins-above"),
    ],
)
def test_a_counter_that_goes_down_or_begins_above_0_is_reported(
    values: list[float], fault: str | None
) -> None:
    found = list(counter_faults([Series({}, [*enumerate(values)])]))

    assert [line.partition("} ")[2].partition(" at ")[0] for line in found] == ([fault] if fault else [])
