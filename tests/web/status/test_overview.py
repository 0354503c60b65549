from dataclasses import replace
from typing import Final

import pytest

from app.domain.events import UNKNOWN
from app.domain.instances import OTHER_LABELS, UNKNOWN_LABELS
from app.domain.ledger import PERIODS, Pool
from app.web.status.overview import MAX_BREAKDOWNS, MAX_POOLS, Numbers, overview
from app.web.status.snapshot import Ledger, Window
from tests.support.examples import LABELS
from tests.web.status.snapshots import POOL, history, snapshot, totals, week

YOUNG: Final = Ledger(week=[week(hours=1_000_000)])
"""The ledger of a store that counts for less than 7 days, so that the page shows its totals."""
GPU: Final = LABELS._replace(node_pool="gpu", machine_type="g2-standard-12")


def test_a_pools_numbers_are_those_of_its_zones_and_types_together() -> None:
    rows = [
        totals(hours=60, instances=2, interruptions=3),
        totals(LABELS._replace(zone="europe-west1-d"), hours=40, instances=1, interruptions=2),
    ]
    page = overview(
        snapshot(label_sets=rows, ledger=replace(YOUNG, pools=[history(week=4, median_age=90.0)]))
    )

    (cluster,) = page.clusters
    (pool,) = cluster.pools
    assert pool.numbers == Numbers(3, 5, 100.0, 4, 4, 4, [0] * (PERIODS - 1) + [4])
    assert pool.numbers.rate == 50.0
    assert pool.median_age == 90.0
    assert page.numbers == cluster.numbers == pool.numbers


def test_no_rate_is_shown_of_a_few_hours() -> None:
    assert Numbers(interruptions=1, instance_hours=9.9).rate is None
    assert Numbers(interruptions=0, instance_hours=10.0).rate == 0.0


def test_a_pool_that_lives_and_was_never_interrupted_is_shown() -> None:
    (cluster,) = overview(snapshot(label_sets=[totals(instances=1)])).clusters

    assert [row.pool for row in cluster.pools] == [POOL]
    assert cluster.numbers.last_week == 0


def test_a_pool_without_instances_or_interruptions_this_week_is_not_shown() -> None:
    page = overview(snapshot(label_sets=[totals(interruptions=5), totals(UNKNOWN_LABELS)]))

    assert page.clusters == []
    assert page.hidden_pools == 0
    assert not page.is_empty


def test_clusters_of_one_name_are_apart() -> None:
    pools = [
        POOL,
        POOL._replace(cluster_location="us-east1"),
        POOL._replace(project="elsewhere"),
        POOL._replace(node_pool="second"),
    ]
    page = overview(snapshot(ledger=Ledger([history(pool, 9 - n) for n, pool in enumerate(pools)])))

    assert [(one.project, one.name, one.location) for one in page.clusters] == [
        ("shop-prod", "tills", "europe-west1"),
        ("shop-prod", "tills", "us-east1"),
        ("elsewhere", "tills", "europe-west1"),
    ]
    assert [row.pool for row in page.clusters[0].pools] == [pools[0], pools[3]]
    assert page.clusters[0].numbers.last_week == 15


def test_the_pools_with_most_are_shown_and_the_sums_are_of_all() -> None:
    count_noun = [Pool("p", "one", "l", f"pool-{number:03}") for number in range(MAX_POOLS + 50)]
    page = overview(snapshot(ledger=Ledger([history(pool, 1 + n) for n, pool in enumerate(count_noun)])))
    (cluster,) = page.clusters

    assert len(cluster.pools) == MAX_POOLS
    assert cluster.pools[0].pool == count_noun[-1]
    assert page.hidden_pools == 50
    assert page.numbers.last_week == cluster.numbers.last_week == sum(range(1, MAX_POOLS + 51))


