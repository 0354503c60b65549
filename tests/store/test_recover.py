"""The recovery of interruptions from a list of operations, in every store."""

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import apsw
import pytest

from app.domain.events import UNKNOWN, InstanceInterrupted, InterruptionDetails
from app.domain.ledger import Query
from app.domain.outcomes import Counted, Duplicate, Pending
from app.store.opening import open_store
from app.store.port import OpenedStore, Store
from tests.store.conftest import RULES, Opener
from tests.store.stories import interruptions, keep_running, list_fleet, living, name
from tests.support.examples import (
    DAY,
    GRACE,
    LABELS,
    NAME,
    NOW,
    OTHER_NAME,
    created,
    interrupted,
    listed,
)

# By hand: SIE_TEST_OPERATIONS=100000 pytest tests/store/test_recover.py --timeout 0
OPERATIONS: Final = int(os.environ.get("SIE_TEST_OPERATIONS", "3000"))
HOUR = 3600.0
SETTLE = 300.0
ANY_AGE = -1.0
"""Instead of the seconds for which an operation is left to its push: it is not left to it."""
FOUND = replace(interrupted("1", NOW - HOUR), details=InterruptionDetails("operation"))
PUSHED = replace(FOUND, at=FOUND.at + 0.7, details=InterruptionDetails("push"))
"""The same preemption, with the slightly later time of its log entry."""


def counting_since(store: Store, at: float) -> Store:
    """Do the first periodic work at that time."""
    store.accrue_instance_seconds(at)
    return store


def rows(opened: OpenedStore) -> list[tuple[str, str, str]]:
    """Return the counted cluster, the cluster and the source of each row of the ledger."""
    entries = opened.ledger.interruptions(Query())
    return [
        (row.counted.counted_as, row.counted.node.cluster, row.counted.details.found_by) for row in entries
    ]


def test_a_missed_interruption_is_counted_once(opened: OpenedStore) -> None:
    store = counting_since(opened.store, NOW - DAY)
    store.apply([created("1", NOW - 2 * HOUR)], NOW - 2 * HOUR)

    (counted,) = store.recover([FOUND], ANY_AGE, NOW).counted

    assert (counted.counted_as, counted.details.found_by, counted.age) == ("tills", "operation", HOUR)
    assert not store.recover([FOUND], ANY_AGE, NOW + 900).counted
    assert store.apply([PUSHED], NOW + 901).outcomes == [Duplicate()]
    assert interruptions(store) == {"tills": 1}
    assert rows(opened) == [("tills", "tills", "operation")]


def test_an_interruption_that_was_pushed_is_not_counted_again(opened: OpenedStore) -> None:
    store = counting_since(opened.store, NOW - DAY)
    store.apply([created("1", NOW - 2 * HOUR), PUSHED], NOW - HOUR)
    before = store.state()

    applied = store.recover([FOUND], ANY_AGE, NOW)

    assert (list(applied.outcomes), list(applied.counted), bool(applied.changed)) == ([], [], False)
    assert store.state() == before
    assert rows(opened) == [("tills", "tills", "push")]


def test_an_interruption_of_an_unknown_instance_is_pending_and_keeps_its_source(opened: OpenedStore) -> None:
    store = counting_since(opened.store, NOW - DAY)
    keep_running(store, NOW, NOW)

    assert store.recover([FOUND], ANY_AGE, NOW).outcomes == [Pending(NAME.project)]
    keep_running(store, NOW, NOW + GRACE)
    (counted,) = store.expire(NOW + GRACE).counted

    assert (counted.counted_as, counted.details.found_by) == (UNKNOWN, "operation")


def test_a_recovered_interruption_ends_its_instance(store: Store) -> None:
    counting_since(store, NOW - DAY)
    list_fleet(store, [listed("1", NOW - 2 * HOUR), listed("2", NOW - HOUR, name=OTHER_NAME)], NOW - 100)

    store.recover([FOUND], ANY_AGE, NOW)

    assert living(store) == 1


def test_an_interruption_before_counting_began_enters_only_the_ledger(opened: OpenedStore) -> None:
    store = counting_since(opened.store, NOW)
    list_fleet(store, [listed("7", NOW - 600)], NOW)
    before = store.state()

    for _ in range(2):
        applied = store.recover([FOUND], ANY_AGE, NOW + 60)
        assert (list(applied.counted), bool(applied.changed)) == ([], False)

    assert store.state() == before
    # The name has another id now, because the group has recreated the instance.
    assert rows(opened) == [("", "tills", "operation")]


