import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.documents import OUTCOMES
from app.errors import OverloadError
from app.metrics import ENDPOINTS, Metrics
from app.web.ops import Scrapes
from app.web.problems import leaves, status_of
from app.web.waiting import MOST_WAITING
from tests.support.clock import Clock
from tests.support.exporter import Exporter
from tests.support.process import eventually
from tests.web.problems import assert_problem

OPS = ["/metrics", "/"]
MAIN_PATHS = {"/events/creation", "/events/interruption", "/healthz", "/readyz"}


@pytest.fixture(scope="module")
def split_exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    with Exporter(tmp_path_factory.mktemp("exporter"), two_listeners=True) as exporter:
        yield exporter


@pytest.fixture(scope="module")
def description(shared_exporter: Exporter) -> dict[str, Any]:
    described: dict[str, Any] = shared_exporter.client.get(f"{shared_exporter.url}/openapi.json").json()
    return described


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_running_exporter_is_well(split_exporter: Exporter, path: str) -> None:
    for url in (split_exporter.url, split_exporter.metrics_url):
        response = split_exporter.client.get(f"{url}{path}")
        assert response.status_code == HTTPStatus.OK
        assert response.json() == {"status": "ok"}


def test_a_stopping_exporter_is_healthy_and_not_ready(exporter: Exporter) -> None:
    exporter.parts.stopping = True
    response = exporter.client.get(f"{exporter.url}/readyz")

    assert_problem(response, HTTPStatus.SERVICE_UNAVAILABLE, "not_ready")
    assert response.json()["detail"] == "the exporter is stopping"
    assert exporter.client.get(f"{exporter.url}/healthz").is_success
    assert exporter.create("node-1").is_success


def test_once_drained_pushes_are_refused_and_scrapes_still_answered(exporter: Exporter) -> None:
    exporter.parts.gate.closed = True

    assert_problem(exporter.create("node-1"), HTTPStatus.SERVICE_UNAVAILABLE, "stopping")
    assert exporter.refused("creation", "stopping") == 1
    assert exporter.answered("creation", "tracked") == 0


def test_an_exporter_whose_writer_has_ended_is_not_healthy(exporter: Exporter) -> None:
    async def end_the_writer() -> None:
        exporter.parts.recorder.close()

    def ailing() -> httpx.Response | None:
        response = exporter.client.get(f"{exporter.url}/healthz")
        return None if response.is_success else response

    exporter.perform(end_the_writer()).result(120)
    response = eventually(ailing, within=20, what="the end of the writer")
    assert_problem(response, HTTPStatus.SERVICE_UNAVAILABLE, "unhealthy")
    assert response.json()["detail"] == "a part of the exporter is not running: writer"


@pytest.mark.parametrize("path", OPS)
def test_one_listener_serves_everything(shared_exporter: Exporter, path: str) -> None:
    assert shared_exporter.client.get(f"{shared_exporter.url}{path}").is_success


@pytest.mark.parametrize("path", OPS)
def test_the_main_of_two_listeners_does_not_serve_the_paths_of_the_other(
    split_exporter: Exporter, path: str
) -> None:
    assert split_exporter.client.get(f"{split_exporter.metrics_url}{path}").is_success
    response = split_exporter.client.get(f"{split_exporter.url}{path}")

    assert_problem(response, HTTPStatus.NOT_FOUND, "not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/events/creation"), ("POST", "/events/interruption"), ("GET", "/openapi.json")],
)
def test_the_metrics_listener_does_not_serve_the_paths_of_the_main_one(
    split_exporter: Exporter, method: str, path: str
) -> None:
    assert split_exporter.client.request(method, f"{split_exporter.url}{path}").status_code != (
        HTTPStatus.NOT_FOUND
    )
    response = split_exporter.client.request(method, f"{split_exporter.metrics_url}{path}")

    assert_problem(response, HTTPStatus.NOT_FOUND, "not_found")


def test_both_listeners_serve_the_state_of_the_same_exporter(split_exporter: Exporter) -> None:
    split_exporter.create("node-1")

    assert split_exporter.value("interruption_events_total", kubernetes_cluster="tills") == 0


def test_the_metrics_are_at_the_configured_path(tmp_path: Path) -> None:
    with Exporter(tmp_path, {"prometheus.path": "/federated/metrics"}) as exporter:
        response = exporter.client.get(f"{exporter.url}/federated/metrics")
        assert response.text.startswith("# HELP")
        assert_problem(exporter.scrape(), HTTPStatus.NOT_FOUND, "not_found")


