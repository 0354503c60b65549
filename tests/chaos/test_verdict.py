import random
from collections.abc import Callable

import pytest

from tests.chaos.lives import AGE_SECONDS, lives
from tests.chaos.traffic import Labels
from tests.chaos.verdict import differences, faults
from tests.support.prometheus import Series

MADE = lives(random.Random(1), interruptions=40, names=10)  # noqa: S311
BOUNDS = (
    "1800.0",
    "3600.0",
    *(str(3600.0 * hours) for hours in (2, 4, 8, 12, 24, 48, 72, 120, 168, 336, 672)),
)

Shown = dict[str, dict[Labels, float]]


def shown() -> Shown:
    """What an exporter shows that has counted everything once."""
    buckets = {
        labels | {("le", bound)}: float(count)
        for labels, count in MADE.lifetimes.items()
        for bound in (*BOUNDS[1:], "+Inf")
    }
    return {
        "interruption_events_total": dict(MADE.by_cluster),
        "spot_interruptions_total": dict(MADE.interruptions),
        "spot_instances_created_total": dict(MADE.created),
        "spot_instance_lifetime_seconds_count": dict(MADE.lifetimes),
        "spot_instance_lifetime_seconds_sum": {
            labels: AGE_SECONDS * count for labels, count in MADE.lifetimes.items()
        },
        "spot_instance_lifetime_seconds_bucket": buckets,
        "spot_last_interruption_timestamp_seconds": dict(MADE.newest),
    }


def of(series: Shown) -> Callable[[str], dict[Labels, float]]:
    return lambda name: series.get(name, {})


def test_what_is_exact_has_no_differences() -> None:
    assert list(differences(MADE, of(shown()))) == []


@pytest.mark.parametrize("name", shown())
@pytest.mark.parametrize("by", [-1, 1])
def test_one_label_set_that_is_off_by_one_is_seen(name: str, by: int) -> None:
    series = shown()
    labels = min(series[name], key=sorted)
    series[name][labels] += by

    [line] = differences(MADE, of(series))
    assert line.startswith(name)


@pytest.mark.parametrize("name", shown())
def test_a_label_set_that_is_missing_or_too_many_is_seen(name: str) -> None:
    series = shown()
    labels = min(series[name], key=sorted)
    series[name][labels | {("stranger", "")}] = series[name].pop(labels)

    assert len(list(differences(MADE, of(series)))) == 2


@pytest.mark.parametrize(
    "name",
    [
        "spot_instances",
        "spot_instance_creations_failed_total",
        "spot_interruption_exporter_pending_interruptions",
    ],
)
def test_what_is_left_over_is_seen(name: str) -> None:
    assert list(differences(MADE, of({**shown(), name: {frozenset(): 1.0}})))


def test_a_lifetime_that_is_too_short_is_seen() -> None:
    series = shown()
    bucket = min(MADE.lifetimes, key=sorted) | {("le", BOUNDS[0])}
    series["spot_instance_lifetime_seconds_bucket"][bucket] = 1

    assert len(list(differences(MADE, of(series)))) == 1


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        pytest.param([0, 1, 1, 5], None, id="grows"),
        pytest.param([0, 2, 1], "went down from 2 to 1", id="down"),
        pytest.param([0, 2, 0, 2], "went down from 2 to 0", id="starts-over"),
        pytest.param([1, 2], "begins with 1", id="begins-above"),
    ],
)
def test_a_counter_that_goes_down_or_begins_above_0_is_seen(values: list[float], fault: str | None) -> None:
    found = list(faults([Series({}, [*enumerate(values)])]))

    assert [line.partition("} ")[2].partition(" at ")[0] for line in found] == ([fault] if fault else [])
