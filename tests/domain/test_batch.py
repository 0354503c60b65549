from dataclasses import replace
from itertools import permutations, product
from typing import Final

import pytest

from app.domain.batch import in_project_ids, keys_of, names_of
from app.domain.events import UNKNOWN, Event, InstanceCreated, InstanceName
from app.domain.instances import OTHER, OTHER_LABELS, Instance, Kind, Parked
from app.domain.outcomes import Counted, Duplicate, Tracked
from app.domain.totals import ClusterTotals, LabelSetTotals, Totals
from tests.domain.examples import (
    GRACE,
    LAB,
    LABELS,
    NAME,
    NOW,
    OTHER_NAME,
    TILLS,
    Stage,
    created,
    failed,
    interrupted,
)

NUMBERED: Final = NAME._replace(project="123456789")


def gauges(stage: Stage) -> dict[str, int]:
    gauges: dict[str, int] = {}
    for labels, row in stage.tally.changed.label_sets.items():
        gauges[labels.cluster] = gauges.get(labels.cluster, 0) + row.instances
    return gauges


def full() -> Stage:
    """No room for a label set besides `lab`'s."""
    labels = Instance(NAME, "1", Kind.NODE, LAB, NOW).labels
    return Stage(
        max_label_sets=1, base=Totals({labels: LabelSetTotals(labels)}, {"lab": ClusterTotals("lab")})
    )


def test_a_batch_asks_for_each_name_once_and_for_every_key() -> None:
    events: list[Event] = [created(), failed(), interrupted(), created(name=OTHER_NAME)]

    assert names_of(events) == [NAME, OTHER_NAME]
    assert keys_of(events) == [created().key, interrupted().key, created(name=OTHER_NAME).key]


def test_names_are_read_once() -> None:
    batch = Stage().batch

    assert batch.unread([NAME]) == [NAME]
    assert batch.unread([NAME, OTHER_NAME]) == [OTHER_NAME]


def test_a_duplicate_in_the_same_batch_is_one() -> None:
    stage = Stage()

    outcomes = stage.play(created(), created(), interrupted(), interrupted())

    assert [type(outcome) for outcome in outcomes] == [Tracked, Duplicate, Counted, Duplicate]
    assert stage.batch.seen == {created().key: True, interrupted().key: True}


def test_a_key_read_from_the_store_is_written_only_when_it_comes_again() -> None:
    stage = Stage()
    stage.batch.load([created().key, interrupted().key], (), ())
    stage.play(created())

    assert stage.batch.seen == {created().key: True, interrupted().key: False}


def test_what_a_batch_did_is_told() -> None:
    stage = Stage()
    outcomes = stage.play(interrupted("1"), created("1"), interrupted("2"))

    applied = stage.batch.applied(outcomes, pending=10)

    assert (applied.outcomes, applied.pending, applied.released) == (outcomes, 11, {"creation": 1})
    assert [counted.released_by for counted in applied.counted] == ["creation"]
    assert applied.changed is stage.tally.changed
    assert not applied.more


# the gauge


def test_the_gauge_follows_an_instance_to_its_new_labels() -> None:
    stage = Stage()
    stage.play(created(), replace(created(node=LAB), key="told again"))

    assert gauges(stage) == {"tills": 0, "lab": 1}


def test_the_gauge_forgets_with_the_instance() -> None:
    stage = Stage()
    stage.play(created())
    stage.batch.forget(NAME, "1")

    assert gauges(stage) == {"tills": 0}
    assert stage.batch.kept == {(NAME, "1"): None}


# too many label sets


def test_beyond_the_limit_everything_is_committed_under_other() -> None:
    stage = full()

    _, outcome, _, _ = stage.play(created("1"), interrupted("1"), created("2", 2000), failed("2", 2010))

    assert isinstance(outcome, Counted)
    assert (outcome.node, outcome.counted_as) == (TILLS, OTHER)
    assert stage.ledger == [outcome]
    assert stage.tally.changed.label_sets == {
        OTHER_LABELS: LabelSetTotals(OTHER_LABELS, 1, 2, 1, 0, touched_at=NOW, revealed=True)
    }
    assert stage.interruptions == {OTHER: 1}
    assert stage.batch.overflowed == 4


@pytest.mark.parametrize(
    "story", [[created(), failed()], [failed(), created()]], ids=["in-order", "backwards"]
)
def test_a_creation_and_its_failure_overflow_once_each(story: list[Event]) -> None:
    stage = full()
    stage.play(*story)

    assert stage.batch.overflowed == 2


def test_an_overflowed_instance_stays_under_other_even_when_there_is_room() -> None:
    overflowed = Instance(NAME, "1", Kind.NODE, TILLS, NOW, spot=True, alive=True, overflowed=True)
    other = LabelSetTotals(OTHER_LABELS, instances=1)
    stage = Stage(base=Totals({OTHER_LABELS: other}))
    stage.batch.load((), [overflowed], ())
    stage.play(created("9", name=OTHER_NAME), interrupted("1"))

    assert gauges(stage) == {"tills": 1, OTHER: 0}
    assert stage.interruptions == {OTHER: 1}


