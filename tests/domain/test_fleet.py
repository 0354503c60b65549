from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

import pytest

from app.domain.attribution import NOT_A_NODE, Change, EnsureSeries, Known, StoreInstance
from app.domain.events import UNKNOWN, UNKNOWN_NODE, Event, Listed, Node
from app.domain.fleet import ends_what_it_misses, observe_listed, observe_missing
from app.domain.instances import Instance, Kind, Parked
from app.domain.outcomes import Counted, Tracked
from tests.domain.examples import (
    DAY,
    GRACE,
    LAB,
    NAME,
    NOW,
    OTHER_NAME,
    TILLS,
    Stage,
    created,
    failed,
    interrupted,
    listed,
)

END_OF_GRACE: Final = None
BEGAN: Final = 1500.0
"""When the listings of these stories began: after an interruption at 1000, before anything at 2000."""

Scene: TypeAlias = Event | Listed | None


@dataclass(frozen=True)
class Result:
    """What stands in the totals and lives at the end of a story."""

    interruptions: dict[str, int] = field(default_factory=dict)
    created: int = 0
    failed: int = 0
    living: frozenset[str] = frozenset()
    waiting: int = 0


def tell(story: Sequence[Scene]) -> Stage:
    stage = Stage()
    for scene in story:
        if scene is END_OF_GRACE:
            stage.end_grace()
        elif isinstance(scene, Listed):
            stage.hear(scene, began=BEGAN)
        else:
            stage.play(scene)
    return stage


def result_of(stage: Stage) -> Result:
    return Result(stage.interruptions, *stage.creations, frozenset(stage.living), stage.waiting)


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
        # what is not known is learnt
        pytest.param([listed()], Result(living=LIVES), id="learnt-and-not-counted-as-a-creation"),
        pytest.param([listed(), listed()], Result(living=LIVES), id="learnt-once"),
        pytest.param([TERMINATED], Result(), id="learnt-and-not-alive"),
        pytest.param([listed(spot=False)], Result(), id="on-demand-touches-no-series"),
        pytest.param([PLAIN_VM], Result(), id="not-a-node-touches-no-series"),
        pytest.param([listed(), interrupted()], Result(ONE), id="interruption-of-what-was-listed"),
        pytest.param([TERMINATED, interrupted()], Result(ONE), id="interruption-of-what-was-terminated"),
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
        pytest.param([TERMINATED, created()], Result(created=1), id="creation-after-revives-nothing"),
        pytest.param(
            [listed(), interrupted(), created()], Result(ONE, created=1), id="creation-after-the-end-neither"
        ),
        pytest.param([listed(), failed()], Result(), id="failed-insert-ends-what-was-listed"),
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
        # what was interrupted
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
        # what ended otherwise
        pytest.param(
            [created("1"), created("2", 2000), listed("1")],
            Result(created=2, living=frozenset("2")),
            id="ended-by-a-newer-one-since",
        ),
        pytest.param(
            [created(), failed(at=1600), listed()],
            Result(created=1, failed=1),
            id="failed-since",
        ),
        pytest.param(
            [created(), TERMINATED, listed()],
            Result(created=1, living=LIVES),
            id="was-stopped-and-lives",
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
            id="listed-newer-ends-the-older-even-if-it-has-ended",
        ),
        # what waits
        pytest.param([interrupted(), listed()], Result(ONE), id="released"),
        pytest.param([interrupted(), TERMINATED], Result(ONE), id="released-by-a-terminated-one"),
        pytest.param(
            [interrupted(), STARTED_AGAIN], Result(ONE, living=LIVES), id="released-and-lives-again"
        ),
        pytest.param([interrupted(), listed(), interrupted()], Result(ONE), id="released-once"),
        pytest.param(
            [interrupted("2"), listed("1")], Result(living=LIVES, waiting=1), id="another-id-waits-on"
        ),
        pytest.param(
            [interrupted(), listed(name=OTHER_NAME)], Result(living=LIVES, waiting=1), id="another-name"
        ),
        pytest.param([interrupted(""), listed()], Result(ONE), id="released-without-an-id"),
        pytest.param([interrupted(), PLAIN_VM], Result(), id="released-and-not-counted"),
        pytest.param([PLAIN_VM, interrupted()], Result(), id="not-a-node-is-never-counted"),
        pytest.param(
            [interrupted(), listed(node=UNKNOWN_NODE)], Result(LOST), id="old-node-without-a-cluster"
        ),
        pytest.param([interrupted(), END_OF_GRACE, listed()], Result(LOST), id="explained-after-its-grace"),
        pytest.param(
            [interrupted(), END_OF_GRACE, STARTED_AGAIN],
            Result(LOST, living=LIVES),
            id="explained-after-its-grace-and-started-again",
        ),
        # kinds
        pytest.param([created(), PLAIN_VM], Result(created=1, living=LIVES), id="a-node-stays-a-node"),
        pytest.param([PLAIN_VM, listed()], Result(living=LIVES), id="what-was-no-node-may-turn-out-one"),
        # ids that no entry has told
        pytest.param([created(""), listed()], Result(created=1, living=LIVES), id="the-id-is-told"),
        pytest.param(
            [created(""), listed(), interrupted()], Result(ONE, created=1), id="the-id-is-told-and-found"
        ),
        pytest.param(
            [created(""), listed("2", 1200), created("2", 1200)],
            Result(created=2, living=frozenset("2")),
            id="another-ones-id",
        ),
    ],
)
def test_a_story_ends_so(story: Sequence[Scene], result: Result) -> None:
    assert result_of(tell(story)) == result


