"""The listing of a project with the real client library against a local Compute API.

Only the tests of the process itself (its memory, its streams, its end) start a child process.
"""

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.support.compute_api import (
    ACCESS_NOT_CONFIGURED,
    BACKEND_ERROR,
    BAD_GATEWAY,
    EMPTY_OBJECT,
    FORBIDDEN,
    GARBAGE,
    INTERNAL_ERROR,
    NOT_FOUND,
    RATE_LIMIT_EXCEEDED,
    TOO_MANY_REQUESTS,
    UNAUTHORIZED,
    Answer,
    ComputeApi,
    Drop,
    Failure,
    FakeInstance,
    Hold,
    ManyInstances,
    error,
    node_labels,
)
from tests.support.process import LOOPBACK, eventually

COMMAND: Final = (sys.executable, "-m", "app.gcp.compute")
NO_CREDENTIALS: Final = {"NO_PROXY": LOOPBACK, "no_proxy": LOOPBACK, "NO_GCE_CHECK": "true"}
WITHIN: Final = 120.0
"""Timeout of a child process and of a page, long enough for a busy machine."""
ON_DEMAND: Final = {"preemptible": False, "provisioningModel": "STANDARD"}
CREATED: Final = 1772366706.789
STARTED: Final = 1772366716.123


class Listing(NamedTuple):
    instances: list[list[Any]]
    progress: list[dict[str, Any]]
    summary: dict[str, Any]
    exit_code: int

    @property
    def names(self) -> list[str]:
        return [name for _, name, *_ in self.instances]

    @property
    def retries(self) -> list[tuple[int, str]]:
        """The pages read before each retry, and its reason; other progress depends on the machine's speed."""
        return [(line["pages"], line["retrying"]) for line in self.progress if line["retrying"] is not None]

    @property
    def reason(self) -> str | None:
        return self.summary["error"] and str(self.summary["error"]["reason"])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the proxy and the credentials of the developer."""
    for name in list(os.environ):
        if name.startswith(("GOOGLE_", "CLOUDSDK_")):
            monkeypatch.delenv(name)
    for name, value in NO_CREDENTIALS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def api() -> Iterator[ComputeApi]:
    with ComputeApi() as api:
        yield api


def arguments(endpoint: str, *more: str, project: str = "shop", page_seconds: float = WITHIN) -> list[str]:
    words = ["--project", project, "--endpoint", endpoint, "--page-seconds", str(page_seconds)]
    return [*words, "--backoff", "0.001", *more]


def command(endpoint: str, *more: str, page_seconds: float = WITHIN) -> list[str]:
    """Return the command of a child that is not niced, because the machine may be busy."""
    return [*COMMAND, *arguments(endpoint, "--nice", "0", *more, page_seconds=page_seconds)]


def run(endpoint: str, *more: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command(endpoint, *more), capture_output=True, timeout=WITHIN, check=False)


def listed(api: ComputeApi, *more: str, project: str = "shop", page_seconds: float = WITHIN) -> Listing:
    """List in the test's own process."""
    return listed_from(api.url, *more, project=project, page_seconds=page_seconds)


def listed_from(endpoint: str, *more: str, project: str = "shop", page_seconds: float = WITHIN) -> Listing:
    return read_here(arguments(endpoint, *more, project=project, page_seconds=page_seconds))


def read_here(words: Sequence[str], clock: Callable[[], float] = time.monotonic) -> Listing:
    # Importing the client library takes long. Only the process that runs this file's tests needs it.
    from app.gcp.compute.__main__ import parsed  # noqa: PLC0415
    from app.gcp.compute.reading import read, source_of  # noqa: PLC0415

    options, stream = parsed(words), io.BytesIO()
    exit_code = read(source_of(options.read), options, stream, clock)
    return listing_of(stream.getvalue(), exit_code)


def listing_of(output: bytes, exit_code: int) -> Listing:
    assert output.isascii()
    assert output.endswith(b"\n")
    *lines, last = [json.loads(line) for line in output.splitlines()]
    return Listing(
        [line for line in lines if isinstance(line, list)],
        [line["progress"] for line in lines if isinstance(line, dict)],
        last["summary"],
        exit_code,
    )


def shop(count: int) -> list[FakeInstance]:
    """Return instances `vm-0`, `vm-1`, …."""
    return [FakeInstance(f"vm-{index}", id=str(index + 1)) for index in range(count)]


