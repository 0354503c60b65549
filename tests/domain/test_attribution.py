from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any, Final

import pytest

from app.domain.attribution import IGNORED_NO_CLUSTER_LABEL, decide
from app.domain.changes import AddPending, Decision, Known, ReleasePending, Rules
from app.domain.events import (
    UNKNOWN,
    UNKNOWN_NODE,
    Event,
    InstanceCreated,
    InstanceInterrupted,
    InterruptionDetails,
    Node,
)
from app.domain.failures import IGNORED_FAILED_INSERT
from app.domain.instances import Instance, Kind, PendingInterruption
from app.domain.interruptions import IGNORED_NOT_A_NODE, expire
from app.domain.outcomes import Counted, Duplicate, Outcome, Pending, Tracked
from tests.support.examples import (
    GRACE,
    LAB,
    NAME,
    NOW,
    OTHER_NAME,
    TILLS,
    Result,
    Simulator,
    created,
    failed,
    interrupted,
    listed,
)

END_OF_GRACE: Final = None
NOT_OURS: Final = created(node=None, spot=None)


def simulate(simulator: Simulator, story: Sequence[Event | None]) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for event in story:
        outcomes += simulator.end_grace() if event is END_OF_GRACE else simulator.apply(event)
    return outcomes


def result_of(story: Sequence[Event | None]) -> Result:
    simulator = Simulator()
    simulate(simulator, story)
    return simulator.result


ONE: Final = {"tills": 1}
TWO: Final = {"tills": 2}
LOST: Final = {UNKNOWN: 1}


