"""The contract of the store, tested on every implementation."""

from dataclasses import replace
from itertools import pairwise
from typing import Final

import pytest

from app.domain import interruptions as rules_of_interruptions
from app.domain.batch import MAX_INCARNATIONS
from app.domain.changes import Decision, Known, Rules
from app.domain.events import UNKNOWN, Event, InstanceName
from app.domain.instances import OTHER, UNKNOWN_LABELS, PendingInterruption
from app.domain.outcomes import Counted, Duplicate, Pending, Tracked
from app.domain.totals import ClusterTotals, LabelSetTotals, LifetimeTotals, Totals
from app.errors import StoreUnavailableError
from app.store.port import SLICE, OpenedStore, Store
from tests.store.conftest import RULES, Opener
from tests.store.stories import (
    NUMBERED,
    TEACHES,
    interruptions,
    keep_running,
    list_fleet,
    living,
    name,
    name_all,
    row_of,
    until_done,
)
from tests.support.examples import (
    DAY,
    GRACE,
    LAB,
    LABELS,
    NAME,
    NOW,
    OTHER_NAME,
    TILLS,
    created,
    failed,
    interrupted,
    listed,
)

UNSTORABLE: Final = replace(created("66", name=OTHER_NAME), operation="\ud800")


# committing


def test_a_new_store_has_the_unknown_series_at_zero(store: Store) -> None:
    remembered = store.state()

    assert remembered.totals == Totals(
        {UNKNOWN_LABELS: LabelSetTotals(UNKNOWN_LABELS, released=True)},
        {UNKNOWN: ClusterTotals(UNKNOWN, released=True)},
        {(UNKNOWN, UNKNOWN): LifetimeTotals(UNKNOWN, UNKNOWN, released=True)},
    )
    assert remembered.pending == 0


def test_a_newest_interruption_in_the_future_is_replaced_by_the_next(reopen: Opener) -> None:
    store = reopen()
    store.apply([created(), interrupted(at=NOW + 150 * 365 * DAY)], NOW)

    store.apply([interrupted(at=NOW - 5)], NOW)

    assert store.state().totals.clusters["tills"].last_interruption_at == NOW - 5
    assert reopen().state().totals.clusters["tills"].last_interruption_at == NOW - 5


def test_outcomes_come_in_the_order_of_the_events(store: Store) -> None:
    events: list[Event] = [interrupted("9"), created(), interrupted(), interrupted()]

    outcomes = store.apply(events, NOW).outcomes

    assert [type(outcome) for outcome in outcomes] == [Pending, Tracked, Counted, Duplicate]


def test_the_stored_state_is_what_was_applied(store: Store) -> None:
    shown = store.state().totals
    for work in (
        store.apply([created(), interrupted("9")], NOW),
        store.apply([interrupted(), created("2", 2000), failed("2")], NOW),
        store.accrue_instance_seconds(NOW),
        store.accrue_instance_seconds(NOW + 60),
        store.expire(NOW + GRACE),
    ):
        shown.update(work.changed)

    assert store.state().totals == shown
    assert store.state().pending == work.pending


def test_an_event_that_cannot_be_committed_leaves_nothing_of_its_batch(store: Store) -> None:
    store.apply([created("1")], NOW)
    before = store.state()

    with pytest.raises(ValueError, match="surrogates"):
        store.apply([interrupted("1"), UNSTORABLE, interrupted("2")], NOW)

    assert store.state() == before
    outcomes = store.apply([interrupted("1"), interrupted("2")], NOW).outcomes
    assert [type(outcome) for outcome in outcomes] == [Counted, Pending]


def test_a_number_learnt_in_a_failed_batch_is_not_learnt(store: Store) -> None:
    with pytest.raises(ValueError, match="surrogates"):
        store.apply([TEACHES, UNSTORABLE], NOW)

    assert store.apply([created(name=NUMBERED)], NOW).outcomes == [Tracked(NUMBERED, TILLS)]


def test_everything_is_remembered_across_a_restart(reopen: Opener) -> None:
    store = reopen()
    store.apply(
        [created(), created("2", 200, name=OTHER_NAME), interrupted(), interrupted("9"), TEACHES], NOW
    )
    store.accrue_instance_seconds(NOW)
    store.accrue_instance_seconds(NOW + 60)
    before = store.state()

    store = reopen()

    assert store.state() == before
    assert [type(outcome) for outcome in store.apply([created(), interrupted()], NOW).outcomes] == [
        Duplicate
    ] * 2
    (released, counted) = store.apply(
        [created("9", 900, name=NUMBERED), interrupted("2", name=OTHER_NAME)], NOW
    ).counted
    assert (released.id, released.released_by) == ("9", "creation")
    assert counted.age == 800.0


def test_the_totals_that_were_given_out_do_not_change(store: Store) -> None:
    given = store.state()
    changed = store.apply([created()], NOW).changed
    store.apply([interrupted()], NOW)

    assert LABELS not in given.totals.label_sets
    assert changed.label_sets[LABELS].interruptions == 0