def test_head_is_not_a_scrape_and_does_not_begin_the_hold_of_a_series(tmp_path: Path) -> None:
    clock = Clock(1000.0)
    with Exporter(tmp_path, {"prometheus.hold_seconds": 60}, monotonic=clock) as exporter:
        exporter.create("node-1")
        exporter.interrupt("node-1")

        def shown() -> float | None:
            return exporter.value("interruption_events_total", kubernetes_cluster="tills")

        assert exporter.client.head(f"{exporter.url}/metrics").is_success
        clock.ahead += 60
        assert not exporter.parts.metrics.ready_to_release()
        assert shown() == 0
        clock.ahead += 60
        assert eventually(shown, within=20, what="the value") == 1


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text"])
@pytest.mark.parametrize("accept_encoding", ["identity", "gzip"])
def test_head_has_the_headers_of_a_scrape(
    shared_exporter: Exporter, accept: str, accept_encoding: str
) -> None:
    url, client = f"{shared_exporter.url}/metrics", shared_exporter.client
    headers = {"accept": accept, "accept-encoding": accept_encoding}
    varying = ("content-length", "date")  # the length is left out

    got, head = (
        {name: of for name, of in answer.headers.items() if name not in varying}
        for answer in (client.get(url, headers=headers), client.head(url, headers=headers))
    )

    assert head == got
    assert "content-length" not in client.head(url, headers=headers).headers


@pytest.mark.parametrize("listeners", ["shared_exporter", "split_exporter"])
@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text"])
def test_the_metrics_are_compressed_for_those_who_accept_it(
    request: pytest.FixtureRequest, listeners: str, accept: str
) -> None:
    exporter: Exporter = request.getfixturevalue(listeners)

    def scrape(accept_encoding: str) -> httpx.Response:
        return exporter.client.get(
            f"{exporter.metrics_url}/metrics", headers={"accept": accept, "accept-encoding": accept_encoding}
        )

    plain, compressed = scrape("gzip;q=0"), scrape("gzip")

    assert "content-encoding" not in plain.headers
    assert compressed.headers["content-encoding"] == "gzip"
    assert int(compressed.headers["content-length"]) < int(plain.headers["content-length"]) / 4
    assert series(compressed) == series(plain)
    for response in (plain, compressed):
        assert response.headers["content-type"].startswith(accept)
        assert response.headers["vary"] == "Accept, Accept-Encoding"


def series(response: httpx.Response) -> list[str]:
    """Return every line without its value."""
    return [line.rpartition(" ")[0] for line in response.text.splitlines()]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_description_has_every_answer_to_a_push(description: dict[str, Any], endpoint: str) -> None:
    push = description["paths"][f"/events/{endpoint}"]["post"]
    schemas = description["components"]["schemas"]

    assert push["security"] == [{"oidc": []}]
    assert push["requestBody"]["required"]
    assert set(push["responses"]) == {"200", "405", *(str(status_of(leaf).value) for leaf in leaves())}
    for leaf in leaves():
        response = push["responses"][str(status_of(leaf).value)]
        assert f"`{leaf.reason}`" in response["description"]
        assert response["content"].keys() == {"application/problem+json"}
    assert schemas["Outcome"]["properties"]["outcome"]["enum"] == list(OUTCOMES)


