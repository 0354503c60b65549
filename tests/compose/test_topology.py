"""The compose files' topologies, run as processes: the documented commands give the documented result."""

import re
from collections.abc import Iterator

import pytest

from tests.compose.composition import PLAIN, REPLICAS
from tests.compose.topology import Topology, topology

ORIGINAL = "mock-instance-spot-3706-5b909138-nr65"
MATCHING = "gke-shop-spot-pool-3c1f7a52-x8kd"


@pytest.fixture(scope="module", params=[PLAIN, REPLICAS], ids=str)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with topology(request.param, tmp_path_factory.mktemp("compose")) as running:
        yield running


@pytest.fixture(scope="module")
def told(running: Topology) -> tuple[list[str], list[str]]:
    """What the two commands print, one after the other."""
    return running.run("samples"), running.run("show")


def test_topics_that_are_there_are_left_alone(running: Topology) -> None:
    assert running.run("topics") == [
        "topics/sie-creation  is there",
        "subscriptions/sie-creation-subscription  is there",
        "topics/sie-interruption  is there",
        "subscriptions/sie-interruption-subscription  is there",
    ]


def test_the_samples_are_tracked_pending_tracked_and_counted(told: tuple[list[str], list[str]]) -> None:
    published, _ = told

    assert [line.split() for line in published] == [
        ["creation", "fake-resource", "tracked"],
        ["interruption", ORIGINAL, "pending"],
        ["creation", MATCHING, "tracked"],
        ["interruption", MATCHING, "counted"],
    ]


def test_the_counters_rise_and_what_is_pending_becomes_unknown(told: tuple[list[str], list[str]]) -> None:
    _, shown = told
    rows = [re.fullmatch(r"\d\d:\d\d:\d\d  (.*)", line) for line in shown]

    assert all(rows)
    assert rows[0] is not None
    assert rows[0][1] in (
        "pending 1  fake-cluster 0  shop 0  unknown 0",  # held back: it is new to Prometheus
        "pending 1  fake-cluster 0  shop 1  unknown 0",
    )
    assert rows[-1] is not None
    assert rows[-1][1] == "pending 0  fake-cluster 0  shop 1  unknown 1"


def test_the_pair_that_matches_counts_once_however_often_it_is_published(
    running: Topology, told: tuple[list[str], list[str]]
) -> None:
    again = [line.split()[-1] for line in running.run("samples")]

    # The original's samples carry no identity but their message ids: published again, they are new events.
    assert again == ["tracked", "pending", "duplicate", "duplicate"]
    shown = [running.get(f"{name}:8090", "/metrics").text for name in running.compose.exporters]
    counted = re.findall(r'interruption_events_total{kubernetes_cluster="shop"} (.*)', "".join(shown))
    assert sum(map(float, counted)) == 1


def test_every_exporter_has_its_share_of_the_pushes(
    running: Topology, told: tuple[list[str], list[str]]
) -> None:
    for name in running.compose.exporters:
        shown = running.get(f"{name}:8090", "/metrics").text
        answers = re.findall(r"push_messages_total{.*} (.*)", shown)
        assert sum(map(float, answers))


def test_prometheus_scrapes_each_exporter_under_the_names_that_the_rules_expect(running: Topology) -> None:
    targets = running.get("prometheus:9090", "/api/v1/targets").json()["data"]["activeTargets"]

    assert {target["health"] for target in targets} == {"up"}
    assert {target["labels"]["job"] for target in targets} == {"spot-interruption-exporter"}
    names = {target["labels"]["instance"] for target in targets}
    assert len(names) == len(running.compose.exporters)
    if running.compose is REPLICAS:
        assert names == set(running.compose.exporters)


def test_prometheus_evaluates_the_rules_without_an_error(running: Topology) -> None:
    groups = running.get("prometheus:9090", "/api/v1/rules").json()["data"]["groups"]

    assert groups
    assert [rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")] == []