def test_each_node_and_each_spot_vm_has_a_line(api: ComputeApi, caplog: pytest.LogCaptureFixture) -> None:
    old = {"goog-gke-node": ""}
    api.projects["shop"] = [
        FakeInstance("node", id="18446744073709551615", labels=node_labels("tills")),
        FakeInstance("same-name-elsewhere", labels=node_labels("tills", location="us-east1-b")),
        FakeInstance("old-node", labels=old),
        FakeInstance("old-on-demand-node", labels=old, scheduling=ON_DEMAND),
        FakeInstance("without-a-pool", labels={"goog-k8s-cluster-name": "karpenter"}),
        FakeInstance("legacy", labels=node_labels("tills"), scheduling={"preemptible": True}),
        FakeInstance("by-label-alone", labels=node_labels("tills"), scheduling={}),
        FakeInstance(
            "on-demand",
            labels=node_labels("tills") | {"goog-gke-node-pool-provisioning-model": "on-demand"},
            scheduling=ON_DEMAND,
        ),
        FakeInstance("stopped", labels=node_labels("tills"), status="TERMINATED"),
        FakeInstance(
            "restarted", labels=node_labels("tills"), zone="us-east1-c", started="2026-03-01T13:00:00+01:00"
        ),
        FakeInstance("never-started", labels=node_labels("tills"), status="PROVISIONING", started=None),
        FakeInstance("plain-spot"),
        FakeInstance("plain-legacy", scheduling={"preemptible": True}),
        FakeInstance("plain", scheduling=ON_DEMAND),
        FakeInstance("nameless-cluster", labels={"goog-k8s-cluster-name": ""}),
    ]
    listing = listed(api)

    zone, number = "us-east1-b", "4158127351007949610"
    spot_node = ["tills", "us-east1", "spot-pool", "e2-standard-8", True, "RUNNING", CREATED, STARTED]
    no_node = [False, None, None, None, None, True, None, None, None]
    unknown = [None, None, None, "e2-standard-8"]
    expected = [
        [zone, "node", "18446744073709551615", True, *spot_node],
        [zone, "same-name-elsewhere", number, True, "tills", "us-east1-b", *spot_node[2:]],
        [zone, "old-node", number, True, *unknown, *spot_node[4:]],
        [zone, "old-on-demand-node", number, True, *unknown, False, *spot_node[5:]],
        [zone, "without-a-pool", number, True, "karpenter", *unknown[1:], *spot_node[4:]],
        [zone, "legacy", number, True, *spot_node],
        [zone, "by-label-alone", number, True, *spot_node],
        [zone, "on-demand", number, True, *spot_node[:4], False, *spot_node[5:]],
        [zone, "stopped", number, True, *spot_node[:5], "TERMINATED", *spot_node[6:]],
        ["us-east1-c", "restarted", number, True, *spot_node[:7], 1772366400.0],
        [zone, "never-started", number, True, *spot_node[:5], "PROVISIONING", CREATED, None],
        [zone, "plain-spot", number, *no_node],
        [zone, "plain-legacy", number, *no_node],
        [zone, "nameless-cluster", number, *no_node],
    ]
    # Zones are in any order.
    assert sorted(listing.instances, key=str) == sorted(expected, key=str)
    assert listing.exit_code == 0
    assert caplog.records == []


def test_a_listing_is_filtered_even_if_the_server_ignores_the_filter(api: ComputeApi) -> None:
    api.ignores_filters = True
    api.projects["shop"] = [
        FakeInstance("node", labels=node_labels("tills")),
        FakeInstance("old-node", labels={"goog-gke-node": ""}, scheduling=ON_DEMAND),
        FakeInstance("plain-spot"),
        FakeInstance("plain", scheduling=ON_DEMAND),
    ]

    assert listed(api).names == ["node", "old-node", "plain-spot"]


def test_a_refused_filter_is_left_out(api: ComputeApi, caplog: pytest.LogCaptureFixture) -> None:
    api.refuses_filters = True
    api.projects["shop"] = [*shop(1), FakeInstance("plain", scheduling=ON_DEMAND)]
    listing = listed(api)

    assert listing.names == ["vm-0"]
    assert listing.summary["complete"]
    assert "filter" not in api.requests[-1].query
    assert api.requests[-1].query["fields"]
    assert "Invalid value for field 'filter'" in caplog.text


def test_refused_fields_are_left_out(api: ComputeApi) -> None:
    api.projects["shop"] = shop(1)
    api.fail(error(400, "invalidParameter", "Invalid field selection"), times=2)
    listing = listed(api)

    assert listing.names == ["vm-0"]
    assert set(api.requests[-1].query) == {"maxResults"}


