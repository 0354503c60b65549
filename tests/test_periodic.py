"""The periodic work of a running exporter."""

import asyncio
from pathlib import Path

import pytest

from tests.support.exporter import OWN, Exporter
from tests.support.process import eventually
from tests.support.stores import Disk


def test_when_the_grace_ends_an_interruption_is_counted_as_unknown(tmp_path: Path) -> None:
    with Exporter(tmp_path, {"attribution.grace_seconds": 0}) as exporter:
        exporter.interrupt("node-1")
        eventually(
            lambda: exporter.value("interruption_events_total", kubernetes_cluster="unknown"),
            within=20,
            what="the expiry",
        )

        assert exporter.value(f"{OWN}_pending_released_total", by="expiry") == 1
        assert exporter.value(f"{OWN}_pending_interruptions") == 0
        assert exporter.interrupt("node-1").json()["outcome"] == "duplicate"


def test_work_that_failed_without_the_store_is_done_when_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk()
    with Exporter(tmp_path, {"attribution.grace_seconds": 0}, open_store=disk.open) as exporter:
        exporter.interrupt("node-1")
        disk.away = True
        eventually(lambda: "periodic work was postponed" in caplog.text, within=20, what="the warning")
        disk.away = False
        eventually(
            lambda: exporter.value("interruption_events_total", kubernetes_cluster="unknown"),
            within=20,
            what="the expiry",
        )


def test_after_a_start_no_grace_ends_before_creations_could_arrive(tmp_path: Path) -> None:
    settings = {"attribution.grace_seconds": 0}
    with Exporter(tmp_path, settings, settle_seconds=3600.0) as exporter:
        exporter.interrupt("node-1")
        eventually(lambda: not exporter.parts.recorder.queue_length, within=20, what="the commit")
        exporter.perform(asyncio.sleep(0.2)).result(60)  # several rounds of the periodic work

        exporter.create("node-1")

        assert exporter.value("interruption_events_total", kubernetes_cluster="unknown") == 0
        assert exporter.value(f"{OWN}_pending_released_total", by="creation") == 1