@pytest.mark.parametrize(
    ("story", "result"),
    [
        pytest.param([created()], Result(created=1, living=frozenset("1")), id="creation-lives"),
        pytest.param([created(spot=None)], Result(), id="creation-without-spot-changes-no-series"),
        pytest.param([created(spot=False)], Result(), id="on-demand-changes-no-series"),
        pytest.param([created(), interrupted()], Result(ONE, created=1), id="interruption-counts-and-ends"),
        # exactly once
        pytest.param([created(), created()], Result(created=1, living=frozenset("1")), id="creation-twice"),
        pytest.param(
            [created(), interrupted(), interrupted()], Result(ONE, created=1), id="interruption-twice"
        ),
        pytest.param(
            [interrupted(), interrupted(), created(), interrupted()],
            Result(ONE, created=1),
            id="interruption-twice-while-pending-and-after",
        ),
        pytest.param(
            [created(), interrupted(), created()],
            Result(ONE, created=1),
            id="redelivered-creation-does-not-revive",
        ),
        pytest.param(
            [created(), interrupted(at=1000), interrupted(at=2000)],
            Result(TWO, created=1),
            id="same-vm-preempted-again-counts-again",
        ),
        # Spot is proven by an interruption
        pytest.param([created(spot=None), interrupted()], Result(ONE, created=1), id="proven-spot-after"),
        pytest.param([interrupted(), created(spot=None)], Result(ONE, created=1), id="proven-spot-before"),
        pytest.param(
            [created(spot=False), interrupted()],
            Result(ONE, created=1),
            id="proven-spot-after-a-creation-without-spot",
        ),
        pytest.param(
            [interrupted(), END_OF_GRACE, created(spot=None)],
            Result(LOST, created=1),
            id="proven-spot-by-an-expired-interruption",
        ),
        # order
        pytest.param([interrupted()], Result(pending=1), id="unknown-instance-is-pending"),
        pytest.param([interrupted(), created()], Result(ONE, created=1), id="creation-releases"),
        pytest.param([interrupted(), END_OF_GRACE], Result(LOST), id="expired-counts-as-unknown"),
        pytest.param(
            [interrupted(), END_OF_GRACE, created()],
            Result(LOST, created=1),
            id="late-creation-moves-no-counter",
        ),
        pytest.param(
            [interrupted(), END_OF_GRACE, created(), interrupted()],
            Result(LOST, created=1),
            id="redelivered-after-the-grace-period",
        ),
        pytest.param(
            [interrupted(), created(name=OTHER_NAME)],
            Result(created=1, living=frozenset("1"), pending=1),
            id="another-name-does-not-release",
        ),
        pytest.param(
            [interrupted(at=1000), interrupted(at=2000), created()],
            Result(TWO, created=1),
            id="creation-releases-all-of-its-interruptions",
        ),
        # names are reused
        pytest.param(
            [created("1"), created("2", 2000)],
            Result(created=2, living=frozenset("2")),
            id="newer-ends-older",
        ),
        pytest.param(
            [created("2", 2000), created("1")],
            Result(created=2, living=frozenset("2")),
            id="late-older-incarnation-is-ended",
        ),
        pytest.param(
            [created("1"), created("2", 2000), interrupted("1")],
            Result(ONE, created=2, living=frozenset("2")),
            id="late-interruption-of-the-older-does-not-end-the-newer",
        ),
        pytest.param(
            [created("1"), interrupted("2")],
            Result(created=1, living=frozenset("1"), pending=1),
            id="unknown-id-of-a-known-name-is-pending",
        ),
        pytest.param(
            [created("1"), interrupted("2"), END_OF_GRACE],
            Result(ONE, created=1, living=frozenset("1")),
            id="unknown-id-takes-the-nearest-labels-and-ends-no-instance",
        ),
        pytest.param(
            [created("1"), interrupted("2"), END_OF_GRACE, created("2", 900, node=LAB)],
            Result(ONE, created=2),
            id="late-creation-of-the-interrupted-newer-is-ended-and-ends-the-older",
        ),
        pytest.param(
            [created("1"), interrupted("2"), created("2", 900)],
            Result(ONE, created=2),
            id="creation-of-the-interrupted-newer-ends-the-older",
        ),
        pytest.param(
            [created(at=1000), interrupted(at=999)],
            Result(ONE, created=1),
            id="an-id-identifies-even-if-clocks-differ",
        ),
        # without an id
        pytest.param([created(), interrupted("")], Result(ONE, created=1), id="no-id-belongs-to-the-living"),
        pytest.param([created(""), interrupted("")], Result(ONE, created=1), id="both-without-id"),
        pytest.param(
            [interrupted(""), created("")], Result(ONE, created=1), id="both-without-id-other-order"
        ),
        pytest.param(
            [interrupted(""), END_OF_GRACE, created("")], Result(LOST, created=1), id="no-id-late-creation"
        ),
        pytest.param(
            [interrupted(""), END_OF_GRACE, created("1")],
            Result(LOST, created=1),
            id="no-id-late-creation-with-an-id",
        ),
        pytest.param(
            [interrupted("", 50), created("1", 100)],
            Result(ONE, created=1, living=frozenset("1")),
            id="no-id-before-the-creation-counts-and-ends-no-instance",
        ),
        pytest.param(
            [interrupted("", 50), END_OF_GRACE, created("1", 100)],
            Result(LOST, created=1, living=frozenset("1")),
            id="no-id-long-before-the-creation-belongs-to-another-incarnation",
        ),
        pytest.param(
            [created("1"), created("2", 2000, node=LAB), interrupted("", 1000)],
            Result(ONE, created=2, living=frozenset("2")),
            id="no-id-belongs-to-the-incarnation-alive-at-its-timestamp",
        ),
        pytest.param(
            [created("1", node=LAB), interrupted("1", 500), created("2", 2000), interrupted("", 600)],
            Result({"lab": 1, "tills": 1}, created=2, living=frozenset("2")),
            id="no-id-while-none-is-alive-belongs-to-the-newest",
        ),
        pytest.param(
            [created("", operation="op"), created("2", 2000), interrupted("2", 3000)],
            Result(ONE, created=2),
            id="creation-with-an-id-ends-an-older-one-without-id",
        ),
        # failed inserts
        pytest.param([created(), failed()], Result(created=1, failed=1), id="failure-ends"),
        pytest.param([failed(), created()], Result(created=1, failed=1), id="failure-first"),
        pytest.param([created(), failed(), failed()], Result(created=1, failed=1), id="failure-twice"),
        pytest.param(
            [failed(), created(), failed(), created()], Result(created=1, failed=1), id="failure-twice-first"
        ),
        pytest.param([created(spot=None), failed()], Result(), id="failure-of-an-instance-not-known-as-spot"),
        pytest.param([failed()], Result(), id="failure-without-a-creation"),
        pytest.param([failed("", operation="")], Result(), id="failure-without-id-and-operation"),
        pytest.param(
            [created(operation="op"), failed("", operation="op")],
            Result(created=1, failed=1),
            id="failure-matched-by-operation",
        ),
        pytest.param(
            [failed("", operation="op"), created(operation="op")],
            Result(created=1, failed=1),
            id="failure-matched-by-operation-first",
        ),
        pytest.param(
            [failed("1", operation="op"), created("", operation="op")],
            Result(created=1, failed=1),
            id="failure-first-of-a-creation-without-id",
        ),
        pytest.param(
            [created(operation=""), failed(operation="op")],
            Result(created=1, failed=1),
            id="failure-matched-by-id",
        ),
        pytest.param(
            [created(), failed("", operation="another")],
            Result(created=1, living=frozenset("1")),
            id="another-operations-failure",
        ),
        pytest.param(
            [created(), failed(operation="another")],
            Result(created=1, living=frozenset("1")),
            id="another-operations-failure-under-its-id",
        ),
        pytest.param(
            [created(), failed(operation="")],
            Result(created=1, living=frozenset("1")),
            id="failure-without-operation-of-a-creation-with-operation",
        ),
        pytest.param(
            [created(operation=""), failed(operation="")],
            Result(created=1, failed=1),
            id="both-without-operation",
        ),
        pytest.param(
            [interrupted(), END_OF_GRACE, failed(operation="another"), created()],
            Result(LOST, created=1),
            id="another-operations-failure-of-an-interrupted-instance",
        ),
        pytest.param(
            [created("1"), failed("1"), created("2", 200), failed("2", 210), created("3", 300)],
            Result(created=3, failed=2, living=frozenset("3")),
            id="gke-tries-again-under-the-same-name",
        ),
        pytest.param(
            [created("3", 300), failed("1"), failed("2", 210), created("2", 200), created("1")],
            Result(created=3, failed=2, living=frozenset("3")),
            id="gke-tries-again-backwards",
        ),
        pytest.param(
            [created("1"), created("2", 200), failed("2", 210)],
            Result(created=2, failed=1),
            id="accepted-insert-ends-the-older-even-if-it-fails",
        ),
        pytest.param(
            [created("1"), failed("2", 210), created("2", 200)],
            Result(created=2, failed=1),
            id="accepted-insert-ends-the-older-even-if-it-has-failed",
        ),
        pytest.param(
            [created("2", 200), failed("2", 210), created("1")],
            Result(created=2, failed=1),
            id="accepted-insert-ends-the-older-that-comes-late",
        ),
        pytest.param(
            [created("1", node=LAB), failed("1"), interrupted("")],
            Result(created=1, failed=1, pending=1),
            id="no-id-never-belongs-to-a-failed-instance",
        ),
        # not a node
        pytest.param([NOT_OURS, interrupted()], Result(), id="not-a-node-is-never-counted"),
        pytest.param([interrupted(), NOT_OURS], Result(), id="not-a-node-releases-without-counting"),
        pytest.param(
            [interrupted("2"), created("1", node=None), END_OF_GRACE],
            Result(),
            id="not-a-node-nearest-is-not-counted",
        ),
        pytest.param(
            [created(), replace(NOT_OURS, key="again"), interrupted()],
            Result(ONE, created=1),
            id="a-node-stays-a-node",
        ),
        pytest.param(
            [NOT_OURS, replace(created(), key="again"), interrupted()],
            Result(ONE, created=1),
            id="a-plain-instance-can-become-a-node",
        ),
        pytest.param(
            [created("1"), created("2", 200, node=None)],
            Result(created=1),
            id="not-a-node-ends-an-older-node",
        ),
        pytest.param(
            [interrupted(), END_OF_GRACE, NOT_OURS],
            Result(LOST),
            id="counted-before-it-was-known-as-not-a-node",
        ),
    ],
)
def test_a_story_has_this_result(story: Sequence[Event | None], result: Result) -> None:
    assert result_of(story) == result


