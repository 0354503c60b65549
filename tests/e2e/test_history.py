"""The first start on a fleet with history: its past is shown, and nothing of it is counted."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.compute_api import ComputeApi, FakeInstance, FakeOperation, node_labels
from tests.support.entries import preempted
from tests.support.exporter import OWN
from tests.support.process import eventually
from tests.support.program import ExporterProcess
from tests.support.prometheus import Prometheus, Target

pytestmark = pytest.mark.usefixtures("quick_programs")

PROJECT: Final = "shop-prod"
ZONE: Final = "us-east1-b"
NODES: Final = range(1, 6)
DAYS: Final = 3
COUNTERS: Final = "interruption_events_total|spot_interruptions_total|spot_instance_lifetime_seconds_count"


def at(ago: timedelta) -> str:
    return (datetime.now(UTC) - ago).isoformat(timespec="milliseconds")


def node(number: int) -> FakeInstance:
    since = at(timedelta(hours=2))
    return FakeInstance(
        f"node-{number}", id=f"{number}", zone=ZONE, labels=node_labels("tills"), created=since, started=since
    )


def preemption(number: int, day: int) -> FakeOperation:
    """An interruption of an earlier incarnation, which the group has brought back under the same name."""
    return FakeOperation(
        f"systemevent-{number}-{day}",
        f"node-{number}",
        target_id=f"{number}00{day}",
        zone=ZONE,
        inserted=at(timedelta(days=day + 0.5)),
    )


def rows(exporter: ExporterProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = exporter.client.get(
        f"http://{exporter.metrics_address}/interruptions"
    ).json()["interruptions"]
    return found


def test_a_first_start_shows_the_past_and_no_counter_includes_it(tmp_path: Path) -> None:
    with ComputeApi() as api:
        api.projects[PROJECT] = [node(number) for number in NODES]
        api.operations[PROJECT] = [preemption(number, day) for number in NODES for day in range(DAYS)]
        exporter = ExporterProcess(
            tmp_path,
            env={"SIE_PROJECTS": f'["{PROJECT}"]'},
            inventory={"enabled": True, "endpoint": api.url},
            recovery={"interval_seconds": 900},
        )
        target = Target(exporter.metrics_address)
        with Prometheus(tmp_path, [target], scrape_interval=0.5) as prometheus, exporter:
            eventually(lambda: len(rows(exporter)) == len(NODES) * DAYS, within=30, what="the past is read")
            prometheus.wait_for_scrapes(3)

            past = rows(exporter)
            assert {(row["kubernetes_cluster"], row["counted_as"], row["found_by"]) for row in past} == {
                ("tills", "", "operation")
            }
            page = exporter.client.get(f"http://{exporter.metrics_address}/").text
            assert "Counting began on" in page
            assert 'class="past"' in page
            counters = f'{{__name__=~"{COUNTERS}"}}'
            assert prometheus.value(f"max(max_over_time({counters}[1h]))") == 0
            assert prometheus.value(f"max(increase({counters}[1h]))") == 0
            assert exporter.value(f"{OWN}_recovered_interruptions_total", project=PROJECT) == 0

            now = preempted("node-1", project=PROJECT, zone=ZONE, instance_id="1", timestamp=at(timedelta()))
            assert exporter.outcome(now) == "counted"
            assert exporter.interruptions("tills") == 1