def test_the_query_does_not_change_after_the_first_page(api: ComputeApi) -> None:
    api.page_size = 1
    api.projects["shop"] = shop(3)
    api.fail(error(400, "invalid", "Invalid value for field 'pageToken'"), page=2)
    listing = listed(api)

    assert listing.names == ["vm-0"]
    assert listing.reason == "other"
    assert "Invalid value for field 'pageToken'" in listing.summary["error"]["message"]


def test_the_query_asks_for_needed_fields_of_large_pages(api: ComputeApi) -> None:
    api.projects["shop"] = ManyInstances(501)
    listed(api)

    first, second = api.requests
    assert first.query["maxResults"] == "500"
    assert first.query["returnPartialSuccess"] == "true"
    assert "(labels.goog-k8s-cluster-name:*)" in first.query["filter"]
    assert "networkInterfaces" not in first.query["fields"]
    assert second.query == {**first.query, "pageToken": "500"}


def test_no_credentials_are_sent_over_http(api: ComputeApi) -> None:
    api.projects["shop"] = shop(1)
    listed(api)

    assert "authorization" not in {name.lower() for name in api.requests[0].headers}


def test_every_page_is_read_even_after_empty_ones(api: ComputeApi) -> None:
    # The server filters each page of all instances, so a page can be empty.
    api.page_size = 2
    api.projects["shop"] = [
        *shop(1),
        *(FakeInstance(f"plain-{index}", scheduling=ON_DEMAND) for index in range(6)),
        FakeInstance("last"),
    ]
    listing = listed(api)

    assert listing.names == ["vm-0", "last"]
    assert (listing.summary["pages"], listing.summary["entries"]) == (4, 2)


def test_the_summary_describes_the_listing(api: ComputeApi) -> None:
    api.projects["shop"] = shop(3)
    before = time.time()
    done = run(api.url)
    summary = listing_of(done.stdout, done.returncode).summary

    assert done.stderr == b""
    assert before < summary["began"] < time.time() - summary["seconds"]
    assert summary["seconds"] > 0
    assert 50 < summary["peak_rss_mib"] < 200
    del summary["began"], summary["seconds"], summary["peak_rss_mib"]
    assert summary == {
        "complete": True,
        "failed_scopes": [],
        "pages": 1,
        "entries": 3,
        "invalid": 0,
        "error": None,
    }


def test_an_empty_project_is_complete(api: ComputeApi) -> None:
    api.projects["shop"] = []
    listing = listed(api)

    assert listing.instances == []
    assert listing.summary["complete"]


def test_a_listing_of_some_pages_is_not_complete_and_not_failed(api: ComputeApi) -> None:
    api.page_size = 2
    api.projects["shop"] = shop(5)
    listing = listed(api, "--pages", "2")

    assert listing.names == ["vm-0", "vm-1", "vm-2", "vm-3"]
    assert not listing.summary["complete"]
    assert listing.reason is None
    assert listing.exit_code == 1


def test_a_listing_of_all_pages_is_complete_under_a_limit(api: ComputeApi) -> None:
    api.projects["shop"] = shop(5)

    assert listed(api, "--pages", "1").summary["complete"]


def test_an_instance_that_cannot_be_stored_and_shown_is_left_out_and_counted(api: ComputeApi) -> None:
    api.projects["shop"] = [
        FakeInstance("nul\x00"),
        FakeInstance("line-in-cluster", labels=node_labels("til\nls")),
        FakeInstance("long-pool", labels=node_labels("tills", pool="p" * 513)),
        FakeInstance("c1-in-location", labels=node_labels("tills", location="\x85")),
        FakeInstance("escape-in-zone", zone="us\x1beast1-b"),
        FakeInstance("delete-in-machine-type", machine_type="e2\x7f", labels=node_labels("tills")),
        FakeInstance("", labels=node_labels("without-a-name")),
        FakeInstance("without-an-id", id="0"),
        *shop(1),
    ]
    listing = listed(api)

    assert listing.names == ["vm-0"]
    assert (listing.summary["entries"], listing.summary["invalid"]) == (1, 8)
    assert listing.summary["complete"]


def test_unusual_text_is_unchanged(api: ComputeApi) -> None:
    api.projects["shop"] = [FakeInstance("node", labels=node_labels("kassen-größe-😀", pool="p" * 512))]

    assert listed(api).instances[0][4:7] == ["kassen-größe-😀", "us-east1", "p" * 512]