@pytest.mark.parametrize(
    ("story", "outcome"),
    [
        pytest.param([created()], Tracked(NAME, TILLS), id="tracked"),
        pytest.param([created(), created()], Duplicate(), id="duplicate-creation"),
        pytest.param([interrupted()], Pending("shop-prod"), id="pending"),
        pytest.param([interrupted(), interrupted()], Duplicate(), id="duplicate-of-a-pending-interruption"),
        pytest.param([created(), failed()], IGNORED_FAILED_INSERT, id="failed-insert"),
        pytest.param([failed()], IGNORED_FAILED_INSERT, id="failed-insert-without-a-creation"),
        pytest.param([NOT_OURS], IGNORED_NO_CLUSTER_LABEL, id="no-cluster-label"),
        pytest.param([NOT_OURS, NOT_OURS], IGNORED_NO_CLUSTER_LABEL, id="no-cluster-label-again"),
        pytest.param([NOT_OURS, interrupted()], IGNORED_NOT_A_NODE, id="not-a-node"),
        pytest.param([NOT_OURS, interrupted(), interrupted()], IGNORED_NOT_A_NODE, id="not-a-node-again"),
        pytest.param(
            [interrupted("2"), created("1", node=None), END_OF_GRACE],
            IGNORED_NOT_A_NODE,
            id="not-a-node-expired",
        ),
    ],
)
def test_the_last_outcome_is(story: Sequence[Event | None], outcome: Outcome) -> None:
    assert simulate(Simulator(), story)[-1] == outcome