def test_closing_twice_is_closing(store: Store) -> None:
    store.close()
    store.close()


# waiting


def test_the_grace_ends_by_the_exporters_clock(store: Store) -> None:
    store.apply([interrupted(at=0.0)], NOW)

    assert not store.expire(NOW + GRACE - 1).counted
    (counted,) = store.expire(NOW + GRACE).counted
    assert (counted.counted_as, counted.released_by) == (UNKNOWN, "expiry")
    assert not store.expire(NOW + GRACE).counted
    assert interruptions(store) == {UNKNOWN: 1}


def test_expiry_is_done_in_slices(store: Store) -> None:
    waiting = [interrupted(str(number), name=name(number)) for number in range(2 * SLICE + 1)]
    store.apply(waiting, NOW)

    done = until_done(store.expire, NOW + GRACE)

    assert [len(applied.counted) for applied in done] == [SLICE, SLICE, 1]
    assert [applied.pending for applied in done] == [SLICE + 1, 1, 0]
    assert sum(applied.released["expiry"] for applied in done) == len(waiting)
    assert interruptions(store) == {UNKNOWN: len(waiting)}


def test_a_released_interruption_does_not_expire(store: Store) -> None:
    store.apply([interrupted()], NOW)
    applied = store.apply([created()], NOW + 1)

    assert (applied.released, applied.pending) == ({"creation": 1}, 0)
    assert not store.expire(NOW + GRACE).counted


def test_two_of_one_name_may_expire_in_one_slice(store: Store) -> None:
    store.apply([interrupted("1"), interrupted("1", 2000), interrupted("2", 3000)], NOW)

    assert len(store.expire(NOW + GRACE).counted) == 3
    assert isinstance(store.apply([created("1")], NOW + GRACE).outcomes[0], Tracked)
    assert row_of(store).instances == 0