@pytest.mark.parametrize(
    ("failure", "page", "reason", "message"),
    [
        pytest.param(FORBIDDEN, 1, "forbidden", "compute.instances.list", id="forbidden-at-once"),
        pytest.param(FORBIDDEN, 3, "forbidden", "compute.instances.list", id="forbidden"),
        pytest.param(
            ACCESS_NOT_CONFIGURED, 1, "api_disabled", "enable compute.googleapis.com", id="disabled-at-once"
        ),
        pytest.param(
            ACCESS_NOT_CONFIGURED, 3, "api_disabled", "enable compute.googleapis.com", id="disabled"
        ),
        pytest.param(NOT_FOUND, 3, "not_found", "project shop does not exist", id="not-found"),
        pytest.param(UNAUTHORIZED, 3, "credentials", "no usable Google Cloud credentials", id="unauthorized"),
        pytest.param(error(410, "gone", "No more."), 3, "other", "No more.", id="gone"),
        pytest.param(Answer(403, b"<html>"), 3, "forbidden", "<html>", id="forbidden-by-a-proxy"),
    ],
)
def test_a_permanent_failure_is_not_retried(
    api: ComputeApi, failure: Failure, page: int, reason: str, message: str
) -> None:
    api.page_size = 2
    api.projects["shop"] = shop(8)
    api.fail(failure, page=page)
    listing = listed(api)

    assert listing.names == [f"vm-{index}" for index in range(2 * (page - 1))]
    assert listing.reason == reason
    assert "shop" in listing.summary["error"]["message"]
    assert message in listing.summary["error"]["message"]
    assert not listing.summary["complete"]
    assert listing.exit_code == 1
    assert listing.retries == []


@pytest.mark.parametrize(
    ("failure", "page", "reason", "message"),
    [
        pytest.param(RATE_LIMIT_EXCEEDED, 1, "rate_limited", "Quota exceeded", id="rate-limit-at-once"),
        pytest.param(RATE_LIMIT_EXCEEDED, 3, "rate_limited", "Quota exceeded", id="rate-limit"),
        pytest.param(TOO_MANY_REQUESTS, 1, "rate_limited", "Too many requests", id="429-at-once"),
        pytest.param(TOO_MANY_REQUESTS, 3, "rate_limited", "Too many requests", id="429"),
        pytest.param(BACKEND_ERROR, 1, "unavailable", "Backend Error", id="backend-error-at-once"),
        pytest.param(BACKEND_ERROR, 3, "unavailable", "Backend Error", id="backend-error"),
        pytest.param(BAD_GATEWAY, 3, "unavailable", "Bad Gateway", id="bad-gateway"),
        pytest.param(Drop(), 1, "unavailable", "ConnectionError", id="dropped-at-once"),
        pytest.param(Drop(after_bytes=900), 3, "unavailable", "IncompleteRead", id="cut-off"),
        pytest.param(Hold(), 1, "unavailable", "timed out", id="never-answered"),
        pytest.param(GARBAGE, 1, "malformed", "not a list of instances", id="garbage-at-once"),
        pytest.param(GARBAGE, 3, "malformed", "not a list of instances", id="garbage"),
        pytest.param(EMPTY_OBJECT, 1, "malformed", "not a list of instances", id="empty-object-at-once"),
        pytest.param(EMPTY_OBJECT, 3, "malformed", "not a list of instances", id="empty-object"),
    ],
)
def test_a_transient_failure_ends_the_listing_if_it_lasts(
    api: ComputeApi, failure: Failure, page: int, reason: str, message: str
) -> None:
    api.page_size = 2
    api.projects["shop"] = shop(8)
    api.fail(failure, page=page, times=10_000)
    # Only the first answer is held. Pages that are answered may take longer than this.
    answer_seconds = 0.1 if isinstance(failure, Hold) else WITHIN
    listing = listed(api, "--answer-seconds", str(answer_seconds), page_seconds=0.05)

    assert listing.names == [f"vm-{index}" for index in range(2 * (page - 1))]
    assert listing.reason == reason
    assert "shop" in listing.summary["error"]["message"]
    assert message in listing.summary["error"]["message"]
    assert not listing.summary["complete"]
    assert listing.exit_code == 1
    # A single attempt can take the whole time of a page.
    assert set(listing.retries) <= {(page - 1, reason)}


