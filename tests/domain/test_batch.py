from dataclasses import replace
from itertools import permutations, product
from typing import Final

import pytest

from app.domain.batch import event_keys_of, with_project_id
from app.domain.events import UNKNOWN, Event, InstanceCreated, InstanceName
from app.domain.instances import OTHER, OTHER_LABELS, Instance, Kind, PendingInterruption
from app.domain.outcomes import Counted, Duplicate, Tracked
from app.domain.totals import ClusterTotals, LabelSetTotals, Totals
from tests.support.examples import (
    GRACE,
    LAB,
    LABELS,
    NAME,
    NOW,
    OTHER_NAME,
    TILLS,
    Simulator,
    created,
    failed,
    interrupted,
)

NUMBERED: Final = NAME._replace(project="123456789")


def gauges(simulator: Simulator) -> dict[str, int]:
    gauges: dict[str, int] = {}
    for labels, row in simulator.totals.changed.label_sets.items():
        gauges[labels.cluster] = gauges.get(labels.cluster, 0) + row.instances
    return gauges


def at_limit() -> Simulator:
    """Return a simulator at its limit: it admits only the label set of `lab`."""
    labels = Instance(NAME, "1", Kind.NODE, LAB, NOW).labels
    return Simulator(
        max_label_sets=1, base=Totals({labels: LabelSetTotals(labels)}, {"lab": ClusterTotals("lab")})
    )


def test_a_batch_asks_for_every_key() -> None:
    events: list[Event] = [created(), failed(), interrupted(), created(name=OTHER_NAME)]

    assert event_keys_of(events) == [created().key, interrupted().key, created(name=OTHER_NAME).key]


def test_names_are_read_once() -> None:
    batch = Simulator().batch

    assert batch.mark_read([NAME, NAME]) == [NAME]
    assert batch.mark_read([NAME, OTHER_NAME]) == [OTHER_NAME]


def test_an_event_repeated_in_one_batch_is_a_duplicate() -> None:
    simulator = Simulator()

    outcomes = simulator.apply(created(), created(), interrupted(), interrupted())

    assert [type(outcome) for outcome in outcomes] == [Tracked, Duplicate, Counted, Duplicate]
    assert simulator.batch.event_keys == {created().key: True, interrupted().key: True}


def test_a_stored_key_is_written_only_when_an_event_has_it_again() -> None:
    simulator = Simulator()
    simulator.batch.load([created().key, interrupted().key], (), ())
    simulator.apply(created())

    assert simulator.batch.event_keys == {created().key: True, interrupted().key: False}


def test_a_batch_reports_its_effects() -> None:
    simulator = Simulator(pending=10)
    outcomes = simulator.apply(interrupted("1"), created("1"), interrupted("2"))

    applied = simulator.batch.applied(outcomes)

    assert (applied.outcomes, applied.pending, applied.released) == (outcomes, 11, {"creation": 1})
    assert [counted.released_by for counted in applied.counted] == ["creation"]
    assert applied.changed is simulator.totals.changed
    assert not applied.more


# the gauge


def test_the_gauge_follows_an_instance_to_its_new_labels() -> None:
    simulator = Simulator()
    simulator.apply(created(), replace(created(node=LAB), key="created again"))

    assert gauges(simulator) == {"tills": 0, "lab": 1}


def test_the_gauge_decreases_with_a_removed_instance() -> None:
    simulator = Simulator()
    simulator.apply(created())
    simulator.batch.remove(NAME, "1")

    assert gauges(simulator) == {"tills": 0}
    assert simulator.batch.instances == {(NAME, "1"): None}


# too many label sets


def test_above_the_limit_all_events_are_committed_under_other() -> None:
    simulator = at_limit()

    _, outcome, _, _ = simulator.apply(created("1"), interrupted("1"), created("2", 2000), failed("2", 2010))

    assert isinstance(outcome, Counted)
    assert (outcome.node, outcome.counted_as) == (TILLS, OTHER)
    assert simulator.ledger == [outcome]
    assert simulator.totals.changed.label_sets == {
        OTHER_LABELS: LabelSetTotals(OTHER_LABELS, 1, 2, 1, 0, changed_at=NOW, released=True)
    }
    assert simulator.interruptions == {OTHER: 1}
    assert simulator.batch.overflowed == 4


@pytest.mark.parametrize(
    "story", [[created(), failed()], [failed(), created()]], ids=["in-order", "backwards"]
)
def test_a_creation_and_its_failure_overflow_once_each(story: list[Event]) -> None:
    simulator = at_limit()
    simulator.apply(*story)

    assert simulator.batch.overflowed == 2


def test_an_overflowed_instance_stays_under_other_below_the_limit() -> None:
    overflowed = Instance(NAME, "1", Kind.NODE, TILLS, NOW, spot=True, alive=True, overflowed=True)
    other = LabelSetTotals(OTHER_LABELS, instances=1)
    simulator = Simulator(base=Totals({OTHER_LABELS: other}))
    simulator.batch.load((), [overflowed], ())
    simulator.apply(created("9", name=OTHER_NAME), interrupted("1"))

    assert gauges(simulator) == {"tills": 1, OTHER: 0}
    assert simulator.interruptions == {OTHER: 1}