def test_an_interruption_that_meets_a_bug_at_its_end_does_not_stop_the_others(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = [name(number) for number in range(3)]
    store.apply([interrupted(str(number), name=one) for number, one in enumerate(names)], NOW)
    decide = rules_of_interruptions.expire

    def broken(pending: PendingInterruption, known: Known, now: float) -> Decision:
        if pending.event.name == names[1]:
            raise ZeroDivisionError
        return decide(pending, known, now)

    monkeypatch.setattr(rules_of_interruptions, "expire", broken)
    first, second, third = (store.expire(NOW + GRACE + beat) for beat in range(3))

    assert [counted.name for counted in first.counted] == [names[0], names[2]]
    assert [len(applied.counted) for applied in (second, third)] == [0, 0]
    assert [line.levelname for line in caplog.records] == ["ERROR"]
    assert "ZeroDivisionError" in caplog.text
    # It is tried again after another grace period, and a creation still releases it.
    monkeypatch.setattr(rules_of_interruptions, "expire", decide)
    assert not store.expire(NOW + 2 * GRACE).counted
    assert len(store.expire(NOW + 2 * GRACE + 2).counted) == 1


# the time that instances have lived


def test_time_is_added_for_each_live_instance(store: Store) -> None:
    store.apply(
        [created("1"), created("2", name=OTHER_NAME), created("3", name=name(3), node=LAB, spot=None)], NOW
    )

    assert not store.accrue_instance_seconds(NOW).changed
    store.accrue_instance_seconds(NOW + 60)
    store.apply([interrupted("1")], NOW + 60)
    store.accrue_instance_seconds(NOW + 90)

    assert row_of(store).instance_seconds == 150.0
    assert sum(row.instance_seconds for row in store.state().totals.label_sets.values()) == 150.0


@pytest.mark.parametrize(
    ("moments", "seconds"),
    [
        pytest.param([0, 60, 61], 61.0, id="since-the-last-call"),
        pytest.param([0, 3 * 3600], 3600.0, id="one-hour-at-most"),
        pytest.param([100, 0, 60], 60.0, id="never-less-when-the-clock-steps-back"),
        pytest.param([5], 0.0, id="nothing-at-first"),
    ],
)
def test_time_is_added(open_again: Opener, moments: list[float], seconds: float) -> None:
    store = open_again()
    store.apply([created()], NOW)
    for moment in moments:
        store.accrue_instance_seconds(NOW + moment)

    assert row_of(store).instance_seconds == seconds


def test_time_continues_after_a_restart(reopen: Opener) -> None:
    store = reopen()
    store.apply([created()], NOW)
    store.accrue_instance_seconds(NOW)

    assert reopen().accrue_instance_seconds(NOW + 600).changed.label_sets[LABELS].instance_seconds == 600.0


# forgetting


def test_a_key_is_remembered_for_the_retention_and_no_longer(store: Store) -> None:
    store.apply([created(at=NOW - 9 * DAY), interrupted(at=NOW)], NOW)

    until_done(store.prune, NOW + 31 * DAY)
    assert isinstance(store.apply([interrupted(at=NOW)], NOW + 31 * DAY).outcomes[0], Duplicate)

    until_done(store.prune, NOW + 62 * DAY + 1)
    assert isinstance(store.apply([interrupted(at=NOW)], NOW + 62 * DAY + 1).outcomes[0], Pending)


def test_a_duplicate_prolongs_its_keys_life(store: Store) -> None:
    store.apply([created(), interrupted()], NOW)
    store.apply([created()], NOW + 30 * DAY)
    until_done(store.prune, NOW + 32 * DAY)

    outcomes = store.apply([created(), interrupted()], NOW + 32 * DAY).outcomes

    assert [type(outcome) for outcome in outcomes] == [Duplicate, Pending]


@pytest.mark.parametrize("at", [0.0, NOW - 400 * DAY, NOW + 400 * DAY], ids=["epoch", "old", "future"])
def test_log_timestamps_have_nothing_forgotten(open_again: Opener, at: float) -> None:
    store = open_again()
    store.apply([created("1", at), interrupted("1", at + 5), created("2", at, name=OTHER_NAME)], NOW)

    until_done(store.prune, NOW + 30 * DAY)

    assert isinstance(store.apply([interrupted("1", at + 5)], NOW + 30 * DAY).outcomes[0], Duplicate)
    assert isinstance(store.apply([interrupted("1", at + 9)], NOW + 30 * DAY).outcomes[0], Counted)
    assert isinstance(
        store.apply([interrupted("2", at + 9, name=OTHER_NAME)], NOW + 30 * DAY).outcomes[0], Counted
    )


def test_instances_that_nothing_confirms_are_forgotten(store: Store) -> None:
    store.apply([created("1"), interrupted("1"), created("2", 2000)], NOW)

    slices = until_done(store.prune, NOW + 31 * DAY + 1)

    (changed,) = (applied.changed.label_sets[LABELS] for applied in slices if applied.changed)
    assert changed.instances == 0
    assert isinstance(store.apply([interrupted("1", 7.0)], NOW + 32 * DAY).outcomes[0], Pending)


def test_the_grace_does_not_run_while_no_exporter_runs(reopen: Opener) -> None:
    store = reopen()
    store.accrue_instance_seconds(NOW)
    store.apply([interrupted()], NOW + 1)

    later = NOW + 10 * GRACE + 1000
    store = reopen()
    store.accrue_instance_seconds(later)

    assert not store.expire(later).counted
    assert isinstance(store.apply([created()], later).outcomes[0], Tracked)
    assert interruptions(store) == {"tills": 1}


def test_the_grace_continues_after_an_outage(reopen: Opener) -> None:
    store = reopen()
    store.accrue_instance_seconds(NOW)
    store.apply([interrupted()], NOW)
    later = NOW + 10 * GRACE + 1000
    store = reopen()
    store.accrue_instance_seconds(later)

    keep_running(store, later, later + GRACE - 60)
    assert not store.expire(later + GRACE - 1).counted
    assert [row.counted_as for row in store.expire(later + GRACE).counted] == [UNKNOWN]


def test_a_jump_of_the_clock_ends_no_grace_before_it_is_noticed(store: Store) -> None:
    store.accrue_instance_seconds(NOW)
    store.apply([interrupted()], NOW)

    assert not store.expire(NOW + DAY).counted
    keep_running(store, NOW + DAY, NOW + DAY + GRACE - 60)
    assert not store.expire(NOW + DAY + GRACE - 1).counted
    assert len(store.expire(NOW + DAY + GRACE).counted) == 1


def test_a_grace_that_begins_after_a_jump_of_the_clock_is_a_minute_longer_at_most(store: Store) -> None:
    store.accrue_instance_seconds(NOW)
    store.accrue_instance_seconds(NOW + DAY)
    store.apply([interrupted()], NOW + 10)
    keep_running(store, NOW + 60, NOW + GRACE)

    assert not store.expire(NOW + GRACE + 9).counted
    assert len(store.expire(NOW + GRACE + 60).counted) == 1


def test_a_grace_that_began_while_the_clock_was_ahead_ends_in_time(store: Store) -> None:
    year = 365 * DAY
    store.apply([interrupted()], NOW + 10 * year)

    assert not store.expire(NOW).counted
    assert not store.expire(NOW + GRACE - 1).counted
    assert [row.counted_as for row in store.expire(NOW + GRACE).counted] == [UNKNOWN]


def test_an_instance_that_was_recorded_while_the_clock_was_ahead_ends_with_the_second_listing(
    store: Store,
) -> None:
    store.apply([created()], NOW + DAY)
    list_fleet(store, [], NOW)
    list_fleet(store, [], NOW + 600)

    assert living(store) == 0


def test_a_listing_made_by_a_clock_that_was_ahead_does_not_protect_instances(store: Store) -> None:
    store.apply([created()], NOW)
    list_fleet(store, [listed()], NOW + DAY)

    list_fleet(store, [], NOW + 600)
    list_fleet(store, [], NOW + 1200)

    assert living(store) == 0


def test_a_listing_that_began_while_the_clock_was_ahead_ends_no_later_creation(store: Store) -> None:
    list_fleet(store, [], NOW + DAY)

    store.apply([created(at=NOW)], NOW + 1)

    assert living(store) == 1


def test_a_clock_that_jumps_and_comes_back_makes_the_grace_a_minute_longer_at_most(store: Store) -> None:
    store.accrue_instance_seconds(NOW)
    store.apply([interrupted()], NOW)
    store.accrue_instance_seconds(NOW + DAY)
    store.accrue_instance_seconds(NOW + 60)

    keep_running(store, NOW + 60, NOW + GRACE - 60)
    assert not store.expire(NOW + GRACE - 1).counted
    assert len(store.expire(NOW + GRACE + 60).counted) == 1


def test_each_of_many_lives_of_a_name_is_found_by_its_id(reopen: Opener) -> None:
    lives = [str(number) for number in range(3 * MAX_INCARNATIONS)]
    store = reopen()
    for number, life in enumerate(lives):
        store.apply([created(life, 100.0 + number)], NOW + number)

    store = reopen()
    late = [interrupted(life, 5000.0 + number) for number, life in enumerate(lives)]
    counted = store.apply(late, NOW + 100).counted

    assert [(row.id, row.node, row.age, row.attributed) for row in counted] == [
        (life, TILLS, 4900.0, True) for life in lives
    ]
    assert living(store) == 0
    assert {type(outcome) for outcome in store.apply(late, NOW + 101).outcomes} == {Duplicate}


def test_many_unknown_lives_of_a_name_take_the_labels_of_a_known_one(store: Store) -> None:
    store.apply([created("0", 100.0), interrupted("0", 500.0)], NOW)
    for number in range(1, 2 * MAX_INCARNATIONS):
        store.apply([interrupted(str(number), 1000.0 + number)], NOW + number)
        store.expire(NOW + number + GRACE)

    assert interruptions(store) == {"tills": 2 * MAX_INCARNATIONS}


def test_the_lives_of_a_name_are_found_after_its_project_is_known(store: Store) -> None:
    lives = [str(number) for number in range(2 * MAX_INCARNATIONS)]
    for number, life in enumerate(lives):
        store.apply([created(life, 100.0 + number, name=NUMBERED)], NOW + number)
    store.apply([TEACHES], NOW + 100)

    counted = store.apply([interrupted(life, 5000.0) for life in lives], NOW + 101).counted

    assert [(row.name, row.id) for row in counted] == [(NAME, life) for life in lives]


def test_the_lives_of_a_name_are_forgotten_after_the_retention(store: Store) -> None:
    lives = [str(number) for number in range(2 * MAX_INCARNATIONS)]
    store.apply([created(life, 100.0 + number) for number, life in enumerate(lives)], NOW)
    until_done(store.prune, NOW + 31 * DAY + 1)

    outcomes = store.apply([interrupted(life, 5000.0) for life in lives], NOW + 32 * DAY).outcomes

    assert {type(outcome) for outcome in outcomes} == {Pending}


def test_the_ledger_sums_the_time_of_all_lives_of_a_name(opened: OpenedStore) -> None:
    lives = 3 * MAX_INCARNATIONS
    for number in range(lives):
        opened.store.apply([created(str(number), NOW + number)], NOW + number)

    rows = opened.ledger.week(NOW + lives)

    assert sum(row.instance_seconds for row in rows) == lives


def test_a_recently_interrupted_instance_is_remembered(store: Store) -> None:
    store.apply([created()], NOW)
    store.apply([interrupted()], NOW + 20 * DAY)
    until_done(store.prune, NOW + 40 * DAY)

    assert isinstance(store.apply([interrupted(at=7.0)], NOW + 40 * DAY).outcomes[0], Counted)


def test_pruning_is_done_in_slices(store: Store) -> None:
    many = range(SLICE + 1)
    store.apply([created(str(number), name=name(number)) for number in many], NOW)
    store.apply([interrupted(str(number), name=name(number)) for number in many], NOW)

    later = NOW + 31 * DAY + 1
    done = until_done(store.prune, later)

    assert len(done) > 1
    outcomes = store.apply([created(str(number), name=name(number)) for number in many], later).outcomes
    assert {type(outcome) for outcome in outcomes} == {Tracked}
    outcomes = store.apply([interrupted(str(number), name=name(number)) for number in many], later).outcomes
    assert {type(outcome) for outcome in outcomes} == {Counted}


def test_old_rows_are_found_behind_any_number_of_new_rows(store: Store) -> None:
    fresh: list[Event] = [created(str(number), name=name(number)) for number in range(2 * SLICE)]
    store.apply([created("1", name=name(99_999))], NOW)
    store.apply(fresh, NOW + 20 * DAY)

    until_done(store.prune, NOW + 32 * DAY)

    assert row_of(store).instances == 2 * SLICE


def test_an_idle_label_set_goes_with_its_cluster_and_histogram(reopen: Opener) -> None:
    store = reopen()
    store.apply([created(), interrupted()], NOW)
    store.apply([created("2", name=OTHER_NAME, node=LAB)], NOW + 20 * DAY)

    dropped = until_done(store.prune, NOW + 32 * DAY)[-1].removed

    assert set(dropped.label_sets) == {LABELS}
    assert set(dropped.clusters) == {"tills"}
    assert set(dropped.lifetimes) == {("tills", "e2-standard-8")}
    for again in (store.state, lambda: reopen().state()):
        assert set(again().totals.clusters) == {"lab", UNKNOWN}


def test_unknown_is_never_dropped(store: Store) -> None:
    store.apply([interrupted(name=InstanceName(UNKNOWN, UNKNOWN, "x"))], NOW)
    store.expire(NOW + GRACE)
    until_done(store.prune, NOW + 99 * DAY)

    assert interruptions(store) == {UNKNOWN: 1}


# holding


def test_new_rows_are_held_until_they_are_released(reopen: Opener) -> None:
    store = reopen(hold=True)
    store.apply([created(), interrupted(), created("2", name=OTHER_NAME, node=LAB)], NOW)
    rows = Totals(
        {LABELS: row_of(store), LABELS._replace(zone="gone"): row_of(store)},
        {"tills": store.state().totals.clusters["tills"]},
        {("tills", "e2-standard-8"): LifetimeTotals("tills", "e2-standard-8")},
    )

    changed = store.release_held(rows, NOW).changed

    assert all(row.released for row in changed.label_sets.values())
    for again in (store.state, lambda: reopen(hold=True).state()):
        totals = again().totals
        assert {key for key, row in totals.label_sets.items() if row.released} == {LABELS}
        assert {key for key, row in totals.clusters.items() if row.released} == {"tills"}
        assert {key for key, row in totals.lifetimes.items() if row.released} == {("tills", "e2-standard-8")}
        assert totals.label_sets[LABELS].interruptions == 1


def test_no_row_is_held_without_a_hold(store: Store) -> None:
    store.apply([created(), interrupted()], NOW)
    totals = store.state().totals

    assert all(row.released for row in totals.label_sets.values())
    assert all(row.released for row in totals.clusters.values())
    assert all(row.released for row in totals.lifetimes.values())


# counters that begin at 0


def test_reset_totals_keeps_everything_but_the_counters(reopen: Opener) -> None:
    store = reopen()
    store.apply([created("1"), interrupted("1"), created("2", 2000), interrupted("9")], NOW)
    store.accrue_instance_seconds(NOW)
    store.accrue_instance_seconds(NOW + 60)

    store = reopen(reset_totals=True)

    for again in (store.state, lambda: reopen().state()):
        remembered = again()
        totals = remembered.totals
        assert totals.label_sets[LABELS] == LabelSetTotals(
            LABELS, instances=1, changed_at=NOW + 60, released=True
        )
        assert totals.clusters["tills"] == ClusterTotals("tills", 0, 1000.0, NOW, released=True)
        assert totals.lifetimes["tills", "e2-standard-8"] == LifetimeTotals(
            "tills", "e2-standard-8", changed_at=NOW, released=True
        )
        assert remembered.pending == 1
    assert isinstance(reopen().apply([interrupted("1")], NOW).outcomes[0], Duplicate)


def test_after_a_reset_only_the_time_since_then_adds_instance_seconds(reopen: Opener) -> None:
    store = reopen()
    store.apply([created()], NOW)
    store.accrue_instance_seconds(NOW)

    store = reopen(reset_totals=True)
    lived = []
    for elapsed in (600, 660):
        store.accrue_instance_seconds(NOW + elapsed)
        lived.append(store.state().totals.label_sets[LABELS].instance_seconds)
    store = reopen()
    store.accrue_instance_seconds(NOW + 720)
    lived.append(store.state().totals.label_sets[LABELS].instance_seconds)

    assert lived == [0, 60, 120]


def test_a_new_store_can_begin_at_zero_too(open_again: Opener) -> None:
    store = open_again(reset_totals=True)

    assert set(store.state().totals.clusters) == {UNKNOWN}


# limits


def test_the_limit_of_label_sets_holds_across_batches(open_again: Opener) -> None:
    store = open_again(rules=replace(RULES, max_label_sets=1))
    store.apply([created("1")], NOW)
    applied = store.apply([created("2", name=OTHER_NAME, node=LAB), interrupted("2", name=OTHER_NAME)], NOW)

    assert applied.overflowed == 2
    assert interruptions(store) == {OTHER: 1}


def test_an_overflowed_instance_stays_under_other_when_there_is_room(reopen: Opener) -> None:
    store = reopen(rules=Rules(max_label_sets=1))
    store.apply([created("1"), created("2", name=OTHER_NAME, node=LAB)], NOW)
    store = reopen()
    store.apply([interrupted("2", name=OTHER_NAME), created("3", name=name(3), node=LAB)], NOW)
    store.apply([interrupted("3", name=name(3))], NOW)

    assert interruptions(store) == {OTHER: 1, "lab": 1}


# a project's number


def test_an_instance_recorded_under_a_number_is_found_under_the_id(store: Store) -> None:
    store.apply([created(name=NUMBERED), interrupted()], NOW)
    assert store.state().pending == 1

    applied = store.apply([TEACHES], NOW + 1)

    assert applied.released == {"creation": 1}
    assert interruptions(store) == {"tills": 1}
    assert row_of(store, LABELS._replace(project="123456789")).instances == 0
    assert row_of(store, LABELS._replace(project="123456789")).created == 1
    assert row_of(store).instances == 1  # the teacher's


def test_a_number_is_translated_from_then_on(store: Store) -> None:
    store.apply([TEACHES], NOW)

    assert store.apply([created(name=NUMBERED)], NOW).outcomes == [Tracked(NAME, TILLS)]


def test_a_number_is_translated_after_a_restart(reopen: Opener) -> None:
    reopen().apply([TEACHES], NOW)

    assert reopen().apply([created(name=NUMBERED)], NOW).outcomes == [Tracked(NAME, TILLS)]


def test_a_number_is_translated_for_all_of_the_batch_that_teaches_it(store: Store) -> None:
    store.apply([created(name=NUMBERED), TEACHES, interrupted()], NOW)

    assert set(store.state().totals.label_sets) == {LABELS, UNKNOWN_LABELS}


def test_a_number_that_begins_another_moves_only_its_own(store: Store) -> None:
    longer = NUMBERED._replace(project="1234567890")
    store.apply([created(name=longer)], NOW)
    store.apply([TEACHES], NOW)

    assert row_of(store, LABELS._replace(project="1234567890")).instances == 1


def test_an_interruption_that_expired_under_a_number_is_completed_under_the_id(store: Store) -> None:
    store.apply([interrupted(name=NUMBERED)], NOW)
    store.expire(NOW + GRACE)
    store.apply([TEACHES], NOW + GRACE)

    assert isinstance(store.apply([created()], NOW + GRACE).outcomes[0], Tracked)
    assert row_of(store).instances == 1  # the teacher's
    assert interruptions(store) == {UNKNOWN: 1}


# listings


def test_a_listing_is_recorded(store: Store) -> None:
    store.apply([interrupted("2", name=name(2))], NOW)
    store.begin_listing(NAME.project, NOW)

    applied = store.record_listed(
        NAME.project, NOW, [listed("1", name=name(1)), listed("2", name=name(2))], NOW
    )

    assert (applied.pending, applied.released) == (0, {"inventory": 1})
    assert [(counted.id, counted.age) for counted in applied.counted] == [("2", 900.0)]
    assert applied.changed.label_sets[LABELS].instances == 1
    assert store.state().totals.label_sets[LABELS] == applied.changed.label_sets[LABELS]


def test_an_instance_missing_from_a_complete_listing_has_ended(store: Store) -> None:
    list_fleet(store, [listed("1"), listed("2", name=OTHER_NAME)], NOW)

    (applied,) = list_fleet(store, [listed("1")], NOW + 600)

    assert applied.changed.label_sets[LABELS].instances == 1
    (counted,) = store.apply([interrupted("2", name=OTHER_NAME)], NOW + 700).counted
    assert counted.age == 900.0
    assert living(store) == 1


def test_a_listing_that_is_not_ended_ends_nothing(store: Store) -> None:
    store.apply([created("1"), created("2", name=OTHER_NAME)], NOW)
    name_all(store, [listed("1")], NOW + 600)

    assert living(store) == 2


def test_a_listing_begins_without_ids(store: Store) -> None:
    store.apply([created("1"), created("2", name=OTHER_NAME)], NOW)
    name_all(store, [listed("1")], NOW + 600)
    list_fleet(store, [listed("2", name=OTHER_NAME)], NOW + 1200)

    store.apply([interrupted("2", name=OTHER_NAME)], NOW + 1300)
    assert living(store) == 0


def test_an_empty_fleet_is_a_fleet(store: Store) -> None:
    store.apply([created()], NOW)
    list_fleet(store, [], NOW + 600)

    assert living(store) == 0
    assert store.state().listed == {NAME.project: NOW + 600}


def test_unread_zones_keep_what_was_known(store: Store) -> None:
    elsewhere = NAME._replace(zone="europe-west1-c")
    store.apply([created("1"), created("2", name=elsewhere)], NOW)

    list_fleet(store, [], NOW + 600, unread_zones=[elsewhere.zone])

    assert row_of(store).instances == 0
    assert row_of(store, LABELS._replace(zone=elsewhere.zone)).instances == 1


def test_an_instance_created_during_a_listing_has_not_ended(store: Store) -> None:
    store.apply([created("1")], NOW)
    name_all(store, [listed("1")], NOW + 600)
    store.apply([created("2", NOW + 601, name=OTHER_NAME)], NOW + 602)
    until_done(lambda now: store.end_listing(NAME.project, NOW + 600, (), now), NOW + 603)

    assert living(store) == 2


def test_an_instance_interrupted_during_a_listing_stays_ended(store: Store) -> None:
    store.begin_listing(NAME.project, NOW)
    store.apply([created("1"), interrupted("1", NOW + 1)], NOW + 1)
    store.record_listed(NAME.project, NOW, [listed("1")], NOW + 2)
    store.end_listing(NAME.project, NOW, (), NOW + 3)

    assert living(store) == 0


@pytest.mark.parametrize(
    ("one", "other"), [("shop", "shop-2"), ("a", "a0"), ("a", "a-"), ("x", "example.com:x"), ("a.", "a")]
)
def test_projects_are_listed_side_by_side(open_again: Opener, one: str, other: str) -> None:
    store = open_again()
    one_name, other_name = NAME._replace(project=one), NAME._replace(project=other)
    store.apply([created("1", name=one_name), created("2", name=other_name)], NOW)

    def gauges() -> tuple[int, int]:
        rows = [row_of(store, LABELS._replace(project=project)) for project in (one, other)]
        return rows[0].instances, rows[1].instances

    name_all(store, [listed("1", name=one_name)], NOW + 600, project=one)
    name_all(store, [listed("2", name=other_name)], NOW + 601, project=other)
    store.end_listing(one, NOW + 600, (), NOW + 602)
    assert gauges() == (1, 1)
    store.end_listing(other, NOW + 601, (), NOW + 603)
    assert gauges() == (1, 1)
    assert store.state().listed == {one: NOW + 600, other: NOW + 601}

    list_fleet(store, [], NOW + 1200, project=one)
    assert gauges() == (0, 1)
    list_fleet(store, [listed("1", name=one_name)], NOW + 1800, project=one)
    list_fleet(store, [], NOW + 1801, project=other)
    assert gauges() == (1, 0)


def test_a_listing_ends_in_slices(store: Store) -> None:
    fleet = [listed(str(number), name=name(number)) for number in range(2 * SLICE + 1)]
    list_fleet(store, fleet, NOW)
    assert living(store) == len(fleet)

    done = list_fleet(store, fleet[:1], NOW + 600)

    assert len(done) > 1
    rows = [applied.changed.label_sets.get(LABELS) for applied in done]
    # How long a slice is, a store may choose: one may end nothing.
    living_after = [len(fleet), *(row.instances for row in rows if row is not None)]
    assert living_after[-1] == 1
    assert all(0 <= more - less <= SLICE + SLICE // 4 for more, less in pairwise(living_after))


def test_a_listing_counts_as_complete_once_its_last_slice_is_ended(store: Store) -> None:
    fleet = [listed(str(number), name=name(number)) for number in range(SLICE + SLICE // 2)]
    list_fleet(store, fleet, NOW)
    name_all(store, [], NOW + 600)

    assert store.end_listing(NAME.project, NOW + 600, (), NOW).more
    assert store.state().listed == {NAME.project: NOW}
    assert not store.end_listing(NAME.project, NOW + 600, (), NOW).more
    assert store.state().listed == {NAME.project: NOW + 600}


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "never-begun"])
def test_a_listing_that_is_not_under_way_is_refused(open_again: Opener, ended: bool) -> None:  # noqa: FBT001 - a row
    store = open_again()
    store.apply([created()], NOW)
    if ended:
        list_fleet(store, [listed()], NOW)

    with pytest.raises(StoreUnavailableError):
        store.record_listed(NAME.project, NOW, [listed("2", name=OTHER_NAME)], NOW)
    with pytest.raises(StoreUnavailableError):
        store.end_listing(NAME.project, NOW + 600, (), NOW)

    assert living(store) == 1


def test_the_last_complete_listing_is_remembered_across_a_restart(reopen: Opener) -> None:
    list_fleet(reopen(), [listed()], NOW)
    before = reopen().state()

    assert before.listed == {NAME.project: NOW}
    assert living(reopen()) == 1


def test_a_listing_does_not_outlive_a_restart(reopen: Opener) -> None:
    store = reopen()
    store.apply([created("1"), created("2", name=OTHER_NAME)], NOW)
    name_all(store, [listed("1")], NOW + 600)

    store = reopen()

    with pytest.raises(StoreUnavailableError):
        store.end_listing(NAME.project, NOW + 600, (), NOW + 601)
    assert living(store) == 2
    assert not store.state().listed


def test_a_slice_that_cannot_be_committed_leaves_nothing_behind(store: Store) -> None:
    store.begin_listing(NAME.project, NOW)
    before = store.state()
    unstorable = listed("2", name=OTHER_NAME, node=TILLS._replace(node_pool="\ud800"))

    with pytest.raises(ValueError, match="surrogates"):
        store.record_listed(NAME.project, NOW, [listed("1"), unstorable], NOW)

    assert store.state() == before


def test_instances_of_a_large_scale_down_are_found_by_their_late_interruptions(store: Store) -> None:
    fleet = [listed(str(number), name=name(number)) for number in range(1000)]
    list_fleet(store, fleet, NOW)
    list_fleet(store, fleet[::10], NOW + 600)
    assert living(store) == 100

    late = [interrupted(str(number), NOW, name=name(number)) for number in range(1000) if number % 20]
    counted = store.apply(late, NOW + 700).counted

    assert {row.age for row in counted} == {NOW - 100}
    assert interruptions(store) == {"tills": 950}
    assert sum(store.state().totals.lifetimes["tills", TILLS.machine_type].buckets) == 950
    assert living(store) == 50


def test_the_gauge_is_the_number_of_live_instances_after_many_listings(store: Store) -> None:
    fleet = [listed(str(number), name=name(number), node=(TILLS, LAB)[number % 2]) for number in range(600)]
    store.apply([created(str(number), name=name(number)) for number in range(0, 600, 3)], NOW)
    list_fleet(store, fleet, NOW)
    store.apply([interrupted(str(number), NOW, name=name(number)) for number in range(100)], NOW + 60)
    list_fleet(store, fleet[:300], NOW + 600)
    list_fleet(store, [replace(one, started_at=NOW + 900) for one in fleet[50:150]], NOW + 1200)

    gauge = {row.labels.cluster: row.instances for row in store.state().totals.label_sets.values()}
    assert gauge == {"tills": 50, "lab": 50, UNKNOWN: 0}


def test_a_listed_start_is_kept_when_the_projects_number_is_learnt(store: Store) -> None:
    store.apply([created(name=NUMBERED), interrupted(at=1000)], NOW)
    list_fleet(store, [listed(started_at=2000)], NOW)
    store.apply([TEACHES], NOW + 1)

    (counted,) = store.apply([interrupted(at=1500)], NOW + 2).counted

    assert counted.age is None
    assert row_of(store).instances == 1  # the listing did not name the teacher
    assert store.apply([interrupted(at=2500)], NOW + 3).counted[0].age == 500.0


# creations that a newer listing did not name


def test_a_creation_that_a_newer_listing_did_not_name_is_tracked_and_not_alive(store: Store) -> None:
    list_fleet(store, [], NOW)
    backlog = [created(str(number), NOW - 6 * 3600, name=name(number)) for number in range(50)]

    outcomes = store.apply(backlog, NOW + 1).outcomes

    assert all(isinstance(outcome, Tracked) for outcome in outcomes)
    assert (living(store), row_of(store).created) == (0, 50)
    list_fleet(store, [listed("7", NOW - 6 * 3600, name=name(7))], NOW + 600)
    assert living(store) == 1


def test_an_instance_created_shortly_before_a_listing_is_alive(store: Store) -> None:
    list_fleet(store, [], NOW)

    store.apply([created("1", NOW - 60), created("2", NOW + 1, name=OTHER_NAME)], NOW + 1)

    assert living(store) == 2


def test_an_incomplete_listing_says_nothing_about_a_creation(store: Store) -> None:
    list_fleet(store, [], NOW, unread_zones=["europe-west1-c"])
    name_all(store, [], NOW + 10)

    store.apply([created("1", NOW - 3600)], NOW + 11)

    assert living(store) == 1


def test_the_newest_complete_listing_outlives_a_restart_and_an_incomplete_one(reopen: Opener) -> None:
    list_fleet(reopen(), [], NOW)
    list_fleet(reopen(), [], NOW + 600, unread_zones=["europe-west1-c"])
    store = reopen()

    store.apply([created("1", NOW - 100), created("2", NOW + 500, name=OTHER_NAME)], NOW + 700)

    assert living(store) == 1


# what listings confirm, and what they do not


def test_a_listed_instance_is_not_forgotten(store: Store) -> None:
    store.apply([created("1"), created("2", name=OTHER_NAME)], NOW)
    terminated = listed("3", name=name(3), alive=False)
    for day in range(41):
        list_fleet(store, [listed("1"), terminated], NOW + day * DAY)
        until_done(store.prune, NOW + day * DAY)

    assert living(store) == 1
    late = [interrupted("1"), interrupted("3", name=name(3)), interrupted("2", name=OTHER_NAME)]
    outcomes = store.apply(late, NOW + 41 * DAY).outcomes
    assert [type(outcome) for outcome in outcomes] == [Counted, Counted, Pending]


def test_an_instance_that_a_listing_ended_is_forgotten_after_the_retention(store: Store) -> None:
    store.apply([created("1"), created("2", name=OTHER_NAME)], NOW)
    list_fleet(store, [], NOW + 20 * DAY)

    until_done(store.prune, NOW + 50 * DAY)
    assert isinstance(store.apply([interrupted("1")], NOW + 50 * DAY).outcomes[0], Counted)
    until_done(store.prune, NOW + 52 * DAY)
    assert isinstance(store.apply([interrupted("2", name=OTHER_NAME)], NOW + 52 * DAY).outcomes[0], Pending)


def test_a_listed_instance_is_not_forgotten_by_the_shortest_retention(open_again: Opener) -> None:
    store = open_again(rules=replace(RULES, retention_seconds=DAY))
    for minutes in range(0, 3 * 24 * 60, 10):
        now = NOW + minutes * 60
        until_done(store.prune, now)
        assert living(store) == min(minutes, 1)
        list_fleet(store, [listed()], now)