AGAIN: Final = created(at=2000, operation="again")
AGAIN_FAILED: Final = failed(at=2010, operation="again")


@pytest.mark.parametrize(
    ("events", "result"),
    [
        pytest.param(
            [created(), failed(operation="another"), failed(operation="third")],
            Result(created=1, living=frozenset("1")),
            id="failures-of-other-operations-end-no-instance",
        ),
        pytest.param(
            [created(), failed(), failed(operation="another")],
            Result(created=1, failed=1),
            id="its-own-failure-among-others",
        ),
        pytest.param(
            [created(operation=""), failed(operation="another")],
            Result(created=1, failed=1),
            id="a-failure-belongs-to-the-id-whose-operation-is-not-known",
        ),
        pytest.param(
            [created(), failed(operation="")],
            Result(created=1, living=frozenset("1")),
            id="a-failure-without-operation-does-not-match-a-known-operation",
        ),
        pytest.param(
            [created(), AGAIN], Result(created=2, living=frozenset("1")), id="another-operation-starts-again"
        ),
        pytest.param(
            [created(), failed(), AGAIN],
            Result(created=2, failed=1, living=frozenset("1")),
            id="a-start-after-a-failed-start-lives",
        ),
        pytest.param(
            [created(), AGAIN, AGAIN_FAILED],
            Result(created=2, failed=1),
            id="the-later-start-fails",
        ),
        pytest.param(
            [created(), failed(), AGAIN, AGAIN_FAILED], Result(created=2, failed=2), id="both-starts-fail"
        ),
        pytest.param(
            [created(), AGAIN, failed("", operation="again")],
            Result(created=2, failed=1),
            id="the-later-start-fails-without-id",
        ),
        pytest.param(
            [created(), interrupted(at=1000), AGAIN],
            Result(ONE, created=2, living=frozenset("1")),
            id="an-interruption-before-the-later-start-ends-the-earlier",
        ),
        pytest.param(
            [created(), interrupted(at=3000), AGAIN],
            Result(ONE, created=2),
            id="an-interruption-after-the-later-start-ends-it",
        ),
        pytest.param(
            [created(), created("2", 1000), AGAIN],
            Result(created=3, living=frozenset("1")),
            id="a-later-start-ends-the-incarnation-between",
        ),
        pytest.param(
            [created(), AGAIN, created("2", 3000), AGAIN_FAILED],
            Result(created=3, failed=1, living=frozenset("2")),
            id="a-newer-incarnation-outlives-both-starts",
        ),
        pytest.param(
            [created(), AGAIN, created(at=3000, operation="third"), AGAIN_FAILED],
            Result(created=3, failed=1, living=frozenset("1")),
            id="three-starts",
        ),
    ],
)
def test_operations_are_distinguished_in_every_order_and_when_repeated(
    events: Sequence[Event], result: Result
) -> None:
    for story in permutations(events):
        assert result_of(story) == result, story
        assert result_of([*story, *story]) == result, story


