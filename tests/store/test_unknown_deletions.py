"""The number of deletions that a store remembers of instances that it does not know."""

from app.domain.changes import Rules
from app.domain.events import Event, InstanceName
from app.domain.outcomes import Tracked
from app.store.port import Store
from tests.store.conftest import Opener
from tests.support.examples import DAY, GRACE, NAME, created, deleted

MOST = 3
RULES = Rules(grace_seconds=GRACE, retention_seconds=31 * DAY, max_unknown_deletions=MOST)
NOW = 40 * DAY


def name(number: int) -> InstanceName:
    return NAME._replace(instance=f"node-{number}")


def prune(store: Store, now: float) -> None:
    while store.prune(now).more:
        pass


def living(store: Store) -> int:
    return sum(row.instances for row in store.state().totals.label_sets.values())


def alive_after(store: Store, event: Event, now: float) -> bool:
    """Apply a creation, and return whether its instance lives."""
    before = living(store)
    (outcome,) = store.apply([event], now).outcomes
    assert isinstance(outcome, Tracked)
    return living(store) > before


def test_only_the_newest_deletions_of_unknown_instances_are_remembered(open_again: Opener) -> None:
    store = open_again(rules=RULES)
    for number in range(6):
        store.apply([deleted(str(number), NOW, name=name(number))], NOW + number)
    prune(store, NOW + 10)

    alive = [
        alive_after(store, created(str(number), NOW - 60, name=name(number)), NOW + 20) for number in range(6)
    ]

    assert alive == [True, True, True, False, False, False]


def test_deletions_of_a_single_name_are_limited_too(open_again: Opener) -> None:
    store = open_again(rules=RULES)
    for number in range(30):
        store.apply([deleted(str(number), NOW, name=NAME)], NOW + number)
    prune(store, NOW + 40)

    alive = [
        alive_after(store, created(str(number), NOW - 60 + number, name=NAME), NOW + 50)
        for number in (5, 26, 28)
    ]

    assert alive == [True, False, False]


def test_known_instances_do_not_count(open_again: Opener) -> None:
    store = open_again(rules=RULES)
    for number in range(6):
        store.apply([created(str(number), NOW - 60, name=name(number))], NOW)
        store.apply([deleted(str(number), NOW, name=name(number))], NOW + number)
    for number in range(6, 12):
        store.apply([deleted(str(number), NOW, name=name(number))], NOW + number)
        store.apply([created(str(number), NOW - 60, name=name(number))], NOW + number)
    store.apply([deleted("12", NOW, name=name(12))], NOW + 12)
    prune(store, NOW + 20)

    assert not any(
        alive_after(store, created(str(number), NOW - 60, operation="again", name=name(number)), NOW + 30)
        for number in range(13)
    )
