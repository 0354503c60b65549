from typing import Final

from app.domain.events import UNKNOWN
from app.domain.history import PERIODS, Pool
from app.domain.instances import OTHER_LABELS, UNKNOWN_LABELS
from app.web.facts import Ledger
from app.web.overview import MOST_FLAVOURS, MOST_POOLS, Numbers, overview
from tests.domain.examples import LABELS
from tests.web.facts import POOL, facts, history, totals

GPU: Final = LABELS._replace(node_pool="gpu", machine_type="g2-standard-12")


def test_a_pools_numbers_are_those_of_its_zones_and_types_together() -> None:
    rows = [
        totals(hours=60, instances=2, interruptions=3),
        totals(LABELS._replace(zone="europe-west1-d"), hours=40, instances=1, interruptions=2),
    ]
    page = overview(facts(label_sets=rows, ledger=Ledger([history(week=4, median_age=90.0)])))

    (cluster,) = page.clusters
    (pool,) = cluster.pools
    assert pool.numbers == Numbers(3, 5, 100.0, 4, 4, 4, [0] * (PERIODS - 1) + [4])
    assert pool.numbers.rate == 50.0
    assert pool.median_age == 90.0
    assert page.numbers == cluster.numbers == pool.numbers


def test_of_a_few_hours_no_rate_is_told() -> None:
    assert Numbers(interruptions=1, instance_hours=9.9).rate is None
    assert Numbers(interruptions=0, instance_hours=10.0).rate == 0.0


def test_a_pool_that_lives_and_was_never_interrupted_is_shown() -> None:
    (cluster,) = overview(facts(label_sets=[totals(instances=1)])).clusters

    assert [row.pool for row in cluster.pools] == [POOL]
    assert cluster.numbers.last_week == 0


def test_what_neither_lives_nor_was_interrupted_this_week_is_not() -> None:
    page = overview(facts(label_sets=[totals(interruptions=5), totals(UNKNOWN_LABELS)]))

    assert page.clusters == []
    assert page.left_out == 0
    assert not page.is_empty


def test_clusters_of_one_name_are_apart() -> None:
    pools = [
        POOL,
        POOL._replace(cluster_location="us-east1"),
        POOL._replace(project="elsewhere"),
        POOL._replace(node_pool="second"),
    ]
    page = overview(facts(ledger=Ledger([history(pool, 9 - n) for n, pool in enumerate(pools)])))

    assert [(one.project, one.name, one.location) for one in page.clusters] == [
        ("shop-prod", "tills", "europe-west1"),
        ("shop-prod", "tills", "us-east1"),
        ("elsewhere", "tills", "europe-west1"),
    ]
    assert [row.pool for row in page.clusters[0].pools] == [pools[0], pools[3]]
    assert page.clusters[0].numbers.last_week == 15


def test_the_pools_with_most_are_shown_and_the_sums_are_of_all() -> None:
    several = [Pool("p", "one", "l", f"pool-{number:03}") for number in range(MOST_POOLS + 50)]
    page = overview(facts(ledger=Ledger([history(pool, 1 + n) for n, pool in enumerate(several)])))
    (cluster,) = page.clusters

    assert len(cluster.pools) == MOST_POOLS
    assert cluster.pools[0].pool == several[-1]
    assert page.left_out == 50
    assert page.numbers.last_week == cluster.numbers.last_week == sum(range(1, MOST_POOLS + 51))


def test_without_a_ledger_the_week_is_not_known() -> None:
    rows = [totals(instances=2, interruptions=1), totals(GPU, interruptions=1), totals(UNKNOWN_LABELS)]
    page = overview(facts(label_sets=rows, ledger=None))
    (cluster,) = page.clusters

    assert len(cluster.pools) == 2
    assert (page.numbers.instances, page.numbers.last_week, page.numbers.periods) == (2, None, ())


def test_flavours_are_told_by_their_rate_and_without_what_is_unknown() -> None:
    rows = [
        totals(hours=1000, instances=9, interruptions=10),
        totals(GPU, hours=100, instances=1, interruptions=9),
        totals(LABELS._replace(node_pool="other", zone="europe-west1-d"), hours=1000, interruptions=30),
        totals(LABELS._replace(machine_type="new"), hours=1, instances=1),
        totals(LABELS._replace(machine_type="gone"), hours=1),
        totals(UNKNOWN_LABELS, interruptions=7),
        totals(OTHER_LABELS, hours=100, instances=5, interruptions=7),
    ]
    page = overview(facts(label_sets=rows))

    assert [(one.name, one.numbers.rate) for one in page.machine_types] == [
        ("g2-standard-12", 90.0),
        ("e2-standard-8", 20.0),
        ("new", None),
    ]
    assert [one.name for one in page.zones] == ["europe-west1-d", "europe-west1-b"]
    assert page.unknown == 7


def test_there_are_not_too_many_flavours() -> None:
    rows = [totals(LABELS._replace(zone=f"z{number}"), instances=1) for number in range(MOST_FLAVOURS + 1)]
    assert len(overview(facts(label_sets=rows)).zones) == MOST_FLAVOURS


def test_an_exporter_is_empty_until_something_is_known() -> None:
    nothing = facts(label_sets=[totals(UNKNOWN_LABELS)])

    assert overview(nothing).is_empty
    assert not overview(facts(waiting=1)).is_empty
    assert not overview(facts(label_sets=[totals()])).is_empty
    assert not overview(
        facts(label_sets=[totals(LABELS._replace(cluster=UNKNOWN), interruptions=1)])
    ).is_empty