def test_an_instance_keeps_its_series_after_the_limit_is_reached() -> None:
    simulator = at_limit()
    simulator.apply(created(node=LAB), created("9", name=OTHER_NAME), interrupted("1"))

    assert gauges(simulator) == {"lab": 0, OTHER: 1}
    assert simulator.interruptions == {"lab": 1}


def test_a_cluster_above_the_limit_is_shown_as_other() -> None:
    simulator = at_limit()
    simulator.apply(created(spot=False))

    assert set(simulator.totals.changed.clusters) == {OTHER}


# a project's number


@pytest.mark.parametrize(
    ("project", "named"), [("123456789", "shop-prod"), ("987654321", "987654321"), ("shop-prod", "shop-prod")]
)
def test_a_known_project_number_becomes_the_project_id(project: str, named: str) -> None:
    event = created(name=NAME._replace(project=project))

    assert with_project_id(event, {"123456789": "shop-prod"}).name.project == named


def renamed(*before: InstanceCreated) -> Simulator:
    simulator = Simulator()
    simulator.apply(*before)
    simulator.batch.move(NUMBERED, "shop-prod")
    return simulator


def test_an_instance_moves_to_the_name_with_its_projects_id() -> None:
    simulator = renamed(created(name=NUMBERED))

    assert simulator.batch.instances[NUMBERED, "1"] is None
    assert simulator.instance().alive
    assert simulator.creations == (1, 0)
    assert {labels.project: row.instances for labels, row in simulator.totals.changed.label_sets.items()} == {
        "123456789": 0,
        "shop-prod": 1,
    }


def test_an_interruption_pending_under_the_id_is_released_by_a_creation_under_the_number() -> None:
    simulator = Simulator()
    simulator.apply(interrupted(), created(name=NUMBERED))
    assert simulator.pending == 1

    simulator.batch.move(NUMBERED, "shop-prod")

    assert (simulator.interruptions, simulator.pending, simulator.living) == ({"tills": 1}, 0, set())


def test_an_interruption_pending_under_the_number_is_released_by_a_creation_under_the_id() -> None:
    simulator = Simulator()
    simulator.apply(interrupted(name=NUMBERED), created())
    simulator.batch.move(NUMBERED, "shop-prod")

    assert (simulator.interruptions, simulator.pending, simulator.living) == ({"tills": 1}, 0, set())


def test_a_pending_interruption_moves_to_the_name_with_the_id() -> None:
    simulator = Simulator()
    simulator.apply(interrupted(name=NUMBERED))
    simulator.batch.move(NUMBERED, "shop-prod")

    assert simulator.batch.pending_interruptions == {
        interrupted().key: PendingInterruption(interrupted(), NOW + GRACE)
    }
    assert simulator.pending == 1


@pytest.mark.parametrize("first", [NUMBERED, NAME], ids=["number-is-older", "id-is-older"])
def test_the_newer_of_two_incarnations_of_one_name_lives(first: InstanceName) -> None:
    second = NAME if first is NUMBERED else NUMBERED
    simulator = renamed(created("1", 100, name=first), created("2", 2000, name=second))

    assert simulator.living == {"2"}
    assert gauges(simulator) == {"tills": 1}


def test_an_incarnation_stored_under_both_names_becomes_a_single_one() -> None:
    simulator = Simulator()
    simulator.apply(interrupted())
    simulator.end_grace()
    simulator.apply(created(name=NUMBERED))
    simulator.batch.move(NUMBERED, "shop-prod")

    assert simulator.living == set()
    assert simulator.interruptions == {UNKNOWN: 1}
    assert simulator.creations == (1, 0)
    assert [(row.node, row.attributed) for row in simulator.ledger] == [(TILLS, True)]
    assert simulator.instance() == Instance(
        NAME,
        "1",
        Kind.NODE,
        TILLS,
        NOW,
        spot=True,
        announced=True,
        lifetime_observed=True,
        operation="insert-1",
        created_at=100.0,
        interrupted_at=1000.0,
        ended_at=1000.0,
    )
    assert LABELS in simulator.totals.changed.label_sets


def test_a_creation_counts_once_when_its_instance_expired_under_the_number() -> None:
    simulator = Simulator()
    simulator.apply(interrupted(name=NUMBERED))
    simulator.end_grace()
    simulator.apply(created())

    simulator.batch.move(NUMBERED, "shop-prod")

    assert simulator.creations == (1, 0)


@pytest.mark.parametrize("numbered", list(product([False, True], repeat=4)))
def test_operations_are_distinguished_across_project_number_and_id(numbered: tuple[bool, ...]) -> None:
    again = created(at=2000, operation="again")
    events: list[Event] = [created(), failed(operation="another"), again, failed(at=2010, operation="again")]
    for story in permutations(zip(events, numbered, strict=True)):
        simulator = Simulator()
        simulator.apply(
            *(replace(event, name=NUMBERED) if by_number else event for event, by_number in story)
        )

        simulator.batch.move(NUMBERED, "shop-prod")
        assert simulator.creations == (2, 1), story
        assert not simulator.living, story

        simulator.apply(created("1", 3000, operation="third"))
        assert simulator.creations == (3, 1), story
        assert simulator.living == {"1"}, story