def test_without_a_ledger_the_week_is_not_known() -> None:
    rows = [totals(instances=2, interruptions=1), totals(GPU, interruptions=1), totals(UNKNOWN_LABELS)]
    page = overview(snapshot(label_sets=rows, ledger=None))
    (cluster,) = page.clusters

    assert len(cluster.pools) == 2
    assert (page.numbers.instances, page.numbers.last_week, page.numbers.periods) == (2, None, ())


def test_rates_and_shares_are_of_the_last_seven_days_wherever_they_are_shown() -> None:
    unknown = UNKNOWN_LABELS._replace(project=LABELS.project)
    page = overview(
        snapshot(
            label_sets=[
                totals(hours=9000, instances=1, interruptions=500),
                totals(UNKNOWN_LABELS, interruptions=90),
            ],
            ledger=Ledger(
                [history(week=7)],
                week=[
                    week(interruptions=7, counted_as_unknown=1),
                    week(hours=140),
                    week(unknown, interruptions=3, counted_as_unknown=3),
                ],
            ),
        )
    )

    assert page.window is Window.WEEK
    assert (page.numbers.interruptions, page.numbers.instance_hours, page.unknown) == (10, 140, 4)
    (cluster,) = page.clusters
    (machine_type,) = page.machine_types
    (zone,) = page.zones
    assert cluster.numbers.rate == cluster.pools[0].numbers.rate == 50.0
    assert machine_type.numbers.rate == zone.numbers.rate == 50.0


@pytest.mark.parametrize(
    "ledger",
    [
        pytest.param(Ledger([history(week=2)], week=[week(interruptions=2, hours=168)]), id="young"),
        pytest.param(None, id="no-ledger"),
    ],
)
def test_rates_and_shares_are_since_counting_began_if_that_is_younger_or_all_that_is_known(
    ledger: Ledger | None,
) -> None:
    rows = [totals(hours=20, instances=1, interruptions=3), totals(UNKNOWN_LABELS, interruptions=1)]
    page = overview(snapshot(label_sets=rows, ledger=ledger))

    assert page.window is Window.SINCE_COUNTING_BEGAN
    assert (page.numbers.interruptions, page.numbers.instance_hours, page.unknown) == (4, 20, 1)


def test_machine_types_and_zones_are_in_the_order_of_their_rates_and_without_the_unknown() -> None:
    rows = [
        totals(hours=1000, instances=9, interruptions=10),
        totals(GPU, hours=100, instances=1, interruptions=9),
        totals(LABELS._replace(node_pool="other", zone="europe-west1-d"), hours=1000, interruptions=30),
        totals(LABELS._replace(machine_type="new"), hours=1, instances=1),
        totals(LABELS._replace(machine_type="gone"), hours=1),
        totals(UNKNOWN_LABELS, interruptions=7),
        totals(OTHER_LABELS, hours=100, instances=5, interruptions=7),
    ]
    page = overview(snapshot(label_sets=rows, ledger=YOUNG))

    assert [(one.name, one.numbers.rate) for one in page.machine_types] == [
        ("g2-standard-12", 90.0),
        ("e2-standard-8", 20.0),
        ("new", None),
    ]
    assert [one.name for one in page.zones] == ["europe-west1-d", "europe-west1-b"]
    assert page.unknown == 7


def test_the_number_of_zones_is_limited() -> None:
    rows = [totals(LABELS._replace(zone=f"z{number}"), instances=1) for number in range(MAX_BREAKDOWNS + 1)]
    assert len(overview(snapshot(label_sets=rows)).zones) == MAX_BREAKDOWNS


def test_an_exporter_is_empty_until_something_is_known() -> None:
    nothing = snapshot(label_sets=[totals(UNKNOWN_LABELS)])

    assert overview(nothing).is_empty
    assert not overview(snapshot(pending=1)).is_empty
    assert not overview(snapshot(label_sets=[totals()])).is_empty
    assert not overview(
        snapshot(label_sets=[totals(LABELS._replace(cluster=UNKNOWN), interruptions=1)])
    ).is_empty
