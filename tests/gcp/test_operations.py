"""The preemptions among a project's operations: read by the real client library, and as events."""

import io
import json
import os
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pytest

from app.domain.events import InstanceInterrupted, InstanceName
from app.gcp.auditlog import decode_entry
from app.gcp.operations import parse_operations
from tests.support.compute_api import (
    BACKEND_ERROR,
    EMPTY_OBJECT,
    FORBIDDEN,
    SCOPES,
    ComputeApi,
    FakeOperation,
    ManyOperations,
)
from tests.support.entries import encoded, preempted
from tests.support.process import LOOPBACK

AT: Final = 1772451655.308
PROJECT: Final = "shop-prod"


class Reading(NamedTuple):
    events: list[InstanceInterrupted]
    summary: dict[str, Any]

    @property
    def reason(self) -> str | None:
        return self.summary["error"] and str(self.summary["error"]["reason"])


class Published(NamedTuple):
    key: str = "message 1"
    published_at: float | None = AT


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("GOOGLE_", "CLOUDSDK_")):
            monkeypatch.delenv(name)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, LOOPBACK)


@pytest.fixture
def api() -> Iterator[ComputeApi]:
    with ComputeApi() as api:
        api.projects[PROJECT] = []
        yield api


def read_from(api: ComputeApi) -> Reading:
    # Importing the client library takes long. Only the process that runs these tests needs it.
    from app.gcp.compute.__main__ import parsed  # noqa: PLC0415
    from app.gcp.compute.reading import read, source_of  # noqa: PLC0415

    words = ["--read", "operations", "--project", PROJECT, "--endpoint", api.url, "--backoff", "0.001"]
    stream = io.BytesIO()
    read(source_of("operations"), parsed(words), stream)
    *lines, last = stream.getvalue().splitlines()
    entries = [line for line in lines if line.startswith(b"[")]
    return Reading(parse_operations(PROJECT, entries), json.loads(last)["summary"])


def test_each_preemption_of_an_instance_is_an_event_of_its_own(api: ComputeApi) -> None:
    api.operations[PROJECT] = [
        FakeOperation(f"systemevent-{number}", "node-1", inserted=f"2026-03-02T0{number}:40:55.308-08:00")
        for number in (1, 2, 3)
    ]

    reading = read_from(api)

    assert [event.at for event in reading.events] == [AT - 7200, AT - 3600, AT]
    assert len({event.key for event in reading.events}) == 3
    assert {(event.name, event.id, event.details.found_by) for event in reading.events} == {
        (InstanceName(PROJECT, "us-east1-b", "node-1"), "4158127351007949610", "operation")
    }
    assert (reading.summary["complete"], reading.summary["entries"]) == (True, 3)


def test_an_operation_has_the_key_of_its_log_entry(api: ComputeApi) -> None:
    entry = preempted("node-1", project=PROJECT)
    api.operations[PROJECT] = [FakeOperation(entry["operation"]["id"], "node-1")]

    pushed = decode_entry(encoded(entry), Published(), AT)

    (event,) = read_from(api).events
    assert isinstance(pushed, InstanceInterrupted)
    assert (event.key, event.name.instance) == (pushed.key, pushed.name.instance)


@pytest.mark.parametrize("ignores_filters", [False, True])
def test_only_preemptions_that_are_done_are_read(api: ComputeApi, *, ignores_filters: bool) -> None:
    api.ignores_filters = ignores_filters
    api.operations[PROJECT] = [
        FakeOperation("a", "node-1", type="insert"),
        FakeOperation("b", "node-1", type="compute.instances.hostError"),
        FakeOperation("c", "node-1", status="RUNNING"),
        FakeOperation("d", "node-1", status="PENDING"),
        FakeOperation("e", "node-1"),
    ]

    (event,) = read_from(api).events

    assert event.key.endswith(" e")


def test_every_page_is_read(api: ComputeApi) -> None:
    api.operations[PROJECT] = ManyOperations(1250)

    reading = read_from(api)

    assert len(reading.events) == 1250
    assert reading.summary["pages"] == 3


def test_an_operation_that_cannot_be_stored_and_shown_is_counted_as_invalid(api: ComputeApi) -> None:
    api.operations[PROJECT] = [
        FakeOperation("a", "node-1", inserted=None),
        FakeOperation("b", "bell\x07"),
        FakeOperation("", "node-1"),
        FakeOperation("c", "node-1"),
    ]

    reading = read_from(api)

    assert (len(reading.events), reading.summary["invalid"]) == (1, 3)


def test_operations_read_before_an_error_are_kept(api: ComputeApi) -> None:
    api.operations[PROJECT] = ManyOperations(600)
    api.fail(FORBIDDEN, page=2, of="operations")

    reading = read_from(api)

    assert (len(reading.events), reading.reason) == (500, "forbidden")
    assert "compute.globalOperations.list" in reading.summary["error"]["message"]
    assert not reading.summary["complete"]


@pytest.mark.parametrize("failure", [BACKEND_ERROR, EMPTY_OBJECT])
def test_a_page_is_read_again_after_a_passing_error(api: ComputeApi, failure: Any) -> None:  # noqa: ANN401
    api.operations[PROJECT] = [FakeOperation("a", "node-1")]
    api.fail(failure, of="operations")

    reading = read_from(api)

    assert (len(reading.events), reading.reason) == (1, None)


def test_zones_that_cannot_be_read_are_named(api: ComputeApi) -> None:
    api.operations[PROJECT] = [FakeOperation("a", "node-1")]
    api.unreachables[PROJECT] = [SCOPES[3]]
    api.scope_warnings[SCOPES[5]] = "UNREACHABLE"

    reading = read_from(api)

    assert len(reading.events) == 1
    assert reading.summary["failed_scopes"] == sorted([SCOPES[3], SCOPES[5]])


def test_the_project_of_a_link_by_number_is_the_project_that_was_read() -> None:
    line = json.dumps(["systemevent-1", "projects/42/zones/us-east1-b/instances/node-1", "7", AT]).encode()

    (event,) = parse_operations(PROJECT, [line])

    assert (event.name.project, event.project_number) == (PROJECT, "42")
