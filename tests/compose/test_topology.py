"""The documented commands give the documented results; the services of the compose files run as processes."""

import re
from collections.abc import Iterator

import pytest

from tests.compose.composition import PLAIN, REPLICAS
from tests.compose.topology import Topology, topology

pytestmark = pytest.mark.usefixtures("quick_programs")

ORIGINAL = "mock-instance-spot-3706-5b909138-nr65"
MATCHING = "gke-shop-spot-pool-3c1f7a52-x8kd"


@pytest.fixture(scope="module", params=[PLAIN, REPLICAS], ids=str)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    with topology(request.param, tmp_path_factory.mktemp("compose")) as running:
        yield running


@pytest.fixture(scope="module")
def outputs(running: Topology) -> tuple[list[str], list[str]]:
    """Return the output lines of `samples`, and of `show`, during which the grace period ends."""

    def end_grace_period(line: str) -> None:
        if " shop 1" in line:  # nothing is held back any more
            running.end_grace_periods()

    return running.run("samples"), running.run("show", on_line=end_grace_period)


def test_existing_topics_are_not_changed(running: Topology) -> None:
    assert running.run("topics") == [
        "topics/sie-creation  exists",
        "subscriptions/sie-creation-subscription  exists",
        "topics/sie-interruption  exists",
        "subscriptions/sie-interruption-subscription  exists",
    ]


def test_the_samples_are_tracked_pending_tracked_and_counted(outputs: tuple[list[str], list[str]]) -> None:
    published, _ = outputs

    assert [line.split() for line in published] == [
        ["creation", "fake-resource", "tracked"],
        ["interruption", ORIGINAL, "pending"],
        ["creation", MATCHING, "tracked"],
        ["interruption", MATCHING, "counted"],
    ]


def test_the_counters_rise_and_the_pending_interruption_becomes_unknown(
    outputs: tuple[list[str], list[str]],
) -> None:
    _, shown = outputs
    rows = [re.fullmatch(r"\d\d:\d\d:\d\d  (.*)", line) for line in shown]

    assert all(rows)
    # On a slow machine, `show` starts before the last series was scraped for the first time.
    values = [dict(re.findall(r"([\w-]+) (\d+)", row[1])) for row in rows if row is not None]
    for name, falls in (("pending", True), ("shop", False), ("unknown", False)):
        numbers = [int(value.get(name, 0)) for value in values]
        assert numbers == sorted(numbers, reverse=falls)
    assert {value["pending"] for value in values} == {"1", "0"}
    assert rows[-1] is not None
    assert rows[-1][1] == "pending 0  fake-cluster 0  shop 1  unknown 1"


def test_the_matching_pair_counts_once_even_if_published_again(
    running: Topology, outputs: tuple[list[str], list[str]]
) -> None:
    outcomes = [line.split()[-1] for line in running.run("samples")]

    # Only their message ids identify the original samples, so a second publication is a new event.
    assert outcomes == ["tracked", "pending", "duplicate", "duplicate"]
    shown = [running.get(f"{name}:8090", "/metrics").text for name in running.compose.exporters]
    counted = re.findall(r'interruption_events_total{kubernetes_cluster="shop"} (.*)', "".join(shown))
    assert sum(map(float, counted)) == 1


def test_every_exporter_receives_pushes(running: Topology, outputs: tuple[list[str], list[str]]) -> None:
    for name in running.compose.exporters:
        shown = running.get(f"{name}:8090", "/metrics").text
        answers = re.findall(r"push_messages_total{.*} (.*)", shown)
        assert sum(map(float, answers))


def test_prometheus_scrapes_each_exporter_with_the_labels_that_the_rules_expect(running: Topology) -> None:
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
