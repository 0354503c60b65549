"""The first listing of a process: until it has ended, nothing that could be explained by it expires."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.compute_api import ComputeApi, FakeInstance, Hold, node_labels
from tests.support.exporter import OWN, Exporter
from tests.support.process import LOOPBACK, eventually
from tests.support.redis import RedisServer

PROJECT, ZONE = "shop-prod", "us-east1-b"
WITHIN = 60.0


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", LOOPBACK)
    monkeypatch.setenv("no_proxy", LOOPBACK)


@pytest.fixture(params=["sqlite", "redis"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/exporter.db"
        return
    with RedisServer(tmp_path / "redis", "--appendonly", "no") as redis:
        yield redis.url


@pytest.fixture
def api() -> Iterator[ComputeApi]:
    with ComputeApi() as api:
        yield api


def start(directory: Path, store_url: str, api: ComputeApi, *, settle_seconds: float) -> Exporter:
    settings = {
        "store.url": store_url,
        "project_name": PROJECT,
        "inventory.endpoint": api.url,
        "attribution.grace_seconds": 0,
    }
    return Exporter(directory, settings, settle_seconds=settle_seconds, shortest_pause_seconds=0)


def released(exporter: Exporter, by: str) -> float:
    return exporter.value(f"{OWN}_pending_released_total", by=by) or 0.0


def test_a_listing_of_an_earlier_process_ends_no_grace(
    tmp_path: Path, store_url: str, api: ComputeApi
) -> None:
    api.projects[PROJECT] = []
    with start(tmp_path, store_url, api, settle_seconds=3600) as exporter:
        eventually(
            lambda: exporter.client.get(f"{exporter.url}/readyz").status_code == 200,
            within=WITHIN,
            what="the first listing",
        )
        exporter.interrupt("node", zone=ZONE, instance_id="7")

    hold = Hold()
    api.fail(hold)
    api.projects[PROJECT] = [FakeInstance("node", id="7", zone=ZONE, labels=node_labels("tills"))]
    with start(tmp_path, store_url, api, settle_seconds=0) as exporter:
        eventually(lambda: exporter.parts.metrics.leads, within=WITHIN, what="the lease")
        exporter.perform(asyncio.sleep(1)).result(WITHIN)  # several rounds of the periodic work
        assert released(exporter, "expiry") == 0

        hold.until.set()
        eventually(lambda: released(exporter, "inventory"), within=WITHIN, what="the release")
        assert exporter.value("interruption_events_total", kubernetes_cluster="tills") == 1
        assert exporter.value("interruption_events_total", kubernetes_cluster="unknown") == 0
