from copy import deepcopy
from typing import Final

import pytest

from app.domain.events import UNKNOWN
from app.domain.instances import OTHER, OTHER_LABELS, UNKNOWN_LABELS, Labels
from app.domain.totals import (
    LIFETIME_BOUNDS,
    ClusterTotals,
    LabelSetTotals,
    LifetimeTotals,
    Totals,
    TotalsDelta,
)
from tests.support.examples import LABELS, NOW

LAB: Final = LABELS._replace(cluster="lab")
OLD: Final = NOW - 100


def tally(base: Totals | None = None, *, limit: int = 100, released: bool = True) -> TotalsDelta:
    return TotalsDelta(base or Totals(), max_label_sets=limit, released=released, now=NOW)


def totals(*label_sets: LabelSetTotals) -> Totals:
    """Return the label sets, with rows of their clusters and histograms of the same age."""
    return Totals(
        {row.labels: row for row in label_sets},
        {row.labels.cluster: ClusterTotals(row.labels.cluster, changed_at=OLD) for row in label_sets},
        {
            (row.labels.cluster, row.labels.machine_type): LifetimeTotals(
                row.labels.cluster, row.labels.machine_type, changed_at=OLD
            )
            for row in label_sets
        },
    )


@pytest.mark.parametrize(
    ("age", "bucket"),
    [
        pytest.param(0.0, 0, id="zero"),
        pytest.param(60.0, 0, id="a-bound-belongs-to-its-bucket"),
        pytest.param(60.001, 1, id="just-above"),
        pytest.param(86400.0, LIFETIME_BOUNDS.index(86400), id="a-day"),
        pytest.param(29 * 86400.0, len(LIFETIME_BOUNDS), id="beyond-the-last"),
    ],
)
def test_an_age_falls_in_its_bucket(age: float, bucket: int) -> None:
    row = LifetimeTotals("tills", "e2")
    row.observe(age)

    assert (row.buckets[bucket], sum(row.buckets), row.sum) == (1, 1, age)


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        pytest.param(None, NOW - 5, id="the-first"),
        pytest.param(NOW - 10, NOW - 5, id="newer"),
        pytest.param(NOW - 1, NOW - 1, id="older"),
        pytest.param(NOW + 3600, NOW + 3600, id="clocks-differ"),
        pytest.param(7226582400.0, NOW - 5, id="far-in-the-future"),
    ],
)
def test_an_interruption_in_the_future_is_not_the_newest(stored: float | None, shown: float) -> None:
    change = tally(Totals(clusters={"tills": ClusterTotals("tills", 1, stored)}))

    change.count(LABELS, NOW - 5, None)

    assert change.changed.clusters["tills"].last_interruption_at == shown


def test_a_shared_row_is_never_changed() -> None:
    base = totals(LabelSetTotals(LABELS, changed_at=OLD))
    before = deepcopy(base)

    change = tally(base)
    change.count(LABELS, 5.0, 70.0)

    assert base == before
    assert change.changed.label_sets[LABELS] == LabelSetTotals(LABELS, interruptions=1, changed_at=NOW)


def test_the_newest_interruption_stays_the_newest() -> None:
    change = tally()
    for at in (-5.0, 0.0, 7.0, 3.0):
        change.count(LABELS, at, None)

    assert change.changed.clusters["tills"] == ClusterTotals("tills", 4, 7.0, NOW, released=True)


def test_times_before_the_epoch_are_ordered_too() -> None:
    change = tally()
    change.count(LABELS, 0.0, None)
    change.count(LABELS, -5.0, None)

    assert change.changed.clusters["tills"].last_interruption_at == 0.0


def test_show_adds_all_three_rows_and_changes_no_existing_row() -> None:
    change = tally()
    change.ensure_series(LABELS)
    again = tally(change.changed)
    again.ensure_series(LABELS)

    assert (len(change.changed.label_sets), len(change.changed.clusters), len(change.changed.lifetimes)) == (
        1,
        1,
        1,
    )
    assert not again.changed


@pytest.mark.parametrize("released", [True, False])
def test_new_rows_are_held_if_the_batch_holds_them(released: bool) -> None:  # noqa: FBT001 - a row
    change = tally(totals(LabelSetTotals(LAB, released=False)), released=released)
    change.ensure_series(LABELS)
    change.count(LAB, 5.0, None)

    assert change.changed.label_sets[LABELS].released == released
    assert not change.changed.label_sets[LAB].released


@pytest.mark.parametrize(
    ("labels", "admitted"),
    [
        pytest.param(LABELS, True, id="known"),
        pytest.param(LAB, True, id="new-in-this-batch"),
        pytest.param(LABELS._replace(zone="new"), False, id="above-the-limit"),
        pytest.param(UNKNOWN_LABELS, True, id="unknown-is-always-admitted"),
        pytest.param(OTHER_LABELS, True, id="other-is-always-admitted"),
    ],
)
def test_label_sets_are_admitted_up_to_the_limit(labels: Labels, admitted: bool) -> None:  # noqa: FBT001 - a row
    known = totals(LabelSetTotals(UNKNOWN_LABELS), LabelSetTotals(OTHER_LABELS), LabelSetTotals(LABELS))
    change = tally(known, limit=2)
    change.ensure_series(LAB)
    change.count(LABELS, 5.0, None)

    assert change.admits(labels) == admitted
    assert change.admits_cluster(labels.cluster) == (labels != LABELS._replace(cluster="new"))


def test_unknown_and_other_do_not_count_towards_the_limit() -> None:
    known = totals(LabelSetTotals(UNKNOWN_LABELS), LabelSetTotals(OTHER_LABELS), LabelSetTotals(LABELS))

    assert [tally(known, limit=limit).admits(LAB) for limit in (1, 2)] == [False, True]


def test_clusters_are_admitted_up_to_the_limit() -> None:
    change = tally(limit=1)
    change.ensure_cluster(UNKNOWN)
    change.ensure_cluster("tills")

    assert [change.admits_cluster(name) for name in ("tills", "lab", UNKNOWN, OTHER)] == [
        True,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("row", "idle"),
    [
        pytest.param(LabelSetTotals(LABELS, interruptions=5, changed_at=OLD), True, id="old"),
        pytest.param(LabelSetTotals(LABELS, changed_at=NOW), False, id="recent-event"),
        pytest.param(LabelSetTotals(LABELS, instances=1, changed_at=OLD), False, id="living"),
        pytest.param(LabelSetTotals(UNKNOWN_LABELS, changed_at=OLD), False, id="unknown-from-the-start"),
        pytest.param(LabelSetTotals(OTHER_LABELS, changed_at=OLD), True, id="other"),
    ],
)
def test_an_idle_label_set_is_idle_with_its_cluster_and_histogram(row: LabelSetTotals, idle: bool) -> None:  # noqa: FBT001 - a row
    everything = totals(row)

    assert everything.idle(NOW) == (everything if idle else Totals())


def test_a_cluster_stays_while_one_of_its_label_sets_does() -> None:
    gone, kept = (
        LabelSetTotals(LABELS, changed_at=OLD),
        LabelSetTotals(LABELS._replace(zone="b"), instances=1),
    )
    everything = totals(gone, kept)

    assert everything.idle(NOW) == Totals({LABELS: gone})

    everything.remove(Totals({LABELS: gone}))
    assert set(everything.label_sets) == {kept.labels}


def test_a_cluster_with_a_recent_event_is_not_idle() -> None:
    lately = Totals({}, {"tills": ClusterTotals("tills", changed_at=NOW)})

    assert not lately.idle(NOW)