@pytest.mark.parametrize(
    ("story", "age"),
    [
        pytest.param([listed(), interrupted()], 900.0, id="listed"),
        pytest.param([listed(started_at=400), interrupted()], 600.0, id="since-the-last-start"),
        pytest.param([created(), listed(started_at=400), interrupted()], 600.0, id="start-told-by-a-listing"),
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
            id="once-a-start",
        ),
        pytest.param(
            [created(), interrupted(), listed(started_at=1200, alive=False), interrupted(at=1300)],
            900.0 + 100.0,
            id="start-that-has-ended-already",
        ),
        pytest.param([STARTED_AGAIN, interrupted()], None, id="not-of-an-earlier-start"),
        pytest.param(
            [STARTED_AGAIN, interrupted(), interrupted(at=2000)], 800.0, id="earlier-start-took-nothing"
        ),
        pytest.param([interrupted(), END_OF_GRACE, listed()], None, id="expired"),
        pytest.param(
            [created(at=300), listed(created_at=100, started_at=300), interrupted()], 700.0, id="mixed"
        ),
    ],
)
def test_lifetimes_sum_up_to(story: Sequence[Scene], age: float | None) -> None:
    assert tell(story).ages.get("tills") == age


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
            id="a-guess-fills-no-gap",
        ),
    ],
)
def test_the_ledger_has(story: Sequence[Scene], node: Node, counted_as: str, released_by: str | None) -> None:
    (row,) = tell(story).ledger

    assert (row.node, row.counted_as, row.released_by, row.explained) == (node, counted_as, released_by, True)


def test_not_a_node_completes_no_ledger() -> None:
    (row,) = tell([interrupted(), END_OF_GRACE, PLAIN_VM]).ledger

    assert (row.node, row.explained) == (UNKNOWN_NODE, False)


@pytest.mark.parametrize(
    ("story", "event", "outcome"),
    [
        pytest.param([PLAIN_VM], interrupted(), NOT_A_NODE, id="not-a-node"),
        pytest.param([listed()], created(), Tracked(NAME, TILLS), id="tracked"),
    ],
)
def test_after_a_listing_the_outcome_is(story: Sequence[Scene], event: Event, outcome: object) -> None:
    assert tell(story).play(event) == [outcome]


@pytest.mark.parametrize(
    ("waiting", "released"),
    [
        pytest.param([interrupted()], {"inventory": 1}, id="counted"),
        pytest.param([interrupted(at=2000), interrupted(at=1000)], {"inventory": 2}, id="all-of-its"),
        pytest.param([interrupted("2")], {}, id="another-ones"),
    ],
)
@pytest.mark.parametrize("node", [TILLS, None], ids=["node", "not-a-node"])
def test_what_waits_is_released_by_the_inventory(
    waiting: Sequence[Event], released: dict[str, int], node: Node | None
) -> None:
    stage = tell([*waiting, listed(node=node)])

    assert stage.batch.applied((), pending=0).released == released


# labels


@pytest.mark.parametrize(
    ("told", "node"),
    [
        pytest.param(LAB, LAB, id="changed"),
        pytest.param(TILLS._replace(node_pool="new"), TILLS._replace(node_pool="new"), id="one-changed"),
        pytest.param(TILLS._replace(node_pool=UNKNOWN), TILLS, id="missing-from-the-listing"),
        pytest.param(None, TILLS, id="no-node-any-more"),
    ],
)
def test_the_gauge_follows_a_known_instance_to_its_labels(told: Node | None, node: Node) -> None:
    stage = tell([created(), listed(node=told)])

    gauge = {row.labels.node_pool: row.instances for row in stage.tally.changed.label_sets.values()}
    assert gauge == {TILLS.node_pool: 0} | {node.node_pool: 1}
    assert stage.instance().node == node


@pytest.mark.parametrize("alive", [True, False], ids=["alive", "terminated"])
@pytest.mark.parametrize("spot", [True, False], ids=["spot", "on-demand"])
def test_series_exist_as_soon_as_an_instance_is_listed(alive: bool, spot: bool) -> None:  # noqa: FBT001 - rows
    stage = tell([listed(alive=alive, spot=spot)])

    assert set(stage.tally.changed.clusters) == {"tills"}
    assert bool(stage.tally.changed.label_sets) == spot


def test_what_is_no_node_shows_no_series() -> None:
    assert not tell([PLAIN_VM]).tally.changed


