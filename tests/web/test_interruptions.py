import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import pytest

from app.domain.ledger import LedgerEntry, Query
from app.errors import StoreCorruptError, StoreUnavailableError
from app.store.opening import open_store
from app.store.port import OpenedStore
from app.web.interruptions import MOST_ROWS
from tests.support.exporter import Exporter
from tests.support.ledgers import remember
from tests.web.problems import assert_problem

AT: Final = [f"2026-03-02T11:4{number}:00.500Z" for number in range(5)]
NAMES: Final = [f"node-{number}" for number in range(5)]


def read(exporter: Exporter, **parameters: str | int) -> dict[str, Any]:
    response = exporter.client.get(f"{exporter.metrics_url}/interruptions", params=parameters)
    assert response.is_success, response.text
    answer: dict[str, Any] = response.json()
    return answer


def names(answer: dict[str, Any]) -> list[str]:
    return [row["instance"] for row in answer["interruptions"]]


@pytest.fixture(scope="module")
def fed_exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """An exporter with five interruptions, a minute apart, of two clusters in turn."""
    with Exporter(tmp_path_factory.mktemp("exporter"), two_listeners=True) as exporter:
        for number, (name, at) in enumerate(zip(NAMES, AT, strict=True)):
            cluster = ("tills", "lab")[number % 2]
            exporter.create(name, cluster=cluster, timestamp="2026-03-02T10:40:00.5Z")
            assert exporter.interrupt(name, timestamp=at).json()["outcome"] == "counted"
        yield exporter


def test_an_empty_ledger_is_an_empty_page(shared_exporter: Exporter) -> None:
    assert read(shared_exporter) == {"interruptions": [], "next": None}


def test_a_row_has_the_whole_attribution(fed_exporter: Exporter) -> None:
    (row,) = read(fed_exporter, limit=1)["interruptions"]

    assert row.pop("recorded_at") >= "2026-11"
    assert row.pop("instance_id").isdigit()
    assert row == {
        "interrupted_at": "2026-03-02T11:44:00.500Z",
        "instance": "node-4",
        "project": "shop-prod",
        "kubernetes_cluster": "tills",
        "cluster_location": "europe-west1",
        "node_pool": "spot",
        "zone": "europe-west1-c",
        "machine_type": "e2-standard-8",
        "age_seconds": 3840.0,
        "counted_as": "tills",
        "released_by": None,
        "found_by": "push",
    }


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        pytest.param({}, NAMES[::-1], id="all"),
        pytest.param({"cluster": "lab"}, ["node-3", "node-1"], id="cluster"),
        pytest.param({"project": "shop-prod"}, NAMES[::-1], id="project"),
        pytest.param({"project": "shop-test"}, [], id="another-project"),
        pytest.param({"location": "europe-west1"}, NAMES[::-1], id="location"),
        pytest.param({"location": "us-east1"}, [], id="another-location"),
        pytest.param({"counted": "true"}, NAMES[::-1], id="counted"),
        pytest.param({"counted": "false"}, [], id="not-counted"),
        pytest.param({"since": AT[3]}, ["node-4", "node-3"], id="since"),
        pytest.param({"until": AT[1]}, ["node-0"], id="until"),
        pytest.param({"since": "2026-03-02T12:43:00.5+01:00"}, ["node-4", "node-3"], id="offset"),
        pytest.param({"since": "1772451780.5"}, ["node-4", "node-3"], id="unix-seconds"),
        pytest.param({"since": "1772451780500", "until": AT[4]}, ["node-3"], id="unix-milliseconds"),
        pytest.param({"limit": 2}, ["node-4", "node-3"], id="limit"),
        pytest.param({"limit": MOST_ROWS + 1}, NAMES[::-1], id="more-than-there-is-at-once"),
    ],
)
def test_a_question_is_answered_newest_first(
    fed_exporter: Exporter, parameters: dict[str, str | int], expected: list[str]
) -> None:
    assert names(read(fed_exporter, **parameters)) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param("since=2026-03-02T11:43:00.5+00:00", ["node-4", "node-3"], id="since"),
        pytest.param("until=2026-03-02T12:41:00.5+01:00", ["node-0"], id="until"),
        pytest.param("since=2026-03-02T11:43+00:00", ["node-4", "node-3"], id="no-seconds"),
        pytest.param("since=2026-03-02+11:43:00+00:00", ["node-4", "node-3"], id="a-space-for-the-t"),
        pytest.param("since=2026-03-02T11:43:00.5+0000", ["node-4", "node-3"], id="no-colon"),
        pytest.param("since=2026-03-02T10:43:00.5-01:00", ["node-4", "node-3"], id="minus"),
        pytest.param("since=2026-03-02T11%3A43%3A00.5%2B00%3A00", ["node-4", "node-3"], id="encoded"),
    ],
)
def test_an_offset_may_stand_in_the_url_as_it_is(
    fed_exporter: Exporter, query: str, expected: list[str]
) -> None:
    response = fed_exporter.client.get(f"{fed_exporter.metrics_url}/interruptions?{query}")

    assert response.is_success, response.text
    assert names(response.json()) == expected


