"""docker-compose.yaml's topology, run as processes: the documented commands give the documented result."""

import re
from collections.abc import Iterator

import pytest

from tests.compose.topology import Topology, topology

ORIGINAL = "mock-instance-spot-3706-5b909138-nr65"
MATCHING = "gke-shop-spot-pool-3c1f7a52-x8kd"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with topology(tmp_path_factory.mktemp("compose")) as running:
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
    exposition = running.get("exporter:8090", "/metrics").text
    assert 'interruption_events_total{kubernetes_cluster="shop"} 1.0' in exposition


def test_prometheus_scrapes_the_exporter_under_the_name_that_the_rules_expect(running: Topology) -> None:
    [target] = running.get("prometheus:9090", "/api/v1/targets").json()["data"]["activeTargets"]

    assert target["health"] == "up"
    assert "spot-interruption-exporter" in target["labels"]["job"]


def test_prometheus_evaluates_the_rules_without_an_error(running: Topology) -> None:
    groups = running.get("prometheus:9090", "/api/v1/rules").json()["data"]["groups"]

    assert groups
    assert [rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")] == []