def test_a_listed_id_takes_the_place_of_none() -> None:
    stage = tell([created(""), listed()])

    kept = {identity: instance is not None for (_, identity), instance in stage.batch.kept.items()}
    assert kept == {f"~{created('').key}": False, "1": True}


def test_a_listing_keeps_when_the_instance_was_created() -> None:
    instance = tell([created(at=100), listed(created_at=99, started_at=101)]).instance()

    assert (instance.created_at, instance.started_at, instance.announced) == (100, 101, True)


@pytest.mark.parametrize(
    ("story", "ended_at"),
    [
        pytest.param([TERMINATED], BEGAN, id="learnt-as-terminated"),
        pytest.param([created(), TERMINATED], BEGAN, id="stopped"),
        pytest.param([created(), interrupted(), TERMINATED], 1000.0, id="interrupted-before"),
        pytest.param([created(), interrupted(), STARTED_AGAIN], None, id="lives-again"),
        pytest.param([listed("1"), listed("2", 1200)], 1200.0, id="succeeded"),
        pytest.param([listed("2", 1200), listed("1")], 1200.0, id="succeeded-before-it-was-known"),
    ],
)
def test_it_ended(story: Sequence[Scene], ended_at: float | None) -> None:
    assert tell(story).instance().ended_at == ended_at


# what a listing merely confirms


def known(**changes: object) -> Instance:
    """What `listed` makes of an instance when it is first heard of."""
    plain = Instance(
        NAME, "1", Kind.NODE, TILLS, NOW, spot=True, alive=True, created_at=100.0, started_at=100.0
    )
    return plain._replace(**changes)  # type: ignore[arg-type]


def keeps(changes: Sequence[Change]) -> list[Instance]:
    return [change.instance for change in changes if isinstance(change, StoreInstance)]


@pytest.mark.parametrize(
    ("before", "told", "renewed"),
    [
        pytest.param(known(), listed(), False, id="nothing-new"),
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
def test_an_instance_is_written_again_when_it_changed_or_seldom(
    before: Instance,
    told: Listed,
    renewed: bool,  # noqa: FBT001 - a row
) -> None:
    changes = observe_listed(told, Known(incarnations={"1": before}), BEGAN, NOW)

    assert [instance.recorded_at for instance in keeps(changes)] == [NOW] * renewed
    assert [change for change in changes if not isinstance(change, StoreInstance)] == [
        EnsureSeries(before._replace(node=told.node or TILLS).labels)
    ]


def test_what_was_heard_of_is_what_is_known_then() -> None:
    assert keeps(observe_listed(listed(), Known(), BEGAN, NOW)) == [known()]


def test_a_waiting_interruption_is_settled_beside_an_instance_that_did_not_change() -> None:
    waiting = Parked(interrupted(), NOW + GRACE)

    (settled,) = keeps(
        observe_listed(listed(), Known(incarnations={"1": known()}, pending=[waiting]), BEGAN, NOW + 5)
    )

    assert (settled.alive, settled.timed, settled.recorded_at) == (False, True, NOW + 5)


# what a complete listing does not name


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
def test_what_is_not_named_ended_if_it_was_last_confirmed(confirmed: float, ended: bool) -> None:  # noqa: FBT001 - a row
    instance = known(recorded_at=confirmed)

    after = instance._replace(alive=False, ended_at=NOW, recorded_at=NOW + 9)
    assert observe_missing(instance, NOW, NOW + 9) == ((StoreInstance(after),) if ended else ())


def test_what_had_ended_before_is_left_as_it_is() -> None:
    assert observe_missing(known(alive=False, ended_at=5.0, recorded_at=NOW - DAY), NOW, NOW) == ()


def test_a_late_interruption_of_what_was_not_named_counts_with_its_lifetime() -> None:
    stage = tell([listed()])
    stage.batch.miss(NAME, "1", NOW + 100)

    (outcome,) = stage.play(interrupted())

    assert isinstance(outcome, Counted)
    assert (outcome.counted_as, outcome.age, stage.instance().ended_at) == ("tills", 900.0, 1000.0)
    assert stage.tally.changed.label_sets[stage.instance().labels].instances == 0


def test_what_was_not_named_lives_again_once_it_is() -> None:
    stage = tell([created()])
    stage.batch.miss(NAME, "1", NOW + 100)
    stage.hear(listed(), began=NOW + 700)

    assert stage.living == {"1"}


def test_what_was_not_named_stays_ended_by_an_older_listing() -> None:
    stage = tell([created()])
    stage.batch.miss(NAME, "1", NOW + 700)
    stage.hear(replace(listed(), started_at=None), began=NOW + 100)

    assert not stage.living


@pytest.mark.parametrize(
    ("previous", "ends"),
    [
        pytest.param(None, True, id="the-first"),
        pytest.param(NOW - 60, True, id="a-minute-after"),
        pytest.param(NOW - 59, False, id="sooner"),
    ],
)
def test_what_an_earlier_listing_may_just_have_confirmed_is_not_ended(
    previous: float | None, *, ends: bool
) -> None:
    assert ends_what_it_misses(NOW, previous) is ends
