"""The clock of the exporter jumps by more than a day: what the store forgets then."""

from dataclasses import replace

import pytest

from app.domain.events import InterruptionDetails
from app.domain.ledger import Query
from app.domain.outcomes import Counted, Duplicate
from app.store.port import OpenedStore, Store
from tests.store.conftest import Opener
from tests.store.stories import interruptions, until_done
from tests.support.examples import DAY, NAME, NOW, OTHER_NAME, created, interrupted

AHEAD = 60 * DAY
COUNTED = interrupted("1", NOW)
ANY_AGE = -1e12


def beat(store: Store, now: float) -> None:
    """Do the periodic work of a minute."""
    store.accrue_instance_seconds(now)
    until_done(store.prune, now)


def fill(store: Store) -> None:
    """Count the interruption of an instance; another one lives."""
    beat(store, NOW)
    store.apply([created("1", NOW - 60), COUNTED, created("2", NOW, name=OTHER_NAME)], NOW)


def living(store: Store) -> int:
    return sum(row.instances for row in store.state().totals.label_sets.values())


def rows(opened: OpenedStore) -> int:
    return len(opened.ledger.interruptions(Query(limit=10)))


def test_a_jump_that_is_corrected_within_a_day_deletes_nothing(opened: OpenedStore) -> None:
    store = opened.store
    fill(store)

    beat(store, NOW + AHEAD)
    for ahead in (AHEAD - 600, AHEAD - 10 * DAY, AHEAD):  # corrected a little, and still wrong
        beat(store, NOW + ahead)
    beat(store, NOW + AHEAD + DAY - 60)
    assert isinstance(store.apply([COUNTED], NOW + AHEAD + DAY - 60).outcomes[0], Duplicate)
    beat(store, NOW + DAY)

    assert (rows(opened), living(store), interruptions(store)["tills"]) == (1, 1, 1)
    assert isinstance(store.apply([COUNTED], NOW + DAY).outcomes[0], Duplicate)
    missed = replace(interrupted("2", NOW + 60, name=OTHER_NAME), details=InterruptionDetails("operation"))
    assert isinstance(store.recover([missed], ANY_AGE, NOW + DAY).outcomes[0], Counted)


def test_a_pruning_before_the_jump_is_noticed_deletes_nothing(opened: OpenedStore) -> None:
    fill(opened.store)

    until_done(opened.store.prune, NOW + AHEAD)

    assert rows(opened) == 1


def test_a_restart_does_not_end_the_doubt(reopen: Opener) -> None:
    fill(reopen())
    beat(reopen(), NOW + AHEAD)
    beat(reopen(), NOW + AHEAD + 60)

    assert isinstance(reopen().apply([COUNTED], NOW + AHEAD + 120).outcomes[0], Duplicate)


def test_after_a_day_the_clock_is_believed(opened: OpenedStore) -> None:
    store = opened.store
    fill(store)
    beat(store, NOW + AHEAD)
    beat(store, NOW + AHEAD + DAY)

    assert (rows(opened), living(store)) == (0, 0)


def test_a_day_without_an_exporter_delays_nothing(opened: OpenedStore) -> None:
    store = opened.store
    fill(store)
    for day in range(1, 32):
        beat(store, NOW + day * DAY)
    assert rows(opened) == 1
    beat(store, NOW + 32 * DAY)

    assert rows(opened) == 0


def test_an_event_whose_key_a_wrong_clock_deleted_does_not_count_again(opened: OpenedStore) -> None:
    store = opened.store
    fill(store)
    beat(store, NOW + AHEAD)
    beat(store, NOW + AHEAD + DAY)

    for minute in range(2):
        beat(store, NOW + DAY + 60 * minute)
        store.recover(
            [replace(COUNTED, details=InterruptionDetails("operation"))], ANY_AGE, NOW + DAY + 60 * minute
        )

    assert (interruptions(store)["tills"], store.state().pending) == (1, 0)
    assert not [row for row in opened.ledger.interruptions(Query(limit=10)) if row.counted.counted_as]
    newer = replace(interrupted("2", NOW + DAY + 120, name=NAME), details=InterruptionDetails("operation"))
    assert len(store.recover([newer], ANY_AGE, NOW + DAY + 180).outcomes) == 1


def test_each_jump_is_reported_once(opened: OpenedStore, caplog: pytest.LogCaptureFixture) -> None:
    fill(opened.store)
    for at in (NOW + AHEAD, NOW + AHEAD + 60, NOW + 120, NOW + 180):
        beat(opened.store, at)

    lines = [vars(record) for record in caplog.records if "the clock has jumped" in record.getMessage()]
    assert [line["last_work_at"] < line["clock"] for line in lines] == [True, False]
