from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import pytest

from app.web.interruptions import MOST_ROWS
from tests.support.exporter import Exporter
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
    """Five interruptions, a minute apart, of two clusters in turn."""
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
    }


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        pytest.param({}, NAMES[::-1], id="all"),
        pytest.param({"cluster": "lab"}, ["node-3", "node-1"], id="cluster"),
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


def test_pages_lead_from_one_to_the_next_and_come_to_an_end(fed_exporter: Exporter) -> None:
    first = read(fed_exporter, limit=2)
    second = read(fed_exporter, limit=2, cursor=first["next"])
    third = read(fed_exporter, limit=2, cursor=second["next"])

    assert [names(page) for page in (first, second, third)] == [NAMES[:2:-1], NAMES[2:0:-1], NAMES[:1]]
    assert third["next"] is None


def test_a_full_last_page_promises_no_other(fed_exporter: Exporter) -> None:
    assert read(fed_exporter, limit=5)["next"] is None


def test_a_page_has_a_hundred_rows_unless_told_and_never_more_than_a_thousand(exporter: Exporter) -> None:
    bodies = [f"node-{number}" for number in range(MOST_ROWS + 1)]
    for name in bodies:
        exporter.create(name)
        exporter.interrupt(name)

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
        ({"sinze": AT[0]}, "sinze"),
    ],
)
def test_a_wrong_question_is_told_by_its_parameter_and_not_repeated(
    fed_exporter: Exporter, parameters: dict[str, str], named: str
) -> None:
    response = fed_exporter.client.get(f"{fed_exporter.metrics_url}/interruptions", params=parameters)

    assert_problem(response, HTTPStatus.BAD_REQUEST, "bad_request")
    assert response.json()["detail"].startswith(f"{named}: ")
    assert parameters[named] not in response.json()["detail"].removeprefix(named)


def test_a_browser_runs_nothing_of_it(fed_exporter: Exporter) -> None:
    for parameters in ({}, {"limit": "<script>"}):
        response = fed_exporter.client.get(f"{fed_exporter.metrics_url}/interruptions", params=parameters)
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
        assert response.headers["x-content-type-options"] == "nosniff"


def test_of_two_listeners_the_main_one_does_not_have_it(fed_exporter: Exporter) -> None:
    response = fed_exporter.client.get(f"{fed_exporter.url}/interruptions")
    assert_problem(response, HTTPStatus.NOT_FOUND, "not_found")


def test_a_ledger_that_cannot_be_read_says_so_and_harms_no_push(exporter: Exporter, tmp_path: Path) -> None:
    exporter.create("node-1")
    file = tmp_path / "exporter.db"
    file.rename(tmp_path / "elsewhere.db")

    response = exporter.client.get(f"{exporter.url}/interruptions")

    assert_problem(response, HTTPStatus.SERVICE_UNAVAILABLE, "store_unavailable")
    assert exporter.interrupt("node-1").json()["outcome"] == "counted"
    (tmp_path / "elsewhere.db").rename(file)
    assert names(read(exporter)) == ["node-1"]
