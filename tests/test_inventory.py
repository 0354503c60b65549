"""The inventory of a running exporter: the real child lists a local Compute API."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.domain.events import UNKNOWN
from app.domain.times import rfc3339
from tests.support.children import children, ignore_present_children
from tests.support.clock import Clock
from tests.support.compute_api import (
    ACCESS_NOT_CONFIGURED,
    BACKEND_ERROR,
    EMPTY_OBJECT,
    FORBIDDEN,
    RATE_LIMIT_EXCEEDED,
    ComputeApi,
    Failure,
    FakeInstance,
    Hold,
    ManyInstances,
    node_labels,
)
from tests.support.entries import changed, insert
from tests.support.exporter import OWN, Exporter
from tests.support.process import LOOPBACK, eventually

PROJECT, ZONE = "shop-prod", "us-east1-b"
WITHIN = 60.0


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", LOOPBACK)
    monkeypatch.setenv("no_proxy", LOOPBACK)


@pytest.fixture
def api() -> Iterator[ComputeApi]:
    with ComputeApi() as api:
        yield api


def exporting(
    directory: Path,
    api: ComputeApi,
    *projects: str,
    interval_seconds: float = 600,
    pause_seconds: float = 0,
    page_seconds: float = 60,
    clock: Clock | None = None,
) -> Exporter:
    settings: dict[str, object] = {
        "projects": list(projects or [PROJECT]),
        "inventory.endpoint": api.url,
        "inventory.interval_seconds": interval_seconds,
    }
    return Exporter(
        directory,
        settings,
        shortest_pause_seconds=pause_seconds,
        page_seconds=page_seconds,
        clock=clock or Clock(),
    )


def node(name: str, cluster: str = "tills", **fields: Any) -> FakeInstance:  # noqa: ANN401  # FakeInstance's own
    """Return a Spot node whose id is derived from its name."""
    return FakeInstance(name, id=instance_id_of(name), labels=node_labels(cluster), **fields)


def instance_id_of(name: str) -> str:
    return str(sum(byte * 257**place for place, byte in enumerate(name.encode()[:8])))


def interrupt(exporter: Exporter, name: str, at: str = "2026-03-02T11:40:55.308114Z", **fields: str) -> str:
    """Push an interruption, and return its outcome."""
    fields = {"zone": ZONE, "instance_id": instance_id_of(name), "timestamp": at} | fields
    outcome: str = exporter.interrupt(name, **fields).json()["outcome"]
    return outcome


def ready(exporter: Exporter) -> bool:
    return exporter.client.get(f"{exporter.url}/readyz").status_code == 200


def await_ready(exporter: Exporter) -> None:
    eventually(lambda: ready(exporter), within=WITHIN, what="ready")


def missing(exporter: Exporter) -> str:
    response = exporter.client.get(f"{exporter.url}/readyz")
    assert response.status_code == 503
    return str(response.json()["detail"])


def interruptions(exporter: Exporter, cluster: str = "tills") -> float | None:
    return exporter.value("interruption_events_total", kubernetes_cluster=cluster)


def alive(exporter: Exporter) -> float:
    return sum(value for (name, _), value in exporter.exposition().items() if name == "spot_instances")


def failures(exporter: Exporter, reason: str, project: str = PROJECT) -> float | None:
    return exporter.value(f"{OWN}_inventory_failures_total", project=project, reason=reason)


def listed_at(exporter: Exporter, project: str = PROJECT) -> float:
    return exporter.value(f"{OWN}_inventory_last_success_timestamp_seconds", project=project) or 0.0


def list_again(exporter: Exporter) -> None:
    """Request a listing of the project by an interruption of an unknown instance, and wait for it."""
    last = listed_at(exporter)
    assert interrupt(exporter, f"stranger-{time.monotonic_ns()}") == "pending"
    eventually(lambda: listed_at(exporter) > last, within=WITHIN, what="another listing")


@pytest.fixture(autouse=True)
def _only_own_children(quick_children: None) -> None:  # its server is a child
    ignore_present_children()


def warnings(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records if record.levelno >= logging.WARNING]


# The first listing


def test_once_the_fleet_is_listed_it_is_ready_and_attributes_at_once(tmp_path: Path, api: ComputeApi) -> None:
    plain = {"preemptible": False, "provisioningModel": "STANDARD"}
    api.projects[PROJECT] = [
        *(node(f"node-{number}") for number in range(3)),
        FakeInstance("zonal", id="11", labels=node_labels("tills", location="us-east1-b")),
        FakeInstance("legacy", id="12", labels=node_labels("books"), scheduling={"preemptible": True}),
        FakeInstance("on-demand", id="13", labels={"goog-k8s-cluster-name": "desks"}, scheduling=plain),
        FakeInstance("old", id="14", labels={"goog-gke-node": ""}),
        FakeInstance("stopped", id="15", labels=node_labels("tills"), status="TERMINATED"),
        FakeInstance("batch-job", id="16"),
    ]
    hold = Hold()
    api.fail(hold)
    with exporting(tmp_path, api) as exporter:
        assert missing(exporter) == f"the fleet of project {PROJECT} has not been listed yet"
        assert listed_at(exporter) == 0
        began = time.time()
        hold.until.set()
        await_ready(exporter)

        assert exporter.value(f"{OWN}_inventory_instances", project=PROJECT) == 9
        assert began - 10 < listed_at(exporter) < time.time()
        assert 0 < (exporter.value(f"{OWN}_inventory_duration_seconds", project=PROJECT) or 0) < WITHIN
        assert failures(exporter, "forbidden") == 0
        six = {
            "project": PROJECT,
            "kubernetes_cluster": "tills",
            "cluster_location": "us-east1",
            "node_pool": "spot-pool",
            "zone": ZONE,
            "machine_type": "e2-standard-8",
        }
        assert exporter.value("spot_instances", **six) == 3
        assert exporter.value("spot_instances", **six | {"cluster_location": "us-east1-b"}) == 1
        assert alive(exporter) == 6
        assert exporter.value("spot_instances_created_total", **six) == 0
        assert interruptions(exporter) == 0
        assert interruptions(exporter, "desks") == 0

        assert interrupt(exporter, "node-1") == "counted"
        assert interrupt(exporter, "zonal", instance_id="11") == "counted"
        assert interrupt(exporter, "legacy", instance_id="12") == "counted"
        assert interrupt(exporter, "old", instance_id="14") == "counted"
        assert interrupt(exporter, "stopped", instance_id="15") == "counted"
        assert exporter.interrupt("batch-job", zone=ZONE, instance_id="16").json() == {
            "outcome": "ignored",
            "reason": "not_a_node",
        }
        assert exporter.value("spot_interruptions_total", **six) == 2
        assert interruptions(exporter) == 3
        assert interruptions(exporter, "books") == 1
        assert interruptions(exporter, UNKNOWN) == 1
        assert exporter.value("spot_instances", **six) == 2


@pytest.mark.parametrize(
    "settings",
    [{"inventory.enabled": False, "project_name": PROJECT}, {"inventory.enabled": True}],
    ids=["disabled", "no-project"],
)
def test_without_a_project_to_list_it_is_ready_at_once(tmp_path: Path, settings: dict[str, object]) -> None:
    with Exporter(tmp_path, settings) as exporter:
        assert ready(exporter)
        assert interrupt(exporter, "node") == "pending"
        assert not children()


# A listing that is asked for


def test_a_pending_interruption_asks_for_a_listing_that_releases_it(tmp_path: Path, api: ComputeApi) -> None:
    api.projects[PROJECT] = []
    with exporting(tmp_path, api) as exporter:
        await_ready(exporter)
        api.projects[PROJECT] = [node("node")]

        assert interrupt(exporter, "node") == "pending"
        eventually(lambda: interruptions(exporter), within=WITHIN, what="the release")

        assert exporter.value(f"{OWN}_pending_released_total", by="inventory") == 1
        assert exporter.value(f"{OWN}_pending_interruptions") == 0
        assert alive(exporter) == 0
        assert interrupt(exporter, "node") == "duplicate"


def later_than(listing: float, exporter: Exporter) -> float | None:
    at = listed_at(exporter)
    return at if at > listing else None


def test_listings_that_are_asked_for_keep_a_pause(tmp_path: Path, api: ComputeApi) -> None:
    api.projects[PROJECT] = []
    with exporting(tmp_path, api, pause_seconds=3) as exporter:
        await_ready(exporter)
        first = listed_at(exporter)
        interrupt(exporter, "node")
        second = eventually(lambda: later_than(first, exporter), within=WITHIN, what="the listing asked for")
        for number in range(5):
            interrupt(exporter, f"node-{number}")
            interrupt(exporter, "elsewhere", project="another-project", at=f"2026-03-02T11:40:{number:02}Z")
        third = eventually(lambda: later_than(second, exporter), within=WITHIN, what="the next one")

        assert third - second > 2.9
        assert [request.project for request in api.requests] == [PROJECT] * 3


# Listings that fail


def test_listings_that_fail_keep_the_map_and_the_next_round_repairs_it(
    tmp_path: Path, api: ComputeApi, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    api.page_size = 2
    api.projects[PROJECT] = [node(f"node-{number}") for number in range(5)]
    with exporting(tmp_path, api, clock=clock, page_seconds=0.1, interval_seconds=0.01) as exporter:
        await_ready(exporter)
        # Which answers lead to these reasons is the subject of gcp/test_compute.py.
        for failure, reason, page in [
            (FORBIDDEN, "forbidden", 1),
            (FORBIDDEN, "forbidden", 3),
            (ACCESS_NOT_CONFIGURED, "api_disabled", 3),
            (RATE_LIMIT_EXCEEDED, "rate_limited", 3),
            (BACKEND_ERROR, "unavailable", 1),
            (BACKEND_ERROR, "unavailable", 3),
            (EMPTY_OBJECT, "malformed", 3),
        ]:
            fail_once(exporter, api, failure, reason, page)
            # What was confirmed a moment ago would be kept in any case.
            clock.ahead += 3600
            assert alive(exporter) == 5
        last = listed_at(exporter)
        eventually(lambda: listed_at(exporter) > last, within=WITHIN, what="the next round")
        assert alive(exporter) == 5
        assert ready(exporter)
    told = {(line["reason"], line["project"]) for line in warnings(caplog)}
    reasons = ("forbidden", "api_disabled", "rate_limited", "unavailable", "malformed")
    assert told == {(reason, PROJECT) for reason in reasons}


def fail_once(exporter: Exporter, api: ComputeApi, failure: Failure, reason: str, page: int) -> None:
    """Let a listing fail at the page, however often it retries."""
    before = failures(exporter, reason) or 0
    api.fail(failure, page=page, times=100)
    eventually(lambda: (failures(exporter, reason) or 0) > before, within=WITHIN, what=reason)
    api.recover()


def test_a_listing_that_is_killed_ends_nothing_and_its_place_is_free(tmp_path: Path, api: ComputeApi) -> None:
    clock = Clock()
    api.page_size = 2
    api.projects[PROJECT] = [node(f"node-{number}") for number in range(5)]
    with exporting(tmp_path, api, clock=clock) as exporter:
        await_ready(exporter)
        clock.ahead += 3600
        hold = Hold()
        api.fail(hold, page=2)
        asked = len(api.requests)
        interrupt(exporter, "node-5")
        eventually(lambda: len(api.requests) == asked + 2, within=WITHIN, what="the second page's request")
        (child,) = children()
        next_listing = Hold()
        api.fail(next_listing)
        os.kill(int(child), 9)
        eventually(lambda: failures(exporter, "cut_off") == 1, within=WITHIN, what="the failure")
        assert alive(exporter) == 5
        # The next one comes by itself, and with it the explanation.
        api.projects[PROJECT] = [node("node-5")]
        next_listing.until.set()
        eventually(lambda: interruptions(exporter), within=WITHIN, what="the release")
        eventually(lambda: alive(exporter) == 0, within=WITHIN, what="the end of those not named")


def test_a_zone_that_is_not_reached_keeps_what_was_known_in_it(
    tmp_path: Path, api: ComputeApi, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    api.projects[PROJECT] = [node("here"), node("there", zone="us-east1-c")]
    with exporting(tmp_path, api, clock=clock) as exporter:
        await_ready(exporter)
        clock.ahead += 3600
        api.projects[PROJECT] = []
        api.unreachables[PROJECT] = [f"projects/{PROJECT}/zones/us-east1-c"]
        list_again(exporter)

        assert alive(exporter) == 1
        assert failures(exporter, "partial") == 1
        assert warnings(caplog)[-1]["msg"] == "fleet listed in part"
        assert "us-east1-c" in warnings(caplog)[-1]["error"]
        assert interrupt(exporter, "there", zone="us-east1-c") == "counted"

        clock.ahead += 3600
        api.unreachables.clear()
        list_again(exporter)
        assert alive(exporter) == 0
        assert failures(exporter, "partial") == 1


def test_one_of_several_projects_may_fail(tmp_path: Path, api: ComputeApi) -> None:
    api.projects = {"first": [node("node")], "third": ManyInstances(3)}
    hold = Hold()
    api.fail(hold, project="third")
    api.fail(FORBIDDEN, project="second", times=100)
    with exporting(tmp_path, api, "first", "second", "third", pause_seconds=60) as exporter:
        eventually(lambda: listed_at(exporter, "first"), within=WITHIN, what="the first project's listing")
        eventually(lambda: failures(exporter, "forbidden", "second"), within=WITHIN, what="the failure")
        # Not all were tried.
        assert missing(exporter) == "the fleet of project third has not been listed yet"
        hold.until.set()
        await_ready(exporter)

        assert failures(exporter, "forbidden", "first") == 0
        assert exporter.value(f"{OWN}_inventory_instances", project="third") == 3
        assert exporter.value(f"{OWN}_inventory_instances", project="second") is None
        assert interrupt(exporter, "node", project="first") == "counted"


def test_projects_are_listed_one_after_the_other(tmp_path: Path, api: ComputeApi) -> None:
    hold = Hold()
    for project in ("first", "second", "third"):
        api.projects[project] = ManyInstances(3)
        api.fail(hold, project=project)
    with exporting(tmp_path, api, "first", "second", "third") as exporter:
        eventually(lambda: api.requests, within=WITHIN, what="the first request")
        assert len(children()) == 1
        hold.until.set()
        await_ready(exporter)

        assert [request.project for request in api.requests] == ["first", "second", "third"]


def test_bad_projects_share_the_time_for_which_they_hold_up_a_good_one(
    tmp_path: Path, api: ComputeApi, caplog: pytest.LogCaptureFixture
) -> None:
    api.projects = {"good": [node("node")]}
    api.fail(Hold(), project="hanging", times=1000)
    api.fail(BACKEND_ERROR, project="failing", times=1000)
    caplog.set_level(logging.INFO, "app.inventory")
    with exporting(tmp_path, api, "hanging", "failing", "good", page_seconds=6, pause_seconds=60) as exporter:
        eventually(lambda: listed_at(exporter, "good"), within=WITHIN, what="the good one's listing")

        ended = [
            vars(record) for record in caplog.records if record.msg in ("fleet listed", "fleet not listed")
        ]
        assert [line["project"] for line in ended[:3]] == ["hanging", "failing", "good"]
        # Not the 6 s that a page may take if nobody waits, nor the 30 s of a request that hangs.
        # On a slow machine the failing one may have failed by itself before.
        assert " for 2 s while others waited" in ended[0]["error"]
        assert {line["reason"] for line in ended[:2]} == {"unavailable"}
        assert interrupt(exporter, "node", project="good") == "counted"


def test_a_project_that_failed_last_time_goes_behind_and_gives_way(tmp_path: Path, api: ComputeApi) -> None:
    api.projects = {"good": []}
    hold = Hold()
    api.fail(hold, project="hanging", times=1000)
    with exporting(tmp_path, api, "hanging", "good", page_seconds=2) as exporter:
        eventually(lambda: listed_at(exporter, "good"), within=WITHIN, what="the good one's listing")
        eventually(lambda: api.requests[-1].project == "hanging", within=WITHIN, what="its second turn")
        api.projects["good"] = [node("node")]

        assert interrupt(exporter, "node", project="good") == "pending"
        eventually(lambda: interruptions(exporter), within=WITHIN, what="the release")

        # While nobody waits it may take as long as it needs.
        api.projects["hanging"] = ManyInstances(3)
        eventually(lambda: api.requests[-1].project == "hanging", within=WITHIN, what="its third turn")
        hold.until.set()
        eventually(lambda: listed_at(exporter, "hanging"), within=WITHIN, what="its listing")


def test_without_a_project_that_can_be_listed_it_is_not_ready_and_accepts_pushes(
    tmp_path: Path, api: ComputeApi
) -> None:
    api.fail(FORBIDDEN, times=100)
    with exporting(tmp_path, api, pause_seconds=60) as exporter:
        eventually(lambda: failures(exporter, "forbidden"), within=WITHIN, what="the failure")
        assert missing(exporter) == "no project's fleet could be listed; the log has the reasons"
        assert exporter.client.get(f"{exporter.url}/healthz").status_code == 200
        assert interrupt(exporter, "node") == "pending"
        exporter.create("known")
        assert exporter.interrupt("known").json()["outcome"] == "counted"


# What is remembered


def test_the_first_listing_after_a_start_finds_the_changes_of_the_outage(
    tmp_path: Path, api: ComputeApi
) -> None:
    api.projects[PROJECT] = [node("node-1"), node("node-2")]
    exporter = exporting(tmp_path, api, page_seconds=0.2)
    with exporter:
        await_ready(exporter)
    api.fail(BACKEND_ERROR, times=1000)
    with exporter:
        # The API is down, too: the remembered fleet is enough.
        assert ready(exporter)
        assert interrupt(exporter, "node-1") == "counted"
        assert interruptions(exporter) == 1
        # Created and interrupted while nobody listened; stopped, it is listed still.
        api.projects[PROJECT] = [node("node-2"), node("node-3", status="TERMINATED")]
        assert interrupt(exporter, "node-3") == "pending"
        eventually(lambda: failures(exporter, "unavailable"), within=WITHIN, what="the failure")
        assert interruptions(exporter) == 1
        api.recover()
        eventually(lambda: interruptions(exporter) == 2, within=WITHIN, what="the release")
        assert alive(exporter) == 1


# What lives


def test_after_a_scale_down_late_interruptions_find_their_instances(tmp_path: Path, api: ComputeApi) -> None:
    clock = Clock()
    fleet = [node(f"n-{number}") for number in range(1000)]
    api.projects[PROJECT] = fleet
    with exporting(tmp_path, api, clock=clock) as exporter:
        await_ready(exporter)
        assert alive(exporter) == 1000
        clock.ahead += 3600
        api.projects[PROJECT] = fleet[:100]
        list_again(exporter)

        assert alive(exporter) == 100
        assert {interrupt(exporter, f"n-{number}") for number in range(0, 1000, 50)} == {"counted"}
        assert interruptions(exporter) == 20
        assert alive(exporter) == 98


def test_an_instance_created_during_the_listing_is_not_ended(tmp_path: Path, api: ComputeApi) -> None:
    clock = Clock()
    api.projects[PROJECT] = [node("node")]
    with exporting(tmp_path, api, clock=clock) as exporter:
        await_ready(exporter)
        clock.ahead += 3600
        hold = Hold()
        api.fail(hold)
        asked, last = len(api.requests), listed_at(exporter)
        interrupt(exporter, "stranger")
        eventually(lambda: len(api.requests) > asked, within=WITHIN, what="the listing")
        entry = insert("new", zone=ZONE, cluster="tills")
        exporter.deliver("creation", changed(entry, "timestamp", rfc3339(clock())))
        clock.ahead += 600
        hold.until.set()
        eventually(lambda: listed_at(exporter) > last, within=WITHIN, what="its end")
        assert alive(exporter) == 2
        # And after a second listing that does not name it either, it is.
        clock.ahead += 600
        list_again(exporter)
        assert alive(exporter) == 1


def test_only_a_later_start_brings_back_what_was_interrupted(tmp_path: Path, api: ComputeApi) -> None:
    api.projects[PROJECT] = [node("node", started="2026-03-01T10:00:00Z")]
    with exporting(tmp_path, api) as exporter:
        await_ready(exporter)
        assert interrupt(exporter, "node", at="2026-03-01T12:00:00Z") == "counted"
        # For minutes it may still be listed as running.
        list_again(exporter)
        assert alive(exporter) == 0
        assert interrupt(exporter, "node", at="2026-03-01T12:00:00Z") == "duplicate"

        api.projects[PROJECT] = [node("node", started="2026-03-01T13:00:00Z")]
        list_again(exporter)
        assert alive(exporter) == 1
        assert interrupt(exporter, "node", at="2026-03-01T14:00:00Z") == "counted"
        assert alive(exporter) == 0
        assert interruptions(exporter) == 2
        lifetimes = {"kubernetes_cluster": "tills", "machine_type": "e2-standard-8"}
        assert exporter.value("spot_instance_lifetime_seconds_count", **lifetimes) == 2
        assert exporter.value("spot_instance_lifetime_seconds_sum", **lifetimes) == 2 * 3600 + 3600


# Stopping


def test_stopped_while_it_lists_it_ends_at_once_and_leaves_no_child(
    tmp_path: Path, api: ComputeApi, caplog: pytest.LogCaptureFixture
) -> None:
    api.projects[PROJECT] = ManyInstances(600)
    api.fail(Hold(), page=2)
    # Longer than `stop` waits.
    exporter = exporting(tmp_path, api, page_seconds=600)
    exporter.start()
    eventually(lambda: len(api.requests) == 2, within=WITHIN, what="the second page's request")
    assert len(children()) == 1
    exporter.stop()

    assert not children()
    assert not warnings(caplog)