def test_a_retry_repeats_one_page(api: ComputeApi) -> None:
    api.page_size = 2
    api.projects["shop"] = shop(7)
    passing: dict[Failure, str] = {
        RATE_LIMIT_EXCEEDED: "rate_limited",
        error(403, "userRateLimitExceeded", "Slow down."): "rate_limited",
        TOO_MANY_REQUESTS: "rate_limited",
        BACKEND_ERROR: "unavailable",
        INTERNAL_ERROR: "unavailable",
        BAD_GATEWAY: "unavailable",
        Drop(): "unavailable",
        Drop(after_bytes=900): "unavailable",
        GARBAGE: "malformed",
        Answer(200, b"\xff\xfe"): "malformed",
        EMPTY_OBJECT: "malformed",
        Answer(200, b"[]"): "malformed",
    }
    for failure in passing:
        for page in (1, 3):
            api.fail(failure, page=page)
    listing = listed(api)

    assert listing.names == [f"vm-{index}" for index in range(7)]
    assert listing.summary["complete"]
    assert [request.page for request in api.requests] == [*[1] * 13, 2, *[3] * 13, 4]
    assert listing.retries == [
        *[(0, reason) for reason in passing.values()],
        *[(2, reason) for reason in passing.values()],
    ]


def test_a_closed_port_is_unavailable() -> None:
    listing = listed_from(f"http://{LOOPBACK}:1", page_seconds=0.05)

    assert listing.reason == "unavailable"
    assert "Connection refused" in listing.summary["error"]["message"]


def test_missing_credentials_are_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/nowhere")
    listing = listed_from(f"https://{LOOPBACK}:1")

    assert (listing.instances, listing.progress) == ([], [])
    assert listing.reason == "credentials"
    assert "no usable Google Cloud credentials for project shop" in listing.summary["error"]["message"]
    assert listing.exit_code == 1


def test_an_errors_message_is_one_short_printable_line(api: ComputeApi) -> None:
    api.fail(error(403, "forbidden", "no\nnot \x1b[31m" + "x" * 10_000))
    message = listed(api).summary["error"]["message"]

    assert message.isprintable()
    assert len(message) < 600


def test_a_page_that_leads_to_itself_ends_the_listing(api: ComputeApi) -> None:
    api.page_size = 1
    api.projects["shop"] = shop(3)
    loop = {"kind": "compute#instanceAggregatedList", "items": {}, "nextPageToken": "1"}
    api.fail(Answer(200, json.dumps(loop).encode()), page=2, times=10_000)
    listing = listed(api, page_seconds=0.05)

    assert listing.reason == "malformed"
    assert listing.names == ["vm-0"]


def test_an_unreachable_zone_is_a_failed_scope(api: ComputeApi) -> None:
    api.projects["shop"] = shop(2)
    api.unreachables["shop"] = [
        "zones/us-east1-c",
        "projects/shop/zones/asia-east1-a",
        "https://www.googleapis.com/compute/v1/projects/shop/zones/europe-west1-b",
    ]
    listing = listed(api)

    assert listing.summary["failed_scopes"] == [
        "zones/asia-east1-a",
        "zones/europe-west1-b",
        "zones/us-east1-c",
    ]
    assert listing.summary["complete"]
    assert listing.names == ["vm-0", "vm-1"]


def test_a_scope_with_any_warning_but_of_emptiness_has_failed(api: ComputeApi) -> None:
    api.projects["shop"] = shop(2)
    api.scope_warnings = {
        "zones/us-east1-b": "UNREACHABLE",
        "zones/europe-west1-c": "LARGE_DEPLOYMENT_WARNING",
    }
    listing = listed(api)

    assert listing.summary["failed_scopes"] == ["zones/europe-west1-c", "zones/us-east1-b"]
    assert listing.summary["complete"]
    assert listing.names == ["vm-0", "vm-1"]


def test_a_missing_scope_that_is_not_a_zone_makes_the_listing_incomplete(api: ComputeApi) -> None:
    api.projects["shop"] = shop(2)
    api.unreachables["shop"] = ["zones/us-east1-c", "regions/us-east1"]
    listing = listed(api)

    assert listing.summary["failed_scopes"] == ["zones/us-east1-c"]
    assert not listing.summary["complete"]
    assert listing.reason == "partial"
    assert "regions/us-east1" in listing.summary["error"]["message"]
    assert listing.names == ["vm-0", "vm-1"]