@pytest.mark.parametrize("described_by", ["creation", "listing"])
def test_a_later_description_completes_the_row_of_what_is_only_in_the_ledger(
    opened: OpenedStore, described_by: str
) -> None:
    store = counting_since(opened.store, NOW)
    store.recover([FOUND], ANY_AGE, NOW)

    if described_by == "creation":
        store.apply([created("1", NOW - 2 * HOUR)], NOW + 60)
    else:
        list_fleet(store, [listed("1", NOW - 2 * HOUR, alive=False)], NOW + 60)

    assert interruptions(store) == {}
    assert rows(opened) == [("", "tills", "operation")]


def test_a_push_of_what_is_only_in_the_ledger_counts_and_completes_the_row(opened: OpenedStore) -> None:
    store = counting_since(opened.store, NOW)
    store.recover([FOUND], ANY_AGE, NOW)
    assert rows(opened) == [("", UNKNOWN, "operation")]

    store.apply([created("1", NOW - 2 * HOUR), PUSHED], NOW + 60)

    assert interruptions(store) == {"tills": 1}
    assert rows(opened) == [("tills", "tills", "push")]
    store.apply([created("9", NOW, name=OTHER_NAME)], NOW + 61)
    assert not store.recover([FOUND], ANY_AGE, NOW + 900).counted
    assert rows(opened) == [("tills", "tills", "push")]


def test_a_push_that_waits_for_its_instance_completes_the_row_later(opened: OpenedStore) -> None:
    store = counting_since(opened.store, NOW)
    store.recover([FOUND], ANY_AGE, NOW)
    store.apply([PUSHED], NOW + 60)
    store.recover([FOUND], ANY_AGE, NOW + 61)

    keep_running(store, NOW, NOW + 60 + GRACE)
    store.expire(NOW + 60 + GRACE)

    assert rows(opened) == [(UNKNOWN, UNKNOWN, "push")]


def test_another_vm_does_not_enter_the_ledger(opened: OpenedStore) -> None:
    store = counting_since(opened.store, NOW)
    list_fleet(store, [listed("1", NOW - 2 * HOUR, node=None)], NOW)

    store.recover([FOUND], ANY_AGE, NOW)

    assert rows(opened) == []


def test_an_operation_older_than_the_retention_is_passed_over(opened: OpenedStore) -> None:
    store = counting_since(opened.store, NOW - 40 * DAY)

    store.recover([replace(FOUND, at=NOW - RULES.retention_seconds - 1)], ANY_AGE, NOW)

    assert rows(opened) == []


def test_the_last_day_of_the_retention_is_not_counted(opened: OpenedStore) -> None:
    # The keys of that day may have been pruned.
    store = counting_since(opened.store, NOW - 40 * DAY)

    store.recover([replace(FOUND, at=NOW - RULES.retention_seconds + DAY - 1)], ANY_AGE, NOW)

    assert [counted_as for counted_as, _, _ in rows(opened)] == [""]


def test_the_time_since_when_the_keys_are_complete_outlives_a_restart(reopen: Opener) -> None:
    counting_since(reopen(), NOW - DAY)
    store = counting_since(reopen(), NOW)

    assert store.recover([FOUND], ANY_AGE, NOW).outcomes == [Pending(NAME.project)]


def test_a_reset_of_the_totals_begins_to_count_later(reopen: Opener) -> None:
    counting_since(reopen(), NOW - DAY)
    store = counting_since(reopen(reset_totals=True), NOW)

    assert not store.recover([FOUND], ANY_AGE, NOW).outcomes


def test_a_young_operation_is_left_to_its_push(opened: OpenedStore) -> None:
    store = counting_since(opened.store, FOUND.at)

    applied = store.recover([FOUND], 60, FOUND.at + 60)

    assert not applied.outcomes
    assert rows(opened) == []
    assert store.recover([FOUND], 60, FOUND.at + 60 + 1).outcomes == [Pending(NAME.project)]


def test_an_interruption_before_counting_began_waits_for_no_push(opened: OpenedStore) -> None:
    store = counting_since(opened.store, NOW)

    store.recover([FOUND], 2 * HOUR, NOW)

    assert rows(opened) == [("", UNKNOWN, "operation")]