def test_what_has_its_series_keeps_them_when_there_is_no_room() -> None:
    stage = full()
    stage.play(created(node=LAB), created("9", name=OTHER_NAME), interrupted("1"))

    assert gauges(stage) == {"lab": 0, OTHER: 1}
    assert stage.interruptions == {"lab": 1}


def test_a_cluster_beyond_the_limit_is_shown_as_other() -> None:
    stage = full()
    stage.play(created(spot=False))

    assert set(stage.tally.changed.clusters) == {OTHER}


# a project's number


@pytest.mark.parametrize(
    ("project", "named"), [("123456789", "shop-prod"), ("987654321", "987654321"), ("shop-prod", "shop-prod")]
)
def test_a_known_number_is_translated(project: str, named: str) -> None:
    event = created(name=NAME._replace(project=project))

    assert in_project_ids(event, {"123456789": "shop-prod"}).name.project == named


def renamed(*before: InstanceCreated) -> Stage:
    stage = Stage()
    stage.play(*before)
    stage.batch.rename(NUMBERED, "shop-prod")
    return stage


def test_an_instance_goes_on_under_its_projects_id() -> None:
    stage = renamed(created(name=NUMBERED))

    assert stage.batch.kept[NUMBERED, "1"] is None
    assert stage.instance().alive
    assert stage.creations == (1, 0)
    assert {labels.project: row.instances for labels, row in stage.tally.changed.label_sets.items()} == {
        "123456789": 0,
        "shop-prod": 1,
    }


def test_what_waits_under_the_id_is_released_by_what_was_told_under_the_number() -> None:
    stage = Stage()
    stage.play(interrupted(), created(name=NUMBERED))
    assert stage.waiting == 1

    stage.batch.rename(NUMBERED, "shop-prod")

    assert (stage.interruptions, stage.waiting, stage.living) == ({"tills": 1}, 0, set())


def test_what_waits_under_the_number_is_released_too() -> None:
    stage = Stage()
    stage.play(interrupted(name=NUMBERED), created())
    stage.batch.rename(NUMBERED, "shop-prod")

    assert (stage.interruptions, stage.waiting, stage.living) == ({"tills": 1}, 0, set())


def test_what_still_waits_waits_under_the_id() -> None:
    stage = Stage()
    stage.play(interrupted(name=NUMBERED))
    stage.batch.rename(NUMBERED, "shop-prod")

    assert stage.batch.parked == {interrupted().key: Parked(interrupted(), NOW + GRACE)}
    assert stage.waiting == 1


@pytest.mark.parametrize("first", [NUMBERED, NAME], ids=["number-is-older", "id-is-older"])
def test_of_two_under_one_name_the_newer_lives(first: InstanceName) -> None:
    second = NAME if first is NUMBERED else NUMBERED
    stage = renamed(created("1", 100, name=first), created("2", 2000, name=second))

    assert stage.living == {"2"}
    assert gauges(stage) == {"tills": 1}


def test_one_told_under_both_is_one() -> None:
    stage = Stage()
    stage.play(interrupted())
    stage.end_grace()
    stage.play(created(name=NUMBERED))
    stage.batch.rename(NUMBERED, "shop-prod")

    assert stage.living == set()
    assert stage.interruptions == {UNKNOWN: 1}
    assert stage.creations == (1, 0)
    assert [(row.node, row.explained) for row in stage.ledger] == [(TILLS, True)]
    assert stage.instance() == Instance(
        NAME,
        "1",
        Kind.NODE,
        TILLS,
        NOW,
        spot=True,
        announced=True,
        timed=True,
        operation="insert-1",
        created_at=100.0,
        interrupted_at=1000.0,
        ended_at=1000.0,
    )
    assert LABELS in stage.tally.changed.label_sets


def test_a_creation_counts_once_when_its_instance_expired_under_the_number() -> None:
    stage = Stage()
    stage.play(interrupted(name=NUMBERED))
    stage.end_grace()
    stage.play(created())

    stage.batch.rename(NUMBERED, "shop-prod")

    assert stage.creations == (1, 0)


@pytest.mark.parametrize("numbered", list(product([False, True], repeat=4)))
def test_operations_are_told_apart_across_both_spellings(numbered: tuple[bool, ...]) -> None:
    again = created(at=2000, operation="again")
    events: list[Event] = [created(), failed(operation="another"), again, failed(at=2010, operation="again")]
    for story in permutations(zip(events, numbered, strict=True)):
        stage = Stage()
        stage.play(*(replace(event, name=NUMBERED) if by_number else event for event, by_number in story))

        stage.batch.rename(NUMBERED, "shop-prod")
        assert stage.creations == (2, 1), story
        assert not stage.living, story

        stage.play(created("1", 3000, operation="third"))
        assert stage.creations == (3, 1), story
        assert stage.living == {"1"}, story