def test_a_warning_of_the_whole_page_makes_the_listing_incomplete(api: ComputeApi) -> None:
    api.projects["shop"] = shop(2)
    api.warning = "PARTIAL_SUCCESS"
    listing = listed(api)

    assert (listing.reason, listing.exit_code) == ("partial", 1)


def test_a_failure_of_a_project_does_not_affect_another(api: ComputeApi) -> None:
    api.projects |= {"shop": shop(2), "example.com:depot": [FakeInstance("van")]}
    api.fail(FORBIDDEN, project="shop")

    assert listed(api, project="example.com:depot").names == ["van"]
    assert listed(api).reason == "forbidden"


def test_a_large_fleet_takes_no_more_memory_than_a_small_one(api: ComputeApi) -> None:
    api.projects |= {"shop": ManyInstances(500), "mall": ManyInstances(10_000)}
    small, large = (
        listing_of(done.stdout, done.returncode) for done in (run(api.url), run(api.url, "--project", "mall"))
    )

    assert len({tuple(instance) for instance in large.instances}) == 10_000
    assert large.summary["peak_rss_mib"] < small.summary["peak_rss_mib"] + 10


def test_progress_is_written_at_most_once_a_second(api: ComputeApi) -> None:
    api.page_size = 1
    api.projects["shop"] = shop(20)
    seconds = itertools.count(step=0.25)
    progress = read_here(arguments(api.url), clock=lambda: next(seconds)).progress

    assert 2 < len(progress) < 20
    assert all(before["pages"] < after["pages"] for before, after in itertools.pairwise(progress))
    assert all(after["seconds"] - before["seconds"] >= 1 for before, after in itertools.pairwise(progress))


def test_a_listing_that_needs_too_much_memory_fails_for_that_reason(api: ComputeApi) -> None:
    page = {"kind": "compute#instanceAggregatedList", "id": "x" * 60_000_000, "items": {}}
    api.fail(Answer(200, json.dumps(page).encode()))
    done = run(api.url, "--memory-mib", "128")
    listing = listing_of(done.stdout, done.returncode)

    assert (listing.reason, listing.exit_code) == ("memory", 1)
    assert listing.summary["peak_rss_mib"] < 200


def test_instances_are_written_page_by_page(api: ComputeApi) -> None:
    api.page_size = 1
    api.projects["shop"] = shop(2)
    hold = Hold()
    api.fail(hold, page=2)
    with child(command(api.url)) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())[1] == "vm-0"
        hold.until.set()
        assert json.loads(process.stdout.readline())[1] == "vm-1"


def test_the_child_ends_quietly_when_its_reader_has_ended(api: ComputeApi) -> None:
    api.projects["shop"] = ManyInstances(5_000)
    with child(command(api.url)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=WITHIN) == 1
        assert process.stderr.read() == b""


def test_the_child_is_killed_with_its_parent(api: ComputeApi) -> None:
    api.projects["shop"] = shop(1)
    api.fail(Hold(), times=100)
    parent = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen([*sys.argv[1:], '--parent', str(os.getpid())])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    with child([sys.executable, "-c", parent, *command(api.url)]) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        eventually(lambda: api.requests, within=WITHIN, what="the first request")
        assert is_running(pid)
        process.send_signal(signal.SIGKILL)
        eventually(lambda: not is_running(pid), within=WITHIN, what="the child's end")


def test_the_child_does_not_begin_without_its_parent(api: ComputeApi) -> None:
    done = run(api.url, "--parent", "1")

    assert (done.returncode, done.stdout) == (1, b"")
    assert b"the parent has ended" in done.stderr
    assert api.requests == []


def test_the_child_lowers_its_priority_before_the_expensive_imports(api: ComputeApi) -> None:
    api.projects["shop"] = shop(1)
    watched = (
        "import os, runpy, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('google.api_core', 'google.auth', 'requests'):\n"
        "            print(name, os.nice(0), file=sys.stderr)\n"
        "sys.meta_path.insert(0, Watch())\n"
        "runpy.run_module('app.gcp.compute', run_name='__main__')\n"
    )
    words = [sys.executable, "-c", watched, *arguments(api.url, "--nice", "1")]
    done = subprocess.run(words, capture_output=True, timeout=WITHIN, check=True)

    lowered = min(os.nice(0) + 1, 19)
    imports = dict(line.split() for line in done.stderr.decode().splitlines())
    assert imports == dict.fromkeys(("google.api_core", "google.auth", "requests"), str(lowered))


@contextmanager
def child(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