def test_clusters_of_one_name_are_read_apart_page_by_page(exporter: Exporter) -> None:
    for number in range(12):
        project = ("shop-prod", "shop-test")[number % 2]
        location = ("europe-west1", "us-east1")[number // 2 % 2]
        exporter.create(
            f"node-{number}", project=project, project_number=None, cluster_location=location, cluster="tills"
        )
        answer = exporter.interrupt(f"node-{number}", project=project)
        assert answer.json()["outcome"] == "counted"
    cluster: dict[str, str | int] = {"project": "shop-test", "cluster": "tills", "location": "us-east1"}

    assert len(read(exporter, cluster="tills")["interruptions"]) == 12
    first = read(exporter, **cluster, counted="true", limit=2)
    second = read(exporter, **cluster, counted="true", limit=2, cursor=first["next"])

    assert [len(page["interruptions"]) for page in (first, second)] == [2, 1]
    assert second["next"] is None
    assert {*names(first), *names(second)} == {"node-3", "node-7", "node-11"}


def test_pages_lead_from_one_to_the_next_and_come_to_an_end(fed_exporter: Exporter) -> None:
    first = read(fed_exporter, limit=2)
    second = read(fed_exporter, limit=2, cursor=first["next"])
    third = read(fed_exporter, limit=2, cursor=second["next"])

    assert [names(page) for page in (first, second, third)] == [NAMES[:2:-1], NAMES[2:0:-1], NAMES[:1]]
    assert third["next"] is None


def test_a_full_last_page_promises_no_other(fed_exporter: Exporter) -> None:
    assert read(fed_exporter, limit=5)["next"] is None


def test_a_page_has_a_hundred_rows_by_default_and_never_more_than_a_thousand(tmp_path: Path) -> None:
    remember(tmp_path, time.time(), interruptions=MOST_ROWS + 1, pools=1)
    with Exporter(tmp_path) as exporter:
        assert len(read(exporter)["interruptions"]) == 100
        most = read(exporter, limit=10**6)
        assert len(most["interruptions"]) == MOST_ROWS
        assert len(read(exporter, cursor=most["next"])["interruptions"]) == 1


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"since": "yesterday"}, "since"),
        ({"until": "2026-03-02T11:40:00"}, "until"),
        ({"since": "nan"}, "since"),
        ({"since": "9" * 400}, "since"),
        ({"cursor": "bm90IGpzb24="}, "cursor"),
        ({"cursor": "W05hTiwgIiJd"}, "cursor"),
        ({"cursor": "é"}, "cursor"),
        ({"cluster": "x" * 513}, "cluster"),
        ({"project": "x" * 513}, "project"),
        ({"location": "x" * 513}, "location"),
        ({"counted": "yes"}, "counted"),
        ({"counted": ""}, "counted"),
        ({"sinze": AT[0]}, "sinze"),
    ],
)
def test_a_wrong_query_is_reported_by_its_parameter_and_not_repeated(
    fed_exporter: Exporter, parameters: dict[str, str], named: str
) -> None:
    response = fed_exporter.client.get(f"{fed_exporter.metrics_url}/interruptions", params=parameters)

    assert_problem(response, HTTPStatus.BAD_REQUEST, "bad_request")
    assert response.json()["detail"].startswith(f"{named}: ")
    assert not parameters[named] or parameters[named] not in response.json()["detail"].removeprefix(named)


