"""The recovery of a running exporter: the real child reads the operations of a local Compute API."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from app.domain.events import UNKNOWN
from tests.support.children import ignore_present_children
from tests.support.clock import Clock
from tests.support.compute_api import (
    BACKEND_ERROR,
    FORBIDDEN,
    ComputeApi,
    FakeInstance,
    FakeOperation,
    Hold,
    node_labels,
)
from tests.support.exporter import OWN, Exporter
from tests.support.process import LOOPBACK, eventually

PROJECT: Final = "shop-prod"
ZONE: Final = "us-east1-b"
AT: Final = "2026-03-02T11:40:55.308Z"
NOW: Final = 1772451655.308
WITHIN: Final = 60.0


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, quick_children: None) -> None:
    monkeypatch.setenv("NO_PROXY", LOOPBACK)
    monkeypatch.setenv("no_proxy", LOOPBACK)
    ignore_present_children()


@pytest.fixture
def api() -> Iterator[ComputeApi]:
    with ComputeApi() as api:
        api.projects[PROJECT] = [node("node-1", "1"), node("node-2", "2")]
        yield api


@pytest.fixture
def clock() -> Clock:
    return Clock(NOW - 100)


def node(name: str, instance_id: str) -> FakeInstance:
    created = "2026-03-02T01:00:00.000-08:00"
    return FakeInstance(name, id=instance_id, labels=node_labels("tills"), created=created, started=created)


def preemption(number: int = 1, **fields: Any) -> FakeOperation:  # noqa: ANN401 - FakeOperation's own
    usual = {"instance": f"node-{number}", "target_id": str(number), "zone": ZONE, "inserted": AT}
    return FakeOperation(f"systemevent-{number}", **(usual | fields))


def exporting(
    directory: Path,
    api: ComputeApi,
    clock: Clock,
    *,
    page_seconds: float = 60,
    **more: Any,  # noqa: ANN401 - settings
) -> Exporter:
    settings: dict[str, object] = {
        "projects": [PROJECT],
        "inventory.endpoint": api.url,
        "recovery.enabled": True,
        "recovery.interval_seconds": 0.05,
        "recovery.settle_seconds": 60,
        **more,
    }
    return Exporter(directory, settings, shortest_pause_seconds=0, page_seconds=page_seconds, clock=clock)


def interruptions(exporter: Exporter, cluster: str = "tills") -> float | None:
    return exporter.value("interruption_events_total", kubernetes_cluster=cluster)


def recovered(exporter: Exporter) -> float | None:
    return exporter.value(f"{OWN}_recovered_interruptions_total", project=PROJECT)


def failures(exporter: Exporter, reason: str) -> float | None:
    return exporter.value(f"{OWN}_recovery_failures_total", project=PROJECT, reason=reason)


def read_at(exporter: Exporter) -> float:
    return exporter.value(f"{OWN}_recovery_last_success_timestamp_seconds", project=PROJECT) or 0.0


def await_reading(api: ComputeApi, exporter: Exporter) -> None:
    """Wait for a reading that began after now and has ended well."""
    before = len(api.operation_requests)
    # A request that was received before now may still be in progress.
    eventually(lambda: len(api.operation_requests) >= before + 2, within=WITHIN, what="two more readings")
    exporter.scrape()


def rows(exporter: Exporter) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = exporter.client.get(f"{exporter.metrics_url}/interruptions").json()[
        "interruptions"
    ]
    return found


def push(exporter: Exporter, number: int = 1) -> str:
    outcome: str = exporter.interrupt(
        f"node-{number}",
        project=PROJECT,
        zone=ZONE,
        instance_id=str(number),
        operation=f"systemevent-{number}",
        timestamp="2026-03-02T11:40:56.100Z",
    ).json()["outcome"]
    return outcome


def test_a_missed_interruption_is_counted_once_and_logged(
    tmp_path: Path, api: ComputeApi, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with exporting(tmp_path, api, clock) as exporter:
        eventually(lambda: read_at(exporter) > 0, within=WITHIN, what="the first reading")
        assert recovered(exporter) == 0
        api.operations[PROJECT] = [preemption()]
        clock.at = NOW + 61

        eventually(lambda: interruptions(exporter) == 1, within=WITHIN, what="counted")
        await_reading(api, exporter)

        assert (interruptions(exporter), recovered(exporter)) == (1, 1)
        assert push(exporter) == "duplicate"
        (row,) = rows(exporter)
        assert (row["counted_as"], row["found_by"], row["interrupted_at"]) == ("tills", "operation", AT)
    lines = [line for record in caplog.records for line in getattr(record, "each", ())]
    assert [(line["instance"], line["found_by"]) for line in lines] == [("node-1", "operation")]


def test_a_pushed_interruption_is_not_counted_again(tmp_path: Path, api: ComputeApi, clock: Clock) -> None:
    with exporting(tmp_path, api, clock) as exporter:
        eventually(lambda: read_at(exporter) > 0, within=WITHIN, what="the first reading")
        assert push(exporter) == "counted"
        api.operations[PROJECT] = [preemption()]
        clock.at = NOW + 61

        await_reading(api, exporter)

        assert (interruptions(exporter), recovered(exporter)) == (1, 0)
        assert [row["found_by"] for row in rows(exporter)] == ["push"]


def test_an_operation_is_left_to_its_push_while_no_push_could_arrive(
    tmp_path: Path, api: ComputeApi, clock: Clock
) -> None:
    with exporting(tmp_path, api, clock) as exporter:
        eventually(lambda: read_at(exporter) > 0, within=WITHIN, what="the first reading")
    api.operations[PROJECT] = [preemption()]
    clock.at = NOW + 7200

    with exporting(tmp_path, api, clock) as exporter:
        eventually(lambda: read_at(exporter) > 0, within=WITHIN, what="the first reading of this life")
        clock.ahead += 50
        await_reading(api, exporter)
        assert (interruptions(exporter), rows(exporter)) == (0, [])

        clock.ahead += 11
        eventually(lambda: interruptions(exporter) == 1, within=WITHIN, what="counted")


def test_a_first_start_shows_the_past_and_counts_nothing(
    tmp_path: Path, api: ComputeApi, clock: Clock
) -> None:
    clock.at = NOW + 3600
    api.operations[PROJECT] = [preemption(), preemption(9, instance="gone", target_id="9")]
    with exporting(tmp_path, api, clock) as exporter:
        eventually(lambda: len(rows(exporter)) == 2, within=WITHIN, what="the past")
        clock.ahead += 600
        await_reading(api, exporter)

        assert {(row["kubernetes_cluster"], row["counted_as"]) for row in rows(exporter)} == {
            ("tills", ""),
            (UNKNOWN, ""),
        }
        assert (interruptions(exporter), interruptions(exporter, UNKNOWN)) == (0, 0)
        assert recovered(exporter) == 0

        assert push(exporter) == "counted"
        assert interruptions(exporter) == 1
        assert sorted(row["counted_as"] for row in rows(exporter)) == ["", "tills"]


def test_a_missed_interruption_of_an_unknown_instance_asks_for_a_listing(
    tmp_path: Path, api: ComputeApi, clock: Clock
) -> None:
    with exporting(tmp_path, api, clock) as exporter:
        eventually(lambda: read_at(exporter) > 0, within=WITHIN, what="the first reading")
        api.projects[PROJECT] = [node("node-3", "3")]
        api.operations[PROJECT] = [preemption(3)]
        clock.at = NOW + 61

        eventually(lambda: interruptions(exporter) == 1, within=WITHIN, what="counted")
        assert recovered(exporter) == 1


def test_without_the_permission_the_exporter_runs_and_says_so_once(
    tmp_path: Path, api: ComputeApi, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    api.fail(FORBIDDEN, times=3, of="operations")
    with exporting(tmp_path, api, clock) as exporter:
        eventually(lambda: read_at(exporter) > 0, within=WITHIN, what="a reading")
        assert failures(exporter, "forbidden") == 3
        assert push(exporter) == "counted"
    said = [record for record in caplog.records if record.getMessage() == "operations not read"]
    assert len(said) == 1
    assert "compute.globalOperations.list" in vars(said[0])["error"]


def test_operations_read_before_a_failure_count(tmp_path: Path, clock: Clock) -> None:
    with ComputeApi(page_size=1) as api:
        api.projects[PROJECT] = [node("node-1", "1")]
        with exporting(tmp_path, api, clock) as exporter:
            eventually(lambda: read_at(exporter) > 0, within=WITHIN, what="the first reading")
            api.fail(FORBIDDEN, page=2, times=1000, of="operations")
            api.operations[PROJECT] = [preemption(), preemption(2)]
            eventually(lambda: failures(exporter, "forbidden"), within=WITHIN, what="a reading that fails")
            last = read_at(exporter)
            clock.at = NOW + 61

            eventually(lambda: interruptions(exporter) == 1, within=WITHIN, what="counted")

            assert read_at(exporter) == last


def test_a_hanging_reading_of_operations_does_not_delay_a_listing(
    tmp_path: Path, api: ComputeApi, clock: Clock
) -> None:
    hold = Hold()
    api.fail(hold, of="operations", times=1000)
    with exporting(tmp_path, api, clock, page_seconds=5, **{"inventory.interval_seconds": 0.05}) as exporter:
        eventually(lambda: len(api.operation_requests) > 0, within=WITHIN, what="a reading that hangs")
        before = len(api.requests)

        eventually(lambda: len(api.requests) > before, within=2 * WITHIN, what="a listing")
        hold.until.set()
        assert exporter.value(f"{OWN}_inventory_failures_total", project=PROJECT, reason="unavailable") == 0


@pytest.mark.parametrize("setting", ["inventory.enabled", "recovery.enabled"])
def test_it_is_off_by_its_setting_and_with_the_inventory(
    tmp_path: Path, api: ComputeApi, clock: Clock, setting: str
) -> None:
    with exporting(tmp_path, api, clock, **{setting: False}) as exporter:
        eventually(
            lambda: exporter.client.get(f"{exporter.url}/readyz").status_code == 200,
            within=WITHIN,
            what="ready",
        )
        assert recovered(exporter) is None
    assert api.operation_requests == []


def test_a_passing_failure_is_counted_by_its_reason(
    tmp_path: Path, api: ComputeApi, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    api.unreachables[PROJECT] = ["zones/us-east1-c"]
    api.fail(BACKEND_ERROR, of="operations")
    with exporting(tmp_path, api, clock) as exporter:
        eventually(lambda: (failures(exporter, "partial") or 0) > 0, within=WITHIN, what="a partial reading")
        assert read_at(exporter) == 0
    said = {vars(record).get("reason"): record.getMessage() for record in caplog.records}
    assert said["partial"] == "operations read in part"
