"""Deletions, in any order with the other events of their instances."""

from itertools import permutations
from typing import TypeAlias

import pytest

from app.domain.deletions import IGNORED_UNKNOWN_INSTANCE
from app.domain.events import Event, Listed
from app.domain.outcomes import Counted, Ended, Outcome, Pending, Tracked
from tests.support.examples import (
    OTHER_NAME,
    TILLS,
    Simulator,
    created,
    deleted,
    failed,
    interrupted,
    listed,
)

Scene: TypeAlias = Event | tuple[Listed, float]
"""An event, or an instance in a listing that began at a time."""


def played(*scenes: Scene) -> Simulator:
    simulator = Simulator()
    for scene in scenes:
        if isinstance(scene, tuple):
            simulator.observe_listed(scene[0], began=scene[1])
        else:
            simulator.apply(scene)
    return simulator


def outcome(*events: Event) -> Outcome:
    return Simulator().apply(*events)[-1]


def test_a_deletion_ends_its_instance_at_its_time() -> None:
    simulator = played(created(), deleted(at=500.0))

    assert simulator.living == set()
    assert simulator.instance().ended_at == 500.0
    assert sum(row.instances for row in simulator.totals.changed.label_sets.values()) == 0


@pytest.mark.parametrize(
    "story",
    list(permutations([created(), deleted(), (listed(), 1990.0), (listed(), 2100.0)])),
    ids=lambda story: "-".join(type(scene).__name__[:9] for scene in story),
)
def test_a_deleted_id_never_lives_again(story: tuple[Scene, ...]) -> None:
    simulator = played(*story)

    assert simulator.living == set()
    assert simulator.creations == (1, 0)
    assert sum(row.instances for row in simulator.totals.changed.label_sets.values()) == 0


@pytest.mark.parametrize("story", list(permutations([created(), deleted(), interrupted()])))
def test_a_deletion_neither_hides_nor_makes_an_interruption(story: tuple[Event, ...]) -> None:
    simulator = played(*story)

    assert simulator.interruptions == {"tills": 1}
    assert simulator.living == set()
    assert simulator.ages == {"tills": 900.0}
    assert [counted.node for counted in simulator.ledger] == [TILLS]


@pytest.mark.parametrize("again", [created(operation="insert-again", at=3000.0), created(at=150.0)])
def test_no_creation_revives_a_deleted_id(again: Event) -> None:
    started = listed(started_at=3500.0)

    assert played(created(), deleted(), again).living == set()
    assert played(created(), deleted(), again, (started, 4000.0)).living == set()


def test_the_outcomes_of_deletions() -> None:
    assert outcome(created(), deleted()) == Ended()
    assert outcome(created(), deleted(), deleted()) == Ended()
    assert outcome(created(), interrupted(), deleted()) == Ended()
    assert outcome(failed(), deleted()) == Ended()
    assert outcome(failed(), deleted(), deleted()) == Ended()
    assert outcome(deleted()) == IGNORED_UNKNOWN_INSTANCE
    assert outcome(deleted(), deleted()) == IGNORED_UNKNOWN_INSTANCE
    assert isinstance(outcome(deleted(), created()), Tracked)
    assert isinstance(outcome(deleted(), interrupted()), Pending)
    assert isinstance(outcome(created(), deleted(), interrupted()), Counted)


def test_the_deletion_of_an_interrupted_node_moves_nothing() -> None:
    simulator = played(created(), interrupted())
    before = simulator.result

    simulator.apply(deleted())

    assert simulator.result == before
    assert simulator.instance().ended_at == 1000.0


def test_a_deletion_ends_only_the_incarnation_with_its_id() -> None:
    recreated = created("2", at=1500.0)

    assert played(created("1"), recreated, deleted("1")).living == {"2"}
    assert played(created("2", at=1500.0), deleted("1")).living == {"2"}


def test_without_an_id_only_an_earlier_incarnation_of_the_name_ends() -> None:
    assert played(created("1"), deleted("", at=2000.0)).living == set()
    assert played(created("1", at=2500.0), deleted("", at=2000.0)).living == {"1"}
    assert played(created("1"), deleted("", name=OTHER_NAME)).living == {"1"}
    assert outcome(deleted("")) == IGNORED_UNKNOWN_INSTANCE
