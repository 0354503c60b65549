"""A COMMIT that fails although it is on disk: every answer is true, and nothing counts twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.domain.outcomes import Duplicate
from app.errors import StoreUnavailableError
from tests.store.conftest import Opener
from tests.support.examples import NOW, created, interrupted
from tests.support.exporter import Exporter
from tests.support.requirement import require
from tests.support.unsynced import POSSIBLE, UnsyncedDisk, without_sync

NAME = "gke-1"


@pytest.fixture(autouse=True)
def _needed() -> None:
    require("seccomp of Linux", POSSIBLE)


def test_its_events_are_duplicates_and_its_totals_those_of_the_file(reopen_sqlite: Opener) -> None:
    store = reopen_sqlite()
    store.apply([created()], NOW)

    with pytest.raises(StoreUnavailableError, match="disk I/O error"):
        without_sync(lambda: store.apply([interrupted()], NOW))

    assert [type(outcome) for outcome in store.apply([interrupted()], NOW).outcomes] == [Duplicate]
    shown = store.state()
    assert [row.interruptions for row in shown.totals.label_sets.values() if row.interruptions] == [1]
    assert reopen_sqlite().state() == shown


@pytest.fixture
def disk() -> UnsyncedDisk:
    return UnsyncedDisk()


@pytest.fixture
def exporter(tmp_path: Path, disk: UnsyncedDisk) -> Iterator[Exporter]:
    with Exporter(tmp_path, open_store=disk.open) as exporter:
        yield exporter


def test_its_push_is_refused_and_a_duplicate_when_it_is_redelivered(
    exporter: Exporter, disk: UnsyncedDisk
) -> None:
    exporter.create(NAME)

    disk.syncs = False
    refused = exporter.interrupt(NAME)
    disk.syncs = True

    assert (refused.status_code, refused.json()["reason"]) == (503, "store_unavailable")
    assert exporter.interrupt(NAME).json() == {"outcome": "duplicate"}
    assert_counted_once(exporter)
    exporter.stop()
    exporter.start()
    assert_counted_once(exporter)


def assert_counted_once(exporter: Exporter) -> None:
    assert exporter.value("interruption_events_total", kubernetes_cluster="tills") == 1
    by_label_set = [
        value for (name, _), value in exporter.exposition().items() if name == "spot_interruptions_total"
    ]
    assert sum(by_label_set) == 1
    rows = exporter.client.get(f"{exporter.metrics_url}/interruptions").json()["interruptions"]
    assert len(rows) == 1
