"""Several replicas on one Redis: exact whatever happens; one leads, and a name has one holder."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.chaos.replicas import SHORT, run
from tests.support.compute_api import ComputeApi, FakeInstance, node_labels
from tests.support.entries import insert, made_id, preempted
from tests.support.process import eventually
from tests.support.program import ExporterProcess
from tests.support.replicas import HOLD_SECONDS, SHARED, Replicas

pytestmark = pytest.mark.usefixtures("quick_programs")

PROJECT, ZONE = "shop-prod", "europe-west1-c"


def test_over_kills_pauses_and_scaling_every_event_shows_exactly_once(tmp_path: Path) -> None:
    report = run(tmp_path, events=2_000, seed=1, steps=SHORT, shortened=True)
    assert not report.errors
    assert report.acknowledged == report.delivered
    assert report.repeated["503 store_unavailable"]  # Redis was away while pushes came
    assert report.repeated["502 by nginx"]  # replicas died with requests in their hands


@pytest.fixture(scope="module")
def api() -> Iterator[ComputeApi]:
    with ComputeApi() as api:
        api.projects[PROJECT] = [_instance("gke-listed")]
        yield api


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory, api: ComputeApi) -> Iterator[Replicas]:
    inventory = {"enabled": True, "endpoint": api.url, "interval_seconds": 86400}
    env = {"SIE_PROJECT_NAME": PROJECT}
    with Replicas(tmp_path_factory.mktemp("replicas"), 3, env=env, inventory=inventory) as replicas:
        yield replicas


def test_the_fleet_is_listed_by_one_and_known_to_all(replicas: Replicas, api: ComputeApi) -> None:
    leader = replicas.leader()
    _until_all_are_ready(replicas)
    eventually(lambda: _instances(replicas, leader) == 1, within=10, what="the listing is shown")

    assert _shows(replicas, leader) == SHARED - {"spot_last_interruption_timestamp_seconds"}
    assert replicas.leaders() == [leader]
    assert len({request.page for request in api.requests}) == len(api.requests)  # once


def test_a_pending_interruption_of_a_follower_makes_the_leader_list_the_fleet(
    replicas: Replicas, api: ComputeApi
) -> None:
    leader = replicas.leader()
    follower = next(name for name in replicas.names if name != leader)
    api.projects[PROJECT] = [_instance("gke-listed"), _instance("gke-unannounced", cluster="ovens")]

    assert replicas[follower].outcome(preempted("gke-unannounced", zone=ZONE)) == "pending"

    eventually(lambda: _counted(replicas, "ovens") == 1, within=20, what="the listing releases it")
    waiting = replicas[leader].value("spot_interruption_exporter_pending_interruptions")
    assert waiting == 0


def test_when_the_leader_dies_another_replica_lists_and_alone_exports_the_shared_series(
    replicas: Replicas, api: ComputeApi
) -> None:
    dead = replicas.leader()
    before = len(api.requests)
    replicas[dead].process.kill()
    living = replicas.names = [name for name in replicas.names if name != dead]
    try:
        replicas.end_lease()  # which ends by itself 15 s after the last sign of life
        leader = replicas.leader()
        eventually(lambda: len(api.requests) > before, within=10, what="the fleet is listed again")
        eventually(
            lambda: "spot_interruption_exporter_inventory_instances" in _shows(replicas, leader),
            within=10,
            what="the listing is shown",
        )
        assert leader in living
        assert replicas.leaders() == [leader]
        _until_all_are_ready(replicas)
    finally:
        replicas[dead].process.start()
        replicas.names = sorted([*living, dead])


def test_while_redis_is_away_pushes_are_refused_at_once_and_taken_soon_after_its_return(
    replicas: Replicas,
) -> None:
    clock, number = time.monotonic, iter(range(1_000_000))
    exporters = [replicas[name] for name in replicas.names]

    def push(exporter: ExporterProcess) -> tuple[httpx.Response, float]:
        began = clock()
        response = exporter.push(insert("gke-away", instance_id=made_id(str(next(number)))))
        return response, clock() - began

    replicas.redis.process.kill()
    until = clock() + 2
    while clock() < until:
        for exporter in exporters:
            response, took = push(exporter)
            assert response.status_code == 503
            assert response.json()["reason"] == "store_unavailable"
            assert response.headers["retry-after"].isdecimal()
            assert took < 10  # for so long the store tries what may succeed
            assert exporter.status("/healthz") == 200

    replicas.redis.process.start()
    eventually(
        lambda: all(push(exporter)[0].is_success for exporter in exporters), within=5, what="they are taken"
    )


def test_the_newest_process_of_a_name_has_it_and_counts_on(replicas: Replicas, tmp_path: Path) -> None:
    processes = []
    for which in ("older", "newer"):
        directory = tmp_path / which
        directory.mkdir()
        processes.append(replicas.made("replica-twice", directory))
    older, newer = processes
    with older:
        older.push(insert("gke-named", cluster="named"))
        older.push(preempted("gke-named"))
        eventually(lambda: older.interruptions("named") == 1, within=HOLD_SECONDS + 10, what="it is shown")

        with newer:
            assert newer.interruptions("named") == 1
            assert older.reason(preempted("gke-named", operation="again")) == (503, "name_taken")
            assert older.process.wait(within=5) == 1
            assert '"severity":"ERROR"' in older.process.text()

            assert newer.outcome(preempted("gke-named", operation="again")) == "counted"
            eventually(
                lambda: newer.interruptions("named") == 2, within=HOLD_SECONDS + 10, what="it is shown"
            )
            newer.process.kill()  # it would drain, and linger


def _instance(name: str, cluster: str = "tills") -> FakeInstance:
    return FakeInstance(
        name,
        id=made_id(PROJECT, ZONE, name),
        zone=ZONE,
        labels=node_labels(cluster, location="europe-west1", pool="spot"),
    )


def _until_all_are_ready(replicas: Replicas) -> None:
    eventually(
        lambda: all(replicas[name].status("/readyz") == 200 for name in replicas.names),
        within=20,
        what="all know the fleet",
    )


def _shows(replicas: Replicas, name: str) -> set[str]:
    """Return the shared series that a replica exposes."""
    return {series for series, _ in replicas[name].samples()} & SHARED


def _instances(replicas: Replicas, name: str) -> float:
    samples = replicas[name].samples()
    return sum(value for (series, _), value in samples.items() if series == "spot_instances")


def _counted(replicas: Replicas, cluster: str) -> float:
    """Over all replicas."""
    return sum(replicas[name].interruptions(cluster) or 0 for name in replicas.names)