def row(counted_as: str = "tills", age: float | None = 900.0, **changes: object) -> Counted:
    key = "interrupted gke-tills-spot-1 1 1000.0"
    details = InterruptionDetails()
    plain = Counted(
        key, 1000.0, NAME, "1", TILLS, counted_as, age, attributed=True, released_by=None, details=details
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("story", "counted"),
    [
        pytest.param([created(), interrupted()], row(), id="at-once"),
        pytest.param([interrupted(), created()], row(released_by="creation"), id="released"),
        pytest.param(
            [interrupted(), END_OF_GRACE],
            row(UNKNOWN, None, node=UNKNOWN_NODE, attributed=False, released_by="expiry"),
            id="expired",
        ),
        pytest.param(
            [interrupted(), END_OF_GRACE, created()],
            row(UNKNOWN, None, released_by="expiry"),
            id="completed-later-and-still-counted-as-unknown",
        ),
        pytest.param(
            [created("0", node=LAB), interrupted(), END_OF_GRACE],
            row("lab", None, node=LAB, attributed=False, released_by="expiry"),
            id="expired-with-another-incarnation",
        ),
        pytest.param(
            [created("0", node=LAB), interrupted(), END_OF_GRACE, created()],
            row("lab", None, released_by="expiry"),
            id="completed-later-and-still-counted-as-the-nearest",
        ),
        pytest.param(
            [interrupted(), END_OF_GRACE, NOT_OURS],
            row(UNKNOWN, None, node=UNKNOWN_NODE, attributed=False, released_by="expiry"),
            id="not-completed-by-a-plain-instance",
        ),
    ],
)
def test_the_ledger_has_this_row(story: Sequence[Event | None], counted: Counted) -> None:
    simulator = Simulator()
    simulate(simulator, story)

    assert simulator.ledger == [replace(counted, key=interrupted().key)]


@pytest.mark.parametrize(
    ("story", "node"),
    [
        pytest.param([created("1", 100, node=LAB), created("2", 2000)], LAB, id="nearest-before"),
        pytest.param([created("1", 100), created("2", 200, node=LAB)], LAB, id="nearest-of-two-before"),
        pytest.param([created("1", 2000), created("2", 3000, node=LAB)], LAB, id="otherwise-the-newest"),
        pytest.param([created("1", 100, node=LAB), failed("1")], LAB, id="also-a-failed-incarnation"),
        pytest.param([interrupted("8", 500), END_OF_GRACE], UNKNOWN_NODE, id="never-a-guess"),
        pytest.param([created(name=OTHER_NAME)], UNKNOWN_NODE, id="never-another-name"),
    ],
)
def test_an_expired_interruption_takes_the_labels_of_the_nearest_incarnation(
    story: Sequence[Event | None], node: Node
) -> None:
    simulator = Simulator()
    simulate(simulator, [*story, interrupted("9"), END_OF_GRACE])

    assert (simulator.ledger[-1].id, simulator.ledger[-1].node) == ("9", node)


@pytest.mark.parametrize(
    ("story", "age"),
    [
        pytest.param([created(at=100), interrupted(at=1000)], 900.0, id="since-the-creation"),
        pytest.param([interrupted(at=1000), created(at=100)], 900.0, id="released"),
        pytest.param([created(at=1000), interrupted(at=1000)], 0.0, id="zero"),
        pytest.param([created(at=1000), interrupted(at=999)], None, id="never-negative"),
        pytest.param([created(at=100), interrupted("", 1000)], 900.0, id="without-id"),
        pytest.param(
            [created(at=100), interrupted(at=1000), interrupted(at=5000)], 900.0, id="once-per-start"
        ),
        pytest.param(
            [interrupted(at=5000), interrupted(at=1000), created(at=100)], 900.0, id="the-earlier-of-two"
        ),
        pytest.param([created(at=100), AGAIN, interrupted(at=2500)], 500.0, id="since-the-later-start"),
        pytest.param(
            [AGAIN, created(at=100), interrupted(at=2500)], 500.0, id="since-the-later-start-delivered-first"
        ),
        pytest.param(
            [created(at=100), interrupted(at=1000), AGAIN, interrupted(at=2500)], 1400.0, id="of-two-starts"
        ),
        pytest.param([created(at=100), AGAIN, interrupted(at=1000)], None, id="never-of-a-later-start"),
        pytest.param(
            [created("1", 100), interrupted("1", 1000), created("2", 2000), interrupted("2", 2010)],
            910.0,
            id="once-per-incarnation",
        ),
        pytest.param([interrupted(), END_OF_GRACE, created()], None, id="expired"),
        pytest.param(
            [interrupted(), END_OF_GRACE, created(), interrupted(at=5000)],
            None,
            id="expired-and-preempted-again",
        ),
        pytest.param(
            [created("1"), interrupted("2"), END_OF_GRACE], None, id="not-of-the-nearest-incarnation"
        ),
    ],
)
def test_the_observed_lifetimes_have_this_sum(story: Sequence[Event | None], age: float | None) -> None:
    simulator = Simulator()
    simulate(simulator, story)

    assert simulator.ages.get("tills") == age