def test_the_description_is_whole(description: dict[str, Any]) -> None:
    assert description["openapi"].startswith("3.1.")
    assert set(description["paths"]) == {*MAIN_PATHS, "/interruptions"}
    operations = [operation for path in description["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        assert operation["summary"]
        assert all(response["description"] for response in operation["responses"].values())
    for scheme in (name for operation in operations for name in operation.get("security", [{}])[0]):
        assert scheme in description["components"]["securitySchemes"]
    for reference in references(description):
        assert resolved(description, reference), reference


def test_the_main_of_two_listeners_describes_only_its_own_paths(split_exporter: Exporter) -> None:
    described = split_exporter.client.get(f"{split_exporter.url}/openapi.json").json()

    assert set(described["paths"]) == MAIN_PATHS


def test_the_description_has_every_parameter_of_the_ledger(description: dict[str, Any]) -> None:
    parameters = description["paths"]["/interruptions"]["get"]["parameters"]

    assert [parameter["name"] for parameter in parameters] == [
        *("since", "until", "project", "cluster", "location", "counted", "limit", "cursor")
    ]
    assert all(parameter["description"] for parameter in parameters)


def references(value: Any) -> Iterator[str]:  # noqa: ANN401  # JSON
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)


def resolved(description: dict[str, Any], reference: str) -> Any:  # noqa: ANN401  # JSON
    root, *path = reference.split("/")
    assert root == "#"
    for key in path:
        description = description[key]
    return description


def test_answers_are_as_the_description_says(shared_exporter: Exporter, description: dict[str, Any]) -> None:
    schemas = description["components"]["schemas"]
    tracked = shared_exporter.create("described").json()
    problem = shared_exporter.post("creation", b"").json()
    shared_exporter.interrupt("described")
    ledger = shared_exporter.client.get(f"{shared_exporter.url}/interruptions").json()

    for value, schema in (
        (tracked, schemas["Outcome"]),
        (problem, schemas["Problem"]),
        (ledger, schemas["Interruptions"]),
        (ledger["interruptions"][0], schemas["Interruption"]),
    ):
        assert set(schema["required"]) <= value.keys() <= schema["properties"].keys()
    assert problem.keys() == schemas["Problem"]["properties"].keys()


def test_without_authentication_the_description_asks_for_none(tmp_path: Path) -> None:
    settings = {"pubsub.authentication": "none", "pubsub.audience": "", "pubsub.service_account_email": ""}
    with Exporter(tmp_path, settings) as exporter:
        description = json.loads(exporter.client.get(f"{exporter.url}/openapi.json").text)

    assert description["paths"]["/events/creation"]["post"]["security"] == []


class _Held(Metrics):
    """Metrics whose rendering waits."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.free, self.renderings = threading.Event(), threading.Event(), 0

    def render(self, accept: str) -> tuple[bytes, str]:
        self.renderings += 1
        self.begun.set()
        assert self.free.wait(120)
        return super().render(accept)


def test_scrapes_that_wait_share_one_rendering() -> None:
    metrics = _Held()

    async def scenario() -> list[tuple[bytes, str]]:
        scrapes = Scrapes(metrics)
        first = asyncio.create_task(scrapes.answer("", compressed=False))
        await asyncio.to_thread(metrics.begun.wait, 120)
        others = [asyncio.create_task(scrapes.answer("", compressed=False)) for _ in range(5)]
        await asyncio.sleep(0)
        metrics.free.set()
        return await asyncio.gather(first, *others)

    answers = asyncio.run(scenario())

    assert metrics.renderings == 2
    assert all(body.startswith(b"# HELP") for body, _ in answers)


def test_callers_with_other_headers_share_a_rendering_and_wait_in_a_bounded_number() -> None:
    metrics = _Held()

    async def scenario() -> list[tuple[bytes, str] | BaseException]:
        scrapes = Scrapes(metrics)
        first = asyncio.create_task(scrapes.answer("", compressed=False))
        await asyncio.to_thread(metrics.begun.wait, 120)
        others = [
            asyncio.create_task(scrapes.answer(f"text/x{number}", compressed=False))
            for number in range(MOST_WAITING + 5)
        ]
        await asyncio.sleep(0)
        metrics.free.set()
        return await asyncio.gather(first, *others, return_exceptions=True)

    answers = asyncio.run(scenario())

    assert metrics.renderings == 2
    assert [type(answer) for answer in answers] == [tuple] * MOST_WAITING + [OverloadError] * 6


@pytest.mark.parametrize("path", ["/interruptions", "/metrics", "/", "/nowhere"])
def test_a_long_query_is_refused_before_it_is_read(shared_exporter: Exporter, path: str) -> None:
    answer = shared_exporter.client.get(f"{shared_exporter.url}{path}?{'a&' * 3000}")

    assert answer.status_code == 400
    assert answer.json()["detail"] == "the query is longer than 4096 bytes"


@pytest.mark.parametrize(
    ("method", "path", "reason", "detail"),
    [
        pytest.param(
            "POST", "/events/creations?token=secret", "not_found", "POST /events/creations", id="typo"
        ),
        pytest.param("POST", "/", "not_found", "POST /", id="root"),
        pytest.param(
            "PUT", "/events/creation", "method_not_allowed", "PUT /events/creation", id="another-method"
        ),
        pytest.param("POST", "/" + "x" * 500, "not_found", ("POST /" + "x" * 500)[:100], id="a-long-path"),
        pytest.param("POST", "/a%0Ab", "not_found", "POST /a%0Ab", id="a-line-break"),
    ],
)
def test_a_push_to_another_path_is_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, method: str, path: str, reason: str, detail: str
) -> None:
    with Exporter(tmp_path, two_listeners=True) as exporter:
        for _ in range(3):
            exporter.client.request(method, f"{exporter.url}{path}")

        name = "spot_interruption_exporter_push_errors_total"
        assert exporter.value(name, endpoint="other", reason=reason) == 3

    (record,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    assert (record.message, record.detail) == ("pushes refused", detail)  # type: ignore[attr-defined]
    assert "secret" not in caplog.text


def test_each_push_is_a_debug_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), Exporter(tmp_path) as exporter:
        exporter.create("node-1")
        exporter.client.post(f"{exporter.url}/events/creation", content="{}")

    pushes = [
        (record.message, record.__dict__.get("outcome") or record.__dict__.get("reason"))
        for record in caplog.records
        if record.name == "app.intake" and record.levelno == logging.DEBUG
    ]
    assert pushes == [("push accepted", "tracked"), ("push refused", "not_authenticated")]
