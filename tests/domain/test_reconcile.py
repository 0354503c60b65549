from collections.abc import Sequence
from typing import Final, TypeAlias

import pytest

from app.domain.changes import Change, EnsureSeries, Known, StoreInstance
from app.domain.events import UNKNOWN, UNKNOWN_NODE, Event, Listed, Node
from app.domain.instances import Instance, Kind, PendingInterruption
from app.domain.interruptions import IGNORED_NOT_A_NODE
from app.domain.outcomes import Counted, Tracked
from app.domain.reconcile import may_end_unlisted, observe_listed, observe_missing
from tests.support.examples import (
    DAY,
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
BEGAN: Final = 1500.0
"""Start of the listings of these stories: after an interruption at 1000, before the events at 2000."""

Scene: TypeAlias = Event | Listed | None


def simulate(story: Sequence[Scene]) -> Simulator:
    simulator = Simulator()
    for scene in story:
        if scene is END_OF_GRACE:
            simulator.end_grace()
        elif isinstance(scene, Listed):
            simulator.observe_listed(scene, began=BEGAN)
        else:
            simulator.apply(scene)
    return simulator


ONE: Final = {"tills": 1}
TWO: Final = {"tills": 2}
LOST: Final = {UNKNOWN: 1}
LIVES: Final = frozenset("1")
STARTED_AGAIN: Final = listed(started_at=1200)
TERMINATED: Final = listed(alive=False)
PLAIN_VM: Final = listed(node=None)


@pytest.mark.parametrize(
    ("story", "result"),
    [
        # unknown instances are stored
        pytest.param([listed()], Result(living=LIVES), id="stored-and-not-counted-as-a-creation"),
        pytest.param([listed(), listed()], Result(living=LIVES), id="stored-once"),
        pytest.param([TERMINATED], Result(), id="stored-and-not-alive"),
        pytest.param([listed(spot=False)], Result(), id="on-demand-changes-no-series"),
        pytest.param([PLAIN_VM], Result(), id="not-a-node-changes-no-series"),
        pytest.param([listed(), interrupted()], Result(ONE), id="interruption-of-a-listed-instance"),
        pytest.param([TERMINATED, interrupted()], Result(ONE), id="interruption-of-a-terminated-instance"),
        pytest.param([listed(spot=False), interrupted()], Result(ONE), id="proven-spot"),
        # creations
        pytest.param([listed(), created()], Result(created=1, living=LIVES), id="creation-after-counts"),
        pytest.param(
            [listed(), created(), created()], Result(created=1, living=LIVES), id="creation-after-counts-once"
        ),
        pytest.param(
            [created(), listed()], Result(created=1, living=LIVES), id="creation-before-counts-once"
        ),
        pytest.param(
            [created(spot=None), listed()], Result(created=1, living=LIVES), id="listing-proves-it-spot"
        ),
        pytest.param([TERMINATED, created()], Result(created=1), id="creation-after-does-not-revive"),
        pytest.param(
            [listed(), interrupted(), created()],
            Result(ONE, created=1),
            id="creation-after-an-interruption-does-not-revive",
        ),
        pytest.param([listed(), failed()], Result(), id="failed-insert-ends-a-listed-instance"),
        pytest.param([listed(), failed(), created()], Result(created=1, failed=1), id="failed-and-announced"),
        pytest.param(
            [listed(), failed(operation="another"), created()],
            Result(created=1, living=LIVES),
            id="failed-by-another-operation",
        ),
        pytest.param(
            [failed("", operation="insert-1"), listed(), created()],
            Result(created=1, failed=1),
            id="failed-without-id-before-it-was-listed",
        ),
        # interrupted instances
        pytest.param(
            [created(), interrupted(), listed()], Result(ONE, created=1), id="still-listed-as-running"
        ),
        pytest.param(
            [created(), interrupted(), listed(started_at=1000)],
            Result(ONE, created=1),
            id="started-as-it-was-interrupted",
        ),
        pytest.param(
            [created(), interrupted(), STARTED_AGAIN],
            Result(ONE, created=1, living=LIVES),
            id="started-again-lives-again",
        ),
        pytest.param(
            [created(), interrupted(), listed(started_at=1200, alive=False)],
            Result(ONE, created=1),
            id="started-again-and-stopped",
        ),
        pytest.param(
            [created(), interrupted(), STARTED_AGAIN, interrupted(at=2000), STARTED_AGAIN],
            Result(TWO, created=1),
            id="interrupted-again-stays-ended",
        ),
        pytest.param(
            [created(), interrupted(at=2000), STARTED_AGAIN],
            Result(ONE, created=1),
            id="interrupted-after-the-listing-began",
        ),
        pytest.param(
            [STARTED_AGAIN, interrupted()],
            Result(ONE, living=LIVES),
            id="late-interruption-of-an-earlier-start",
        ),
        # instances that ended otherwise
        pytest.param(
            [created("1"), created("2", 2000), listed("1")],
            Result(created=2, living=frozenset("2")),
            id="ended-later-by-a-newer-incarnation",
        ),
        pytest.param(
            [created(), failed(at=1600), listed()],
            Result(created=1, failed=1),
            id="failed-later",
        ),
        pytest.param(
            [created(), TERMINATED, listed()],
            Result(created=1, living=LIVES),
            id="stopped-and-started",
        ),
        pytest.param([created(), TERMINATED], Result(created=1), id="stopped"),
        # names are reused
        pytest.param(
            [listed("1"), listed("2", 1200)], Result(living=frozenset("2")), id="listed-newer-ends-the-older"
        ),
        pytest.param(
            [listed("2", 1200), listed("1")], Result(living=frozenset("2")), id="listed-older-is-not-alive"
        ),
        pytest.param(
            [created("1"), listed("2", 1200, alive=False)],
            Result(created=1),
            id="listed-newer-ends-the-older-even-if-ended",
        ),
        # pending interruptions
        pytest.param([interrupted(), listed()], Result(ONE), id="released"),
        pytest.param([interrupted(), TERMINATED], Result(ONE), id="released-by-a-terminated-instance"),
        pytest.param(
            [interrupted(), STARTED_AGAIN], Result(ONE, living=LIVES), id="released-and-lives-again"
        ),
        pytest.param([interrupted(), listed(), interrupted()], Result(ONE), id="released-once"),
        pytest.param(
            [interrupted("2"), listed("1")], Result(living=LIVES, pending=1), id="another-id-stays-pending"
        ),
        pytest.param(
            [interrupted(), listed(name=OTHER_NAME)], Result(living=LIVES, pending=1), id="another-name"
        ),
        pytest.param([interrupted(""), listed()], Result(ONE), id="released-without-an-id"),
        pytest.param([interrupted(), PLAIN_VM], Result(), id="released-and-not-counted"),
        pytest.param([PLAIN_VM, interrupted()], Result(), id="not-a-node-is-never-counted"),
        pytest.param([interrupted(), listed(node=UNKNOWN_NODE)], Result(LOST), id="node-without-a-cluster"),
        pytest.param(
            [interrupted(), END_OF_GRACE, listed()], Result(LOST), id="listed-after-the-grace-period"
        ),
        pytest.param(
            [interrupted(), END_OF_GRACE, STARTED_AGAIN],
            Result(LOST, living=LIVES),
            id="listed-after-the-grace-period-and-started-again",
        ),
        # kinds
        pytest.param([created(), PLAIN_VM], Result(created=1, living=LIVES), id="a-node-stays-a-node"),
        pytest.param([PLAIN_VM, listed()], Result(living=LIVES), id="a-plain-instance-can-become-a-node"),
        # ids that no entry has
        pytest.param([created(""), listed()], Result(created=1, living=LIVES), id="listing-adds-the-id"),
        pytest.param(
            [created(""), listed(), interrupted()],
            Result(ONE, created=1),
            id="listing-adds-the-id-and-an-interruption-has-it",
        ),
        pytest.param(
            [created(""), listed("2", 1200), created("2", 1200)],
            Result(created=2, living=frozenset("2")),
            id="id-of-another-incarnation",
        ),
    ],
)
def test_a_story_has_this_result(story: Sequence[Scene], result: Result) -> None:
    assert simulate(story).result == result


@pytest.mark.parametrize(
    ("story", "age"),
    [
        pytest.param([listed(), interrupted()], 900.0, id="listed"),
        pytest.param([listed(started_at=400), interrupted()], 600.0, id="since-the-last-start"),
        pytest.param([created(), listed(started_at=400), interrupted()], 600.0, id="start-from-a-listing"),
        pytest.param([interrupted(), listed()], 900.0, id="released"),
        pytest.param(
            [created(), interrupted(), STARTED_AGAIN, interrupted(at=2000)], 900.0 + 800.0, id="each-start"
        ),
        pytest.param(
            [
                created(),
                interrupted(),
                STARTED_AGAIN,
                interrupted(at=2000),
                STARTED_AGAIN,
                interrupted(at=2100),
            ],
            900.0 + 800.0,
            id="once-per-start",
        ),
        pytest.param(
            [created(), interrupted(), listed(started_at=1200, alive=False), interrupted(at=1300)],
            900.0 + 100.0,
            id="start-that-has-ended-already",
        ),
        pytest.param([STARTED_AGAIN, interrupted()], None, id="not-of-an-earlier-start"),
        pytest.param(
            [STARTED_AGAIN, interrupted(), interrupted(at=2000)], 800.0, id="earlier-start-is-not-observed"
        ),
        pytest.param([interrupted(), END_OF_GRACE, listed()], None, id="expired"),
        pytest.param(
            [created(at=300), listed(created_at=100, started_at=300), interrupted()], 700.0, id="mixed"
        ),
    ],
)
def test_the_observed_lifetimes_have_this_sum(story: Sequence[Scene], age: float | None) -> None:
    assert simulate(story).ages.get("tills") == age


@pytest.mark.parametrize(
    ("story", "node", "counted_as", "released_by"),
    [
        pytest.param([interrupted(), listed()], TILLS, "tills", "inventory", id="released"),
        pytest.param([listed(), interrupted()], TILLS, "tills", None, id="at-once"),
        pytest.param([interrupted(), END_OF_GRACE, listed()], TILLS, UNKNOWN, "expiry", id="completed"),
        pytest.param(
            [created("0", node=LAB), interrupted(), END_OF_GRACE, listed(created_at=900)],
            TILLS,
            "lab",
            "expiry",
            id="completed-over-a-guess",
        ),
        pytest.param(
            [created("0", node=LAB), interrupted(), END_OF_GRACE, listed(created_at=900, node=UNKNOWN_NODE)],
            UNKNOWN_NODE,
            "lab",
            "expiry",
            id="a-guess-does-not-fill-missing-labels",
        ),
    ],
)
def test_the_ledger_has_this_row(
    story: Sequence[Scene], node: Node, counted_as: str, released_by: str | None
) -> None:
    (row,) = simulate(story).ledger

    assert (row.node, row.counted_as, row.released_by, row.attributed) == (
        node,
        counted_as,
        released_by,
        True,
    )


def test_a_plain_instance_completes_no_ledger_row() -> None:
    (row,) = simulate([interrupted(), END_OF_GRACE, PLAIN_VM]).ledger

    assert (row.node, row.attributed) == (UNKNOWN_NODE, False)


@pytest.mark.parametrize(
    ("story", "event", "outcome"),
    [
        pytest.param([PLAIN_VM], interrupted(), IGNORED_NOT_A_NODE, id="not-a-node"),
        pytest.param([listed()], created(), Tracked(NAME, TILLS), id="tracked"),
    ],
)
def test_after_a_listing_the_outcome_is(story: Sequence[Scene], event: Event, outcome: object) -> None:
    assert simulate(story).apply(event) == [outcome]


@pytest.mark.parametrize(
    ("pending", "released"),
    [
        pytest.param([interrupted()], {"inventory": 1}, id="counted"),
        pytest.param(
            [interrupted(at=2000), interrupted(at=1000)], {"inventory": 2}, id="all-of-the-instance"
        ),
        pytest.param([interrupted("2")], {}, id="another-instance"),
    ],
)
@pytest.mark.parametrize("node", [TILLS, None], ids=["node", "not-a-node"])
def test_a_pending_interruption_is_released_by_the_inventory(
    pending: Sequence[Event], released: dict[str, int], node: Node | None
) -> None:
    simulator = simulate([*pending, listed(node=node)])

    assert simulator.batch.applied().released == released


# labels


@pytest.mark.parametrize(
    ("labels", "node"),
    [
        pytest.param(LAB, LAB, id="changed"),
        pytest.param(
            TILLS._replace(node_pool="new"), TILLS._replace(node_pool="new"), id="one-label-changed"
        ),
        pytest.param(TILLS._replace(node_pool=UNKNOWN), TILLS, id="missing-from-the-listing"),
        pytest.param(None, TILLS, id="not-a-node-any-more"),
    ],
)
def test_the_gauge_follows_a_known_instance_to_its_labels(labels: Node | None, node: Node) -> None:
    simulator = simulate([created(), listed(node=labels)])

    gauge = {row.labels.node_pool: row.instances for row in simulator.totals.changed.label_sets.values()}
    assert gauge == {TILLS.node_pool: 0} | {node.node_pool: 1}
    assert simulator.instance().node == node


@pytest.mark.parametrize("alive", [True, False], ids=["alive", "terminated"])
@pytest.mark.parametrize("spot", [True, False], ids=["spot", "on-demand"])
def test_series_exist_as_soon_as_an_instance_is_listed(alive: bool, spot: bool) -> None:  # noqa: FBT001 - rows
    simulator = simulate([listed(alive=alive, spot=spot)])

    assert set(simulator.totals.changed.clusters) == {"tills"}
    assert bool(simulator.totals.changed.label_sets) == spot


def test_a_plain_instance_has_no_series() -> None:
    assert not simulate([PLAIN_VM]).totals.changed


def test_a_listed_id_replaces_a_missing_id() -> None:
    simulator = simulate([created(""), listed()])

    kept = {identity: instance is not None for (_, identity), instance in simulator.batch.instances.items()}
    assert kept == {f"~{created('').key}": False, "1": True}


def test_a_listing_keeps_when_the_instance_was_created() -> None:
    instance = simulate([created(at=100), listed(created_at=99, started_at=101)]).instance()

    assert (instance.created_at, instance.started_at, instance.announced) == (100, 101, True)


@pytest.mark.parametrize(
    ("story", "ended_at"),
    [
        pytest.param([TERMINATED], BEGAN, id="stored-as-terminated"),
        pytest.param([created(), TERMINATED], BEGAN, id="stopped"),
        pytest.param([created(), interrupted(), TERMINATED], 1000.0, id="interrupted-before"),
        pytest.param([created(), interrupted(), STARTED_AGAIN], None, id="lives-again"),
        pytest.param([listed("1"), listed("2", 1200)], 1200.0, id="ended-by-a-newer"),
        pytest.param([listed("2", 1200), listed("1")], 1200.0, id="older-than-a-known-incarnation"),
    ],
)
def test_an_instance_has_this_end(story: Sequence[Scene], ended_at: float | None) -> None:
    assert simulate(story).instance().ended_at == ended_at


# instances that a listing only confirms


def known(**changes: object) -> Instance:
    """The instance that is stored for `listed` at its first listing."""
    plain = Instance(
        NAME, "1", Kind.NODE, TILLS, NOW, spot=True, alive=True, created_at=100.0, started_at=100.0
    )
    return plain._replace(**changes)  # type: ignore[arg-type]


def keeps(changes: Sequence[Change]) -> list[Instance]:
    return [change.instance for change in changes if isinstance(change, StoreInstance)]


@pytest.mark.parametrize(
    ("before", "in_listing", "renewed"),
    [
        pytest.param(known(), listed(), False, id="unchanged"),
        pytest.param(known(recorded_at=NOW - DAY / 2), listed(), False, id="half-a-day-old"),
        pytest.param(known(recorded_at=NOW - DAY / 2 - 1), listed(), True, id="older"),
        pytest.param(known(alive=False, ended_at=5.0), TERMINATED, False, id="still-ended"),
        pytest.param(
            known(alive=False, ended_at=5.0, recorded_at=NOW - DAY), TERMINATED, True, id="older-and-ended"
        ),
        pytest.param(known(), listed(node=LAB), True, id="relabelled"),
        pytest.param(known(), listed(started_at=200.0), True, id="started-again"),
        pytest.param(known(spot=False), listed(), True, id="proven-spot"),
        pytest.param(known(), TERMINATED, True, id="ended"),
    ],
)
def test_an_instance_is_written_again_after_a_change_or_half_a_day(
    before: Instance,
    in_listing: Listed,
    renewed: bool,  # noqa: FBT001 - a row
) -> None:
    changes = observe_listed(in_listing, Known(incarnations={"1": before}), BEGAN, NOW)

    assert [instance.recorded_at for instance in keeps(changes)] == [NOW] * renewed
    assert [change for change in changes if not isinstance(change, StoreInstance)] == [
        EnsureSeries(before._replace(node=in_listing.node or TILLS).labels)
    ]


def test_a_listed_instance_is_stored_as_listed() -> None:
    assert keeps(observe_listed(listed(), Known(), BEGAN, NOW)) == [known()]


def test_a_pending_interruption_is_counted_even_if_the_listing_changes_nothing_else() -> None:
    pending = PendingInterruption(interrupted(), NOW + GRACE)

    (settled,) = keeps(
        observe_listed(listed(), Known(incarnations={"1": known()}, pending=[pending]), BEGAN, NOW + 5)
    )

    assert (settled.alive, settled.lifetime_observed, settled.recorded_at) == (False, True, NOW + 5)


# instances that are missing from a complete listing


@pytest.mark.parametrize(
    ("confirmed", "ended"),
    [
        pytest.param(NOW - DAY, True, id="long-ago"),
        pytest.param(NOW - 61, True, id="more-than-a-minute-before"),
        pytest.param(NOW - 60, False, id="a-minute-before"),
        pytest.param(NOW - 1, False, id="just-before"),
        pytest.param(NOW + 5, False, id="since"),
    ],
)
def test_a_missing_instance_ends_if_it_was_last_confirmed_over_a_minute_before(
    confirmed: float, *, ended: bool
) -> None:
    instance = known(recorded_at=confirmed)

    after = instance._replace(alive=False, ended_at=NOW, recorded_at=NOW + 9)
    assert observe_missing(instance, NOW, NOW + 9) == ((StoreInstance(after),) if ended else ())


def test_a_missing_instance_that_has_ended_does_not_change() -> None:
    assert observe_missing(known(alive=False, ended_at=5.0, recorded_at=NOW - DAY), NOW, NOW) == ()


def test_a_late_interruption_of_a_missing_instance_counts_with_its_lifetime() -> None:
    simulator = simulate([listed()])
    simulator.batch.observe_missing(NAME, "1", NOW + 100)

    (outcome,) = simulator.apply(interrupted())

    assert isinstance(outcome, Counted)
    assert (outcome.counted_as, outcome.age, simulator.instance().ended_at) == ("tills", 900.0, 1000.0)
    assert simulator.totals.changed.label_sets[simulator.instance().labels].instances == 0


def test_a_missing_instance_lives_again_once_it_is_listed() -> None:
    simulator = simulate([created()])
    simulator.batch.observe_missing(NAME, "1", NOW + 100)
    simulator.observe_listed(listed(), began=NOW + 700)

    assert simulator.living == {"1"}


@pytest.mark.parametrize(
    ("ended_at", "lives"),
    [
        pytest.param(NOW - 700, True, id="before-the-listing"),
        pytest.param(NOW - 300, False, id="after-the-listing"),
        pytest.param(NOW + DAY, True, id="while-the-clock-was-ahead"),
    ],
)
def test_a_missing_instance_is_revived_by_a_later_listing(ended_at: float, lives: bool) -> None:  # noqa: FBT001 - a row
    missing = Known(incarnations={"1": known(alive=False, ended_at=ended_at)})

    (instance,) = keeps(observe_listed(listed(), missing, NOW - 600, NOW)) or [missing.incarnations["1"]]

    assert instance.alive is lives


@pytest.mark.parametrize(
    ("previous", "ends"),
    [
        pytest.param(None, True, id="the-first"),
        pytest.param(NOW - 60, True, id="a-minute-after"),
        pytest.param(NOW - 59, False, id="sooner"),
    ],
)
def test_a_listing_soon_after_another_ends_no_instance(previous: float | None, *, ends: bool) -> None:
    assert may_end_unlisted(NOW, previous) is ends