def test_an_interruption_before_the_last_start_counts_and_ends_nothing() -> None:
    started = Instance(
        NAME, "1", Kind.NODE, TILLS, NOW, spot=True, alive=True, created_at=100, started_at=2000
    )
    simulator = Simulator()
    simulator.batch.load((), [started], ())

    (outcome,) = simulator.apply(interrupted(at=1000))

    assert isinstance(outcome, Counted)
    assert outcome.age is None
    assert simulator.instance().alive
    assert not simulator.instance().lifetime_observed


@pytest.mark.parametrize("flag", ["announced", "failed", "lifetime_observed", "overflowed", "deleted"])
def test_an_interruption_leaves_the_other_facts_of_its_incarnation(flag: str) -> None:
    set_flag: dict[str, Any] = {flag: True}
    before = Instance(
        NAME, "1", Kind.NODE, TILLS, 300, alive=True, operation="op", created_at=100, started_at=200
    )._replace(**set_flag)
    simulator = Simulator()
    simulator.batch.load((), [before], ())

    simulator.apply(interrupted(at=1000))

    assert simulator.instance() == before._replace(
        recorded_at=NOW, spot=True, alive=False, lifetime_observed=True, interrupted_at=1000, ended_at=1000
    )


def test_a_lifetime_begins_at_the_last_start() -> None:
    started = Instance(
        NAME, "1", Kind.NODE, TILLS, NOW, spot=True, alive=True, created_at=100, started_at=2000
    )
    simulator = Simulator()
    simulator.batch.load((), [started], ())

    assert simulator.apply(interrupted(at=2500))[0] == row(at=2500, age=500, key=interrupted(at=2500).key)
    assert not simulator.instance().alive


def test_a_pending_interruption_of_a_known_instance_is_counted_at_the_end_of_its_grace_period() -> None:
    instance = Instance(NAME, "1", Kind.NODE, TILLS, NOW, spot=True, alive=True, created_at=100)

    decision = expire(PendingInterruption(interrupted(), NOW), Known(incarnations={"1": instance}), NOW)

    assert decision.outcome == row(released_by="expiry", key=interrupted().key)


def test_an_interruption_is_pending_for_the_grace_period() -> None:
    pending = PendingInterruption(interrupted(), NOW + GRACE)

    changes = decide(interrupted(), Known(), Rules(), NOW, NOW + GRACE).changes

    assert [change for change in changes if isinstance(change, AddPending)] == [AddPending(pending)]


def test_an_expired_interruption_stores_an_ended_incarnation() -> None:
    simulator = Simulator()
    simulate(simulator, [created("1"), interrupted("2"), END_OF_GRACE])

    stub = simulator.instance("2")

    assert (stub.kind, stub.alive, stub.ended_at, stub.lifetime_observed) == (
        Kind.UNDESCRIBED,
        False,
        1000.0,
        True,
    )


def test_an_ended_instance_is_recorded_by_the_exporters_clock() -> None:
    simulator = Simulator()
    simulator.apply(created("1", at=-5.0), created("2", at=4e9), interrupted("2", at=9e9))

    assert {instance.recorded_at for instance in map(simulator.instance, "12")} == {NOW}


@pytest.mark.parametrize("event", [created(), interrupted()], ids=["creation", "interruption"])
def test_a_duplicate_only_renews_its_key(
    event: InstanceCreated | InstanceInterrupted,
) -> None:
    instance = Instance(NAME, "1", Kind.NODE, TILLS, NOW, alive=True)
    known = Known(seen=True, incarnations={"1": instance})
    simulator = Simulator()
    simulator.batch.load([event.key], [instance], ())

    assert decide(event, known, Rules(), NOW, NOW) == Decision(Duplicate(), [])
    assert simulator.apply(event) == [Duplicate()]
    assert simulator.batch.event_keys == {event.key: True}