@pytest.mark.parametrize(
    ("query", "wrong", "right"),
    [
        (
            "since=2026-11-28T10:00:00",
            "since: has no offset",
            "RFC 3339 with an offset (2026-11-28T10:00:00Z), or Unix",
        ),
        (
            "until=2026-11-28+10:00",
            "until: has no offset",
            "RFC 3339 with an offset (2026-11-28T10:00:00Z), or Unix",
        ),
        (
            "until=2026-11-28T10:00:00+00",
            "until: is not valid",
            "RFC 3339 with an offset (2026-11-28T10:00:00Z), or Unix",
        ),
        (
            "counted=maybe",
            "counted: is not valid",
            "`true` for rows that the counters include, `false` for all others",
        ),
        ("limit=-1", "limit: is not valid", "a number of rows, at least one"),
        (f"project={'x' * 513}", "project: is too long", "a project id"),
        (
            "cursor=x",
            "cursor: is not a cursor of an earlier answer",
            "`next` of the page before, with the other parameters unchanged",
        ),
        (
            "region=x",
            "region: unknown parameter",
            "since, until, project, cluster, location, counted, limit, cursor",
        ),
    ],
)
def test_a_refusal_names_the_parameter_and_says_what_it_takes(
    fed_exporter: Exporter, query: str, wrong: str, right: str
) -> None:
    response = fed_exporter.client.get(f"{fed_exporter.metrics_url}/interruptions?{query}")

    assert_problem(response, HTTPStatus.BAD_REQUEST, "bad_request")
    found, _, form = response.json()["detail"].partition("; ")
    assert found == wrong
    assert right in form


def test_a_browser_runs_nothing_of_it(fed_exporter: Exporter) -> None:
    for parameters in ({}, {"limit": "<script>"}):
        response = fed_exporter.client.get(f"{fed_exporter.metrics_url}/interruptions", params=parameters)
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
        assert response.headers["x-content-type-options"] == "nosniff"


def test_the_main_of_two_listeners_does_not_have_it(fed_exporter: Exporter) -> None:
    response = fed_exporter.client.get(f"{fed_exporter.url}/interruptions")
    assert_problem(response, HTTPStatus.NOT_FOUND, "not_found")


class _Unreadable:
    """A ledger that cannot be read, while the store's own connection works."""

    def __init__(self, error: StoreUnavailableError) -> None:
        self._error = error

    def interruptions(self, _query: Query) -> Sequence[LedgerEntry]:
        raise self._error


def opener_with(error: StoreUnavailableError) -> Callable[..., OpenedStore]:
    def opened(url: str, *args: object, **options: object) -> OpenedStore:
        store = open_store(url, *args, **options)  # type: ignore[arg-type]  # as they come
        return replace(store, ledger=_Unreadable(error))  # type: ignore[arg-type]  # the rest is not asked for

    return opened


def test_a_ledger_that_cannot_be_read_says_so_and_harms_no_push(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = opener_with(StoreUnavailableError("the ledger cannot be read"))
    with Exporter(tmp_path, open_store=opened) as exporter:
        exporter.create("node-1")

        responses = [exporter.client.get(f"{exporter.url}/interruptions") for _ in range(3)]

        assert_problem(responses[0], HTTPStatus.SERVICE_UNAVAILABLE, "store_unavailable")
        assert caplog.text.count("the ledger could not be read") == 1
        assert exporter.interrupt("node-1").json()["outcome"] == "counted"


def test_damage_that_a_reader_meets_ends_the_exporter(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened = opener_with(StoreCorruptError("a page is damaged"))
    with Exporter(tmp_path, open_store=opened) as exporter:
        response = exporter.client.get(f"{exporter.url}/interruptions")

        assert_problem(response, HTTPStatus.SERVICE_UNAVAILABLE, "store_corrupt")
        fatal = exporter.perform(exporter.parts.wait_until_fatal()).result(60)
        assert fatal == "a page is damaged"
        assert "the store cannot be used until a restart" in caplog.text