@pytest.mark.parametrize("beat_first", [True, False], ids=["after-the-beat", "before-the-beat"])
def test_an_operation_of_an_outage_is_left_to_its_push_afterwards(
    reopen: Opener, *, beat_first: bool
) -> None:
    counting_since(reopen(), NOW - 2 * HOUR)
    store = reopen()
    if beat_first:
        store.accrue_instance_seconds(NOW)

    assert not store.recover([FOUND], SETTLE, NOW).outcomes
    store.accrue_instance_seconds(NOW)
    assert not store.recover([FOUND], SETTLE, NOW + SETTLE).outcomes
    assert store.recover([FOUND], SETTLE, NOW + SETTLE + 1).outcomes == [Pending(NAME.project)]


def test_an_operation_from_long_before_an_outage_is_counted_after_it(reopen: Opener) -> None:
    counting_since(reopen(), NOW - HOUR)
    settled = replace(FOUND, at=NOW - HOUR + 1)
    store = reopen()
    for at in range(0, 600, 60):
        store.accrue_instance_seconds(NOW - HOUR + at)
    store = counting_since(reopen(), NOW)

    assert store.recover([settled], SETTLE, NOW).outcomes == [Pending(NAME.project)]


def test_a_short_restart_does_not_delay_the_recovery(reopen: Opener) -> None:
    counting_since(reopen(), FOUND.at)
    store = reopen()
    for at in range(0, 300, 60):
        store.accrue_instance_seconds(FOUND.at + at)
    store = counting_since(reopen(), FOUND.at + SETTLE + 1)

    assert store.recover([FOUND], SETTLE, FOUND.at + SETTLE + 1).outcomes == [Pending(NAME.project)]


def test_the_order_of_a_push_and_an_operation_does_not_matter(store: Store) -> None:
    counting_since(store, NOW - DAY)
    many = [
        replace(interrupted(str(number), NOW - HOUR, name=NAME._replace(instance=f"node-{number}")))
        for number in range(30)
    ]
    found: list[InstanceInterrupted] = [
        replace(event, details=InterruptionDetails("operation")) for event in many
    ]
    store.apply([created(event.id, NOW - DAY, name=event.name) for event in many], NOW - DAY)

    store.apply(many[:10], NOW)
    counted = store.recover(found[:20], ANY_AGE, NOW).counted
    outcomes = store.apply(many, NOW).outcomes

    assert len(counted) == 10
    assert [type(outcome) for outcome in outcomes] == [Duplicate] * 20 + [Counted] * 10
    assert interruptions(store) == {"tills": 30}


def test_shares_and_medians_are_of_counted_interruptions(opened: OpenedStore) -> None:
    store = counting_since(opened.store, NOW)
    list_fleet(store, [listed("7", NOW - DAY)], NOW)
    store.recover([FOUND], ANY_AGE, NOW)
    store.apply(
        [created("8", NOW - 600, name=OTHER_NAME), interrupted("8", NOW + 1, name=OTHER_NAME)], NOW + 1
    )

    (pool,) = opened.ledger.pools(NOW + 2, 10)
    week = [row for row in opened.ledger.week(NOW + 2) if row.labels == LABELS]

    assert (pool.last_hour, pool.last_day, pool.last_week) == (1, 1, 1)
    assert (sum(pool.periods), sum(pool.past_periods), pool.newest_at) == (1, 1, NOW + 1)
    assert pool.median_age == 601
    assert sum(row.interruptions for row in week) == 1
    assert opened.ledger.counting_since() == NOW


def test_a_second_reading_of_the_same_operations_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = counting_since(open_store(f"sqlite:///{path}", RULES).store, NOW - HOUR)
    operations = [
        replace(
            interrupted(str(number), NOW - 2 * number - 1, name=name(number)),
            details=InterruptionDetails("operation"),
        )
        for number in range(OPERATIONS)
    ]
    store.apply([created(event.id, NOW - DAY, name=event.name) for event in operations], NOW)

    def read() -> None:
        for start in range(0, OPERATIONS, 25):
            store.recover(operations[start : start + 25], ANY_AGE, NOW)

    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        empty = connection.pragma("data_version")
        read()
        version = connection.pragma("data_version")
        assert version != empty
        assert connection.execute("SELECT count(DISTINCT key) FROM ledger").get == OPERATIONS
        read()
        assert connection.pragma("data_version") == version
    store.close()