def test_an_ignored_event_stores_no_key() -> None:
    simulator = Simulator()

    assert simulator.apply(NOT_OURS, interrupted()) == [IGNORED_NO_CLUSTER_LABEL, IGNORED_NOT_A_NODE]
    assert simulator.batch.event_keys == {}


@pytest.mark.parametrize("spot", [True, None, False])
def test_a_creation_ensures_the_series_that_it_may_change(spot: bool | None) -> None:  # noqa: FBT001 - a row
    simulator = Simulator()
    simulator.apply(created(spot=spot))

    assert set(simulator.totals.changed.clusters) == {"tills"}
    assert bool(simulator.totals.changed.label_sets) == (spot is not False)


def test_a_pending_interruption_ensures_the_series_of_unknown() -> None:
    simulator = Simulator()
    simulator.apply(interrupted())

    assert {labels.cluster for labels in simulator.totals.changed.label_sets} == {UNKNOWN}
    assert set(simulator.totals.changed.clusters) == {UNKNOWN}


def test_released_interruptions_are_counted_in_the_order_of_their_times() -> None:
    pending = [PendingInterruption(interrupted(at=at), NOW) for at in (3000.0, 1000.0, 2000.0)]

    changes = decide(created(), Known(pending=pending), Rules(), NOW, NOW).changes

    assert [change.key for change in changes if isinstance(change, ReleasePending)] == [
        interrupted(at=at).key for at in (1000.0, 2000.0, 3000.0)
    ]


def test_a_later_id_replaces_a_missing_id() -> None:
    simulator = Simulator()
    simulate(simulator, [interrupted(""), END_OF_GRACE, created("1")])

    identities = {identity: kept is not None for (_, identity), kept in simulator.batch.instances.items()}

    assert identities == {f"~{interrupted('').key}": False, "1": True}
    assert simulator.ledger[0].node == TILLS


# a stock-out that goes on


STOCK_OUT: Final = [
    event
    for number in range(50)
    for event in (created(f"{number}", 100.0 + number), failed(f"{number}", 1e5))
]


@pytest.mark.parametrize(
    "story",
    [
        pytest.param(STOCK_OUT, id="in-order"),
        pytest.param(STOCK_OUT[::-1], id="backwards"),
        pytest.param(STOCK_OUT * 2, id="twice"),
        pytest.param([*STOCK_OUT[::2], *STOCK_OUT[1::2]], id="failures-late"),
        pytest.param([*STOCK_OUT[1::2], *STOCK_OUT[::2]], id="failures-first"),
    ],
)
def test_failed_creations_count_once_each_and_only_the_newest_are_stored(story: Sequence[Event]) -> None:
    simulator = Simulator()
    simulate(simulator, story)
    described = [one for one in simulator.batch.instances.values() if one is not None and one.announced]

    assert simulator.creations == (50, 50)
    assert len(described) <= 20


def test_a_creation_that_succeeds_after_many_failures_lives() -> None:
    simulator = Simulator()
    simulate(simulator, [*STOCK_OUT, created("last", 1000.0)])

    assert simulator.living == {"last"}


def test_only_the_newest_failed_creations_of_a_plain_instance_are_stored() -> None:
    simulator = Simulator()
    simulate(
        simulator,
        [replace(event, node=None) if isinstance(event, InstanceCreated) else event for event in STOCK_OUT],
    )

    assert len([one for one in simulator.batch.instances.values() if one is not None]) <= 20


def test_a_late_creation_of_an_earlier_start_ends_nothing_that_a_listing_saw_restarted() -> None:
    simulator = Simulator()
    simulator.apply(replace(created("1", 200.0), key="second", operation="op-second"))
    simulator.apply(interrupted("1", 300.0))
    simulator.observe_listed(listed("1", 100.0, started_at=400.0), began=500.0)
    assert simulator.instance("1").alive

    simulator.apply(replace(created("1", 100.0), key="first", operation="op-first"))

    assert simulator.instance("1").alive
