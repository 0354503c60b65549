"""The contract of the ledger, tested on every implementation."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from typing import Final

import pytest

from app.domain.changes import Rules
from app.domain.events import (
    UNKNOWN,
    UNKNOWN_NODE,
    Event,
    InstanceInterrupted,
    InstanceName,
    InterruptionDetails,
)
from app.domain.instances import OTHER_LABELS, Labels
from app.domain.ledger import DAY_SECONDS, HOUR_SECONDS, PERIOD_SECONDS, PERIODS, LedgerEntry, Pool, Query
from app.domain.outcomes import Counted
from app.domain.totals import LabelSetTotals
from app.store.opening import open_store
from app.store.port import LedgerReader, OpenedStore
from tests.store.stories import NUMBERED, TEACHES, life, lives, synced
from tests.support.examples import DAY, GRACE, LAB, LABELS, NAME, NOW, TILLS, created, failed, interrupted

WEEK: Final = PERIODS * PERIOD_SECONDS
TILLS_POOL: Final = Pool(NAME.project, "tills", "europe-west1", "spot-pool")
END_OF_GRACE: Final = None
LAB_POOL: Final = Pool(NAME.project, "lab", "europe-west1", "lab-pool")


def ids(entries: Sequence[LedgerEntry]) -> list[str]:
    return [entry.counted.id for entry in entries]


def pages(ledger: LedgerReader, query: Query) -> list[list[str]]:
    """The ids on every page, read one after the other."""
    read: list[list[str]] = []
    while page := ledger.interruptions(query):
        read.append(ids(page))
        query = replace(query, before=page[-1].position)
    return read


def test_an_empty_ledger_has_no_interruption_and_no_pool(opened: OpenedStore) -> None:
    assert list(opened.ledger.interruptions(Query())) == []
    assert list(opened.ledger.pools(NOW, 10)) == []


def test_a_row_has_all_that_is_known_of_the_interruption(opened: OpenedStore) -> None:
    opened.store.apply([created("1", 100.0), interrupted("1", 1000.0)], NOW)

    assert list(opened.ledger.interruptions(Query())) == [
        LedgerEntry(
            Counted(
                interrupted().key,
                1000.0,
                NAME,
                "1",
                TILLS,
                "tills",
                900.0,
                attributed=True,
                released_by=None,
                details=InterruptionDetails(),
            ),
            NOW,
        )
    ]


UNUSUAL: Final = InterruptionDetails(found_by="operation")
"""No field has its default."""


@pytest.mark.parametrize(
    "story",
    [
        pytest.param([created("1", 100.0), interrupted("1", 1000.0)], id="at-once"),
        pytest.param([interrupted("1", 1000.0), created("1", 100.0)], id="released"),
        pytest.param([interrupted("1", 1000.0), END_OF_GRACE], id="expired"),
    ],
)
def test_a_row_has_the_details_of_the_event(opened: OpenedStore, story: Sequence[Event | None]) -> None:
    assert all(value != default for value, default in zip(UNUSUAL, InterruptionDetails(), strict=True))
    for event in story:
        if event is END_OF_GRACE:
            opened.store.expire(NOW + GRACE)
        elif isinstance(event, InstanceInterrupted):
            opened.store.apply([replace(event, details=UNUSUAL)], NOW)
        else:
            opened.store.apply([event], NOW)

    (entry,) = opened.ledger.interruptions(Query())
    assert entry.counted.details == UNUSUAL


def test_an_interruption_counted_as_unknown_shows_its_later_attribution(opened: OpenedStore) -> None:
    opened.store.apply([interrupted("1", 1000.0)], NOW)
    opened.store.expire(NOW + GRACE)
    (before,) = opened.ledger.interruptions(Query(cluster="unknown"))
    opened.store.apply([created("1", 100.0)], NOW + GRACE + 1)

    assert before.counted.node == UNKNOWN_NODE
    assert before.counted.released_by == "expiry"
    assert list(opened.ledger.interruptions(Query(cluster="unknown"))) == []
    (after,) = opened.ledger.interruptions(Query(cluster="tills"))
    assert after.counted.node == TILLS
    assert after.counted.counted_as == "unknown"


def test_an_interruption_without_an_id_is_read_without_one(opened: OpenedStore) -> None:
    opened.store.apply([created("", 100.0), interrupted("", 1000.0)], NOW)

    assert ids(opened.ledger.interruptions(Query())) == [""]


def test_the_newest_are_first_and_pages_have_each_once(opened: OpenedStore) -> None:
    at = [NOW + number // 3 for number in range(10)]  # three have the same time
    opened.store.apply(lives(*(life(number, at=at[number]) for number in range(10))), NOW)

    read = pages(opened.ledger, Query(limit=4))

    assert [len(page) for page in read] == [4, 4, 2]
    everything = [one for page in read for one in page]
    assert sorted(everything) == [str(number) for number in range(10)]
    assert [at[int(number)] for number in everything] == sorted(at, reverse=True)


def test_a_page_is_not_moved_by_new_interruptions(opened: OpenedStore) -> None:
    opened.store.apply(lives(life(1, at=NOW), life(2, at=NOW + 2)), NOW)
    (first,) = opened.ledger.interruptions(Query(limit=1))
    opened.store.apply(life(3, at=NOW + 3), NOW)

    assert ids(opened.ledger.interruptions(Query(before=first.position))) == ["1"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param(Query(since=NOW + 1), ["2", "1"], id="since-includes"),
        pytest.param(Query(until=NOW + 1), ["0"], id="until-excludes"),
        pytest.param(Query(since=NOW, until=NOW + 2), ["1", "0"], id="between"),
        pytest.param(Query(since=NOW + 2, until=NOW), [], id="none"),
        pytest.param(Query(cluster="lab"), ["1"], id="cluster"),
        pytest.param(Query(cluster="la"), [], id="whole-names"),
        pytest.param(Query(limit=2), ["2", "1"], id="limit"),
    ],
)
def test_a_query_narrows(opened: OpenedStore, query: Query, expected: list[str]) -> None:
    opened.store.apply(lives(life(0), life(1, node=LAB, at=NOW + 1), life(2, at=NOW + 2)), NOW)

    assert ids(opened.ledger.interruptions(query)) == expected


ELSEWHERE: Final = TILLS._replace(cluster_location="us-east1")
ABROAD: Final = InstanceName("example.com:shop", "us-east1-b", "node-9")
THREE_CLUSTERS_OF_ONE_NAME: Final = [
    *life(0),
    *life(1, node=ELSEWHERE),
    replace(created("2", name=ABROAD), node=ELSEWHERE),
    interrupted("2", NOW, name=ABROAD),
    *life(3, node=LAB),
]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param(Query(cluster="tills"), {"0", "1", "2"}, id="name-alone"),
        pytest.param(Query(project=NAME.project), {"0", "1", "3"}, id="project"),
        pytest.param(Query(project="example.com:shop"), {"2"}, id="domain-scoped-project"),
        pytest.param(Query(project="shop"), set[str](), id="whole-projects"),
        pytest.param(Query(cluster_location="us-east1"), {"1", "2"}, id="location"),
        pytest.param(Query(cluster_location="us"), set[str](), id="whole-locations"),
        pytest.param(
            Query(project=NAME.project, cluster="tills", cluster_location="us-east1"), {"1"}, id="one-cluster"
        ),
        pytest.param(
            Query(project="example.com:shop", cluster="tills", cluster_location="europe-west1"),
            set[str](),
            id="no-cluster",
        ),
    ],
)
def test_a_cluster_is_read_alone_by_project_name_and_location(
    opened: OpenedStore, query: Query, expected: set[str]
) -> None:
    opened.store.apply(THREE_CLUSTERS_OF_ONE_NAME, NOW)

    assert set(ids(opened.ledger.interruptions(query))) == expected


def test_pages_of_a_narrow_query_have_each_of_its_rows_once(opened: OpenedStore) -> None:
    nodes = [TILLS, ELSEWHERE, LAB]
    opened.store.apply(lives(*(life(number, node=nodes[number % 3]) for number in range(15))), NOW)
    query = Query(project=NAME.project, cluster_location="us-east1", counted=True, limit=2)

    read = pages(opened.ledger, query)

    assert [len(page) for page in read] == [2, 2, 1]
    assert {one for page in read for one in page} == {"1", "4", "7", "10", "13"}


@pytest.mark.parametrize(
    ("counted", "expected"), [(None, {"1", "2", "3"}), (True, {"1", "3"}), (False, {"2"})]
)
def test_counted_rows_are_those_that_the_totals_include(
    opened: OpenedStore, *, counted: bool | None, expected: set[str]
) -> None:
    # No log entry has an empty cluster: it stands for a row that was not counted under any.
    uncounted = life(2, node=TILLS._replace(cluster=""))
    opened.store.apply([*life(1), *uncounted, interrupted("3", NOW)], NOW)
    opened.store.expire(NOW + GRACE)

    assert set(ids(opened.ledger.interruptions(Query(counted=counted)))) == expected


def test_a_pending_interruption_is_not_in_the_ledger(opened: OpenedStore) -> None:
    opened.store.apply([interrupted("1", NOW)], NOW)

    for counted in (None, True, False):
        assert list(opened.ledger.interruptions(Query(counted=counted))) == []


def test_a_pool_has_its_numbers_of_the_last_hour_day_and_week(opened: OpenedStore) -> None:
    ago = [1.0, HOUR_SECONDS, HOUR_SECONDS + 1, DAY_SECONDS, DAY_SECONDS + 1, WEEK, WEEK + 1]
    opened.store.apply(lives(*(life(n, at=NOW - seconds, age=n) for n, seconds in enumerate(ago))), NOW)

    (pool,) = opened.ledger.pools(NOW, 10)

    assert pool.pool == TILLS_POOL
    assert (pool.last_hour, pool.last_day, pool.last_week) == (2, 4, 6)
    assert pool.newest_at == NOW - 1
    assert sum(pool.periods) == pool.last_week
    assert (pool.periods[0], pool.periods[-5], pool.periods[-4], pool.periods[-1]) == (1, 1, 1, 3)


def test_an_interruption_in_the_future_is_not_in_the_week(opened: OpenedStore) -> None:
    opened.store.apply(life(1, at=NOW + 1), NOW)

    assert list(opened.ledger.pools(NOW, 10)) == []


@pytest.mark.parametrize(
    ("ages", "median"), [([1.0], 1.0), ([1.0, 9.0, 2.0], 2.0), ([1.0, 9.0, 2.0, 4.0], 3.0)]
)
def test_the_median_age_is_that_of_the_middle(opened: OpenedStore, ages: list[float], median: float) -> None:
    opened.store.apply(lives(*(life(n, age=age) for n, age in enumerate(ages))), NOW + 10)

    (pool,) = opened.ledger.pools(NOW + 1, 10)

    assert pool.median_age == median


def test_a_pool_of_unknown_ages_has_no_median(opened: OpenedStore) -> None:
    opened.store.apply([interrupted("1", NOW)], NOW)
    opened.store.expire(NOW + GRACE)

    (pool,) = opened.ledger.pools(NOW + GRACE, 10)

    assert pool.pool == Pool(NAME.project, *UNKNOWN_NODE[:3])
    assert pool.median_age is None


def test_the_pools_with_most_interruptions_come_first_and_alone(opened: OpenedStore) -> None:
    opened.store.apply(lives(life(1), life(2, node=LAB), life(3, node=LAB)), NOW + 1)

    assert [pool.pool for pool in opened.ledger.pools(NOW + 1, 10)] == [LAB_POOL, TILLS_POOL]
    assert [pool.pool for pool in opened.ledger.pools(NOW + 1, 1)] == [LAB_POOL]


def test_clusters_of_one_name_are_apart_by_project_and_location(opened: OpenedStore) -> None:
    opened.store.apply(THREE_CLUSTERS_OF_ONE_NAME, NOW)

    assert {pool.pool for pool in opened.ledger.pools(NOW + 1, 10)} == {
        TILLS_POOL,
        TILLS_POOL._replace(cluster_location="us-east1"),
        TILLS_POOL._replace(project="example.com:shop", cluster_location="us-east1"),
        LAB_POOL,
    }


def test_the_ledger_is_read_while_a_listing_is_under_way(opened: OpenedStore) -> None:
    opened.store.begin_listing(NAME.project, NOW)
    opened.store.apply(life(1), NOW)

    assert ids(opened.ledger.interruptions(Query())) == ["1"]


@pytest.mark.parametrize(
    ("story", "row"),
    [
        pytest.param([created(), interrupted()], ("tills", "tills", 900.0, True, None), id="at-once"),
        pytest.param([interrupted(), created()], ("tills", "tills", 900.0, True, "creation"), id="released"),
        pytest.param([interrupted(), END_OF_GRACE], (UNKNOWN, UNKNOWN, None, False, "expiry"), id="expired"),
        pytest.param(
            [interrupted(), END_OF_GRACE, created()],
            ("tills", UNKNOWN, None, True, "expiry"),
            id="completed",
        ),
        pytest.param(
            [created(name=NUMBERED), interrupted(name=NUMBERED), TEACHES],
            ("tills", "tills", 900.0, True, None),
            id="counted-under-the-number",
        ),
        pytest.param(
            [interrupted(name=NUMBERED), END_OF_GRACE, TEACHES, created()],
            ("tills", UNKNOWN, None, True, "expiry"),
            id="completed-under-the-id",
        ),
        pytest.param(
            [interrupted(), END_OF_GRACE, created(name=NUMBERED), TEACHES],
            ("tills", UNKNOWN, None, True, "expiry"),
            id="completed-once-the-number-is-known",
        ),
    ],
)
def test_an_interruption_stands_in_the_ledger_so(
    opened: OpenedStore, story: list[Event | None], row: tuple[object, ...]
) -> None:
    for event in story:
        if event is END_OF_GRACE:
            opened.store.expire(NOW + GRACE)
        else:
            opened.store.apply([event], NOW)

    (entry,) = opened.ledger.interruptions(Query())
    counted = entry.counted
    assert (counted.name, counted.id) == (NAME, "1")
    assert row == (
        counted.node.cluster,
        counted.counted_as,
        counted.age,
        counted.attributed,
        counted.released_by,
    )


def test_the_totals_by_label_set_are_the_stores(opened: OpenedStore) -> None:
    opened.store.apply(lives(life(1), life(2), [created("3", NOW)]), NOW)
    opened.store.accrue_instance_seconds(NOW)
    opened.store.accrue_instance_seconds(NOW + 60)

    read = {row.labels: row for row in opened.ledger.label_sets()}

    remembered = opened.store.state().totals.label_sets
    for labels in read.keys() | remembered.keys():
        mine, theirs = (rows.get(labels, LabelSetTotals(labels)) for rows in (read, remembered))
        assert mine.interruptions == theirs.interruptions
        assert (mine.created, mine.failed, mine.instances) == (
            theirs.created,
            theirs.failed,
            theirs.instances,
        )
        assert mine.instance_seconds == theirs.instance_seconds
    assert read[LABELS].interruptions == 2


def week(ledger: LedgerReader, now: float) -> dict[Labels, tuple[int, int, float]]:
    """Interruptions, those counted as unknown, and instance-hours of each label set."""
    found: dict[Labels, tuple[int, int, float]] = {}
    for row in ledger.week(now):
        interruptions, unknown, hours = found.get(row.labels, (0, 0, 0.0))
        found[row.labels] = (
            interruptions + row.interruptions,
            unknown + row.counted_as_unknown,
            hours + row.instance_seconds / HOUR_SECONDS,
        )
    return found


def test_an_empty_store_has_no_week(opened: OpenedStore) -> None:
    assert week(opened.ledger, NOW) == {}


def test_the_week_has_the_interruptions_and_the_instance_hours_of_seven_days(opened: OpenedStore) -> None:
    on_demand, broken = (NAME._replace(instance=name) for name in ("on-demand", "broken"))
    opened.store.apply(
        [
            *life(1, at=NOW - WEEK - DAY, age=HOUR_SECONDS),
            *life(2, at=NOW - WEEK + HOUR_SECONDS, age=DAY),
            *life(3, at=NOW - DAY, age=2 * HOUR_SECONDS),
            *life(4, at=NOW, age=DAY),
            created("5", NOW - 4 * HOUR_SECONDS),
            created("6", NOW - DAY, name=on_demand, spot=False),
            created("7", NOW - DAY, name=broken),
            failed("7", NOW, name=broken),
            *life(8, node=LAB, at=NOW - DAY, age=30 * DAY),
        ],
        NOW,
    )

    lab = Labels(NAME.project, *LAB[:3], NAME.zone, LAB.machine_type)
    # The interruption at this very moment is not before it.
    assert week(opened.ledger, NOW) == {LABELS: (2, 0, 1 + 2 + 24 + 4), lab: (1, 0, 6 * 24)}


def test_the_week_has_what_was_counted_as_unknown_under_the_labels_that_are_known_by_now(
    opened: OpenedStore,
) -> None:
    opened.store.apply([interrupted("1", NOW), interrupted("2", NOW)], NOW)
    opened.store.expire(NOW + GRACE)
    opened.store.apply([created("1", NOW - HOUR_SECONDS)], NOW + GRACE)

    of_nothing = Labels(NAME.project, *UNKNOWN_NODE[:3], NAME.zone, UNKNOWN)
    assert week(opened.ledger, NOW + GRACE) == {LABELS: (1, 1, 1.0), of_nothing: (1, 1, 0.0)}


def test_the_week_has_what_overflowed_under_other(url: str) -> None:
    opened = open_store(url, Rules(grace_seconds=GRACE, max_label_sets=1))
    with closing(opened.store):
        synced(opened)
        opened.store.apply([created("1", NOW - HOUR_SECONDS)], NOW)
        opened.store.apply(life(2, node=LAB, at=NOW - HOUR_SECONDS, age=2 * HOUR_SECONDS), NOW)

        assert week(opened.ledger, NOW) == {LABELS: (0, 0, 1.0), OTHER_LABELS: (1, 0, 2.0)}
