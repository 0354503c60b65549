"""Replicas with different projects: the leading replica lists the projects of all living replicas."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.compute_api import ComputeApi, FakeInstance, node_labels
from tests.support.exporter import OWN, Exporter
from tests.support.process import LOOPBACK, eventually
from tests.support.redis import RedisServer, key

pytestmark = pytest.mark.usefixtures("quick_children")

SHOP, TILLS, ZONE = "shop-prod", "till-prod", "us-east1-b"
WITHIN: Final = 60.0
LISTED_AT: Final = f"{OWN}_inventory_last_success_timestamp_seconds"
READ_AT: Final = f"{OWN}_recovery_last_success_timestamp_seconds"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", LOOPBACK)
    monkeypatch.setenv("no_proxy", LOOPBACK)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis", "--appendonly", "no") as redis:
        yield redis


@pytest.fixture
def api() -> Iterator[ComputeApi]:
    with ComputeApi() as api:
        for project in (SHOP, TILLS):
            node = FakeInstance(f"gke-{project}", id="7", zone=ZONE, labels=node_labels(project))
            api.projects[project] = [node]
        yield api


def replica(
    directory: Path, redis: RedisServer, api: ComputeApi, name: str, projects: list[str], **settings: object
) -> Exporter:
    return Exporter(
        directory,
        {
            "store.url": redis.url,
            "store.replica": name,
            "projects": projects,
            "inventory.endpoint": api.url,
            "inventory.interval_seconds": 86400,
            "recovery.enabled": True,
            **settings,
        },
        shortest_pause_seconds=0,
    )


def interrupt(exporter: Exporter, project: str) -> str:
    response = exporter.interrupt(f"gke-{project}", project=project, zone=ZONE, instance_id="7")
    outcome: str = response.json()["outcome"]
    return outcome


def is_listed(exporter: Exporter, project: str) -> bool:
    return exporter.value(LISTED_AT, project=project) is not None


def lines(caplog: pytest.LogCaptureFixture, message: str, level: int) -> list[Any]:
    return [one for one in caplog.records if message in one.getMessage() and one.levelno == level]


def test_the_leader_lists_the_projects_of_all_living_replicas(
    tmp_path: Path, redis: RedisServer, api: ComputeApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with ExitStack() as stack:
        leader = stack.enter_context(replica(tmp_path, redis, api, "one", [SHOP]))
        eventually(lambda: is_listed(leader, SHOP), within=WITHIN, what="its own project is listed")
        assert not is_listed(leader, TILLS)

        with replica(tmp_path, redis, api, "other", [TILLS]) as other:
            assert interrupt(other, TILLS) == "pending"
            eventually(
                lambda: leader.value("interruption_events_total", kubernetes_cluster=TILLS) == 1,
                within=WITHIN,
                what="the other replica's interruption has its cluster",
            )
            eventually(
                lambda: leader.value(READ_AT, project=TILLS) is not None,
                within=WITHIN,
                what="the operations of the other replica's project are read",
            )
            assert leader.value(f"{OWN}_inventory_failures_total", project=TILLS, reason="forbidden") == 0
            eventually(
                lambda: other.client.get(f"{other.url}/readyz").status_code == 200,
                within=WITHIN,
                what="the other replica knows that its project was listed",
            )

        redis.client.delete(key("of", "other", "settings"))  # as a minute after its last sign of life
        eventually(lambda: not is_listed(leader, TILLS), within=WITHIN, what="the project is dropped")
        assert is_listed(leader, SHOP)
        assert leader.value(READ_AT, project=TILLS) is None
        for reading in ("inventory", "recovery"):
            failures = f"{OWN}_{reading}_failures_total"
            assert leader.value(failures, project=SHOP, reason="forbidden") == 0
            assert leader.value(failures, project=TILLS, reason="forbidden") is None
        page = leader.client.get(f"{leader.url}/").text
        assert f"Fleet of {SHOP}" in page
        assert f"Fleet of {TILLS}" not in page

    changes = [
        (one.added, one.dropped, one.not_in_own_configuration)
        for one in lines(caplog, "list other projects", logging.INFO)
    ]
    assert changes.count(([TILLS], [], [TILLS])) == 1  # the leader
    assert changes.count(([SHOP], [], [SHOP])) == 1  # the other replica
    assert changes.count(([], [TILLS], [])) == 1
    [warning, _] = lines(caplog, "the store may lose events", logging.WARNING)
    assert "append-only" in warning.detail
    differing = {one.key for one in lines(caplog, "different settings", logging.WARNING)}
    assert differing == {"projects"}


def test_a_replica_without_an_inventory_lists_no_project_of_the_others(
    tmp_path: Path, redis: RedisServer, api: ComputeApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def is_known(name: str) -> bool:
        return any(one.replica == name for one in lines(caplog, "different settings", logging.WARNING))

    with (
        replica(tmp_path, redis, api, "one", [SHOP], **{"inventory.enabled": False}) as leader,
        replica(tmp_path, redis, api, "other", [TILLS]),
    ):
        eventually(lambda: is_known("other"), within=WITHIN, what="the leader knows the other replica")
        assert interrupt(leader, TILLS) == "pending"  # its loop has gone on since
        assert not lines(caplog, "list other projects", logging.INFO)
        assert not api.requests
