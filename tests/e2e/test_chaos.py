"""Short runs of `tests/chaos/`: kills and faults during deliveries."""

import shutil
from pathlib import Path

import pytest

from tests.chaos import kills, pulled
from tests.chaos.fault_check import SHORT
from tests.chaos.faults import FAULTS
from tests.support.requirement import require
from tests.support.unsynced import POSSIBLE

pytestmark = pytest.mark.usefixtures("quick_programs")

LONG_ONLY = {"certificates-slow", "certificates-rubbish"}
"""These differ from `certificates-down` in the server's answer, which tests/gcp/test_oidc.py covers."""


@pytest.mark.parametrize(
    ("by", "events"), [pytest.param("pushes", 600, id="pushes"), pytest.param("emulator", 150, id="emulator")]
)
def test_prometheus_counts_every_event_exactly_once_despite_kills(
    tmp_path: Path, by: kills.By, events: int
) -> None:
    report = kills.run(tmp_path, events=events, instances=events // 5, kills=3, seed=1, by=by)

    assert report.errors == []
    assert report.kills == 3
    assert report.scrapes
    if by == "pushes":
        assert report.repeated["TimeoutError"]  # callers with a short timeout
        assert report.outcomes["pending"]
        assert report.outcomes["duplicate"]


@pytest.mark.parametrize("replicas", [1, 2])
def test_pulled_events_count_exactly_once_despite_kills(tmp_path: Path, replicas: int) -> None:
    report = pulled.run(tmp_path, events=1000, kills=1, replicas=replicas, seed=1)

    assert report.errors == []
    assert report.kills == 1
    assert report.scrapes


@pytest.mark.parametrize("name", sorted(FAULTS.keys() - LONG_ONLY))
def test_a_fault_under_load_does_no_harm(tmp_path: Path, name: str) -> None:
    if name == "read-only":
        require("setpriv of util-linux", shutil.which("setpriv"))
    if name == "sync-fails":
        require("seccomp of Linux", POSSIBLE)
    FAULTS[name](tmp_path, SHORT, 1)
