import logging
from base64 import b64encode
from http import HTTPStatus
from typing import Final

import pytest

from app.metrics import ENDPOINTS, Endpoint
from tests.support.entries import JsonObject, changed, encoded, envelope, insert, preempted, push, without
from tests.support.exporter import OWN, Exporter, subscription, token
from tests.support.samples import Samples
from tests.web.problems import assert_problem

pytestmark = pytest.mark.usefixtures("both_ways")

MARKER: Final = "Zq7-never-to-be-seen"
NAME: Final = "protoPayload.resourceName"
PARENT: Final = "projects/shop-prod/zones/europe-west1-c/instances"


def with_data(data: object) -> bytes:
    return encoded(changed(envelope({}, subscription=subscription("interruption")), "message.data", data))


def with_entry(entry: JsonObject) -> bytes:
    return push(entry, subscription=subscription("interruption"), attributes={MARKER: MARKER})


UNREADABLE = [
    *(
        pytest.param(body, HTTPStatus.BAD_REQUEST, "malformed_envelope", id=f"envelope-{name}")
        for name, body in {
            "empty": b"",
            "no-json": b"Spot",
            "a-list": b"[]",
            "a-string": b'"envelope"',
            "a-number": b"7",
            "null": b"null",
            "not-utf-8": b'{"message": "\xff"}',
            "cut-off": push(preempted("node-1"))[:-20],
            "no-message": b"{}",
            "something-else": b'{"subscription": "projects/p/subscriptions/s"}',
            "message-null": b'{"message": null}',
            "message-a-list": b'{"message": []}',
            "no-message-id": encoded(
                without(envelope(preempted("node-1")), "message.messageId", "message.message_id")
            ),
            "empty-message-id": encoded({"message": {"data": "", "messageId": ""}}),
            "deep": b"[" * 100_000,
        }.items()
    ),
    *(
        pytest.param(with_data(data), HTTPStatus.UNPROCESSABLE_ENTITY, "malformed_entry", id=f"data-{name}")
        for name, data in {
            "not-base64": "*",
            "empty": "",
            "no-json": b64encode(b"Spot").decode(),
            "a-list": b64encode(b"[]").decode(),
            "a-string": b64encode(b'"entry"').decode(),
            "null": b64encode(b"null").decode(),
            "not-utf-8": b64encode(b'{"protoPayload": "\xff"}').decode(),
        }.items()
    ),
    *(
        pytest.param(
            with_entry(entry),
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "malformed_entry",
            id=f"entry-{name}",
        )
        for name, entry in {
            "names-no-instance": without(preempted(), NAME),
            "names-a-zone": changed(preempted(), NAME, "projects/shop-prod/zones/europe-west1-c"),
            "name-too-long": changed(preempted(), NAME, f"{PARENT}/{'n' * 513}"),
            "name-with-a-control-character": changed(preempted(), NAME, f"{PARENT}/node\x00"),
            "name-with-a-newline": changed(preempted(), NAME, f"{PARENT}/node\n"),
            "name-with-a-lone-surrogate": changed(preempted(), NAME, f"{PARENT}/node\ud800"),
            "id-a-number": changed(preempted(), "resource.labels.instance_id", 5),
            "label-too-long": insert(cluster="c" * 513),
            "label-with-a-control-character": insert(cluster="tills\x1b[2J"),
            "timestamp-a-number": changed(preempted(), "timestamp", 5),
        }.items()
    ),
]


@pytest.mark.parametrize(("body", "status", "reason"), UNREADABLE)
def test_an_unreadable_message_is_refused_with_the_reason(
    shared_exporter: Exporter, body: bytes, status: HTTPStatus, reason: str
) -> None:
    before = shared_exporter.refused("interruption", reason)

    assert_problem(shared_exporter.post("interruption", body), status, reason)
    assert shared_exporter.refused("interruption", reason) == before + 1


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_only_post_is_a_push(shared_exporter: Exporter, endpoint: Endpoint, method: str) -> None:
    before = shared_exporter.exposition()
    response = shared_exporter.client.request(method, f"{shared_exporter.url}/events/{endpoint}")

    if method == "HEAD":
        assert response.status_code == HTTPStatus.METHOD_NOT_ALLOWED
    else:
        assert_problem(response, HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    assert counted_since(before, shared_exporter) == {("other", "method_not_allowed"): 1}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        "/events",
        "/events/",
        "/events/creation/",
        "/events/Creation",
        "/events/other",
        "//events/creation",
        "/x?y=z",
    ],
)
def test_another_path_is_not_found(shared_exporter: Exporter, method: str, path: str) -> None:
    before = shared_exporter.exposition()
    response = shared_exporter.client.request(method, f"{shared_exporter.url}{path}")

    assert_problem(response, HTTPStatus.NOT_FOUND, "not_found")
    # A GET is a person or a probe; a POST is probably a push to a mistyped URL.
    expected = {("other", "not_found"): 1} if method == "POST" else {}
    assert counted_since(before, shared_exporter) == expected


@pytest.mark.parametrize("path", ["/", "/metrics", "/interruptions", "/healthz", "/readyz", "/openapi.json"])
def test_a_push_to_a_path_that_takes_only_get_can_be_found(
    shared_exporter: Exporter, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level(logging.DEBUG)
    before = shared_exporter.exposition()
    response = shared_exporter.client.post(f"{shared_exporter.url}{path}?token={MARKER}", content=MARKER)

    assert_problem(response, HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed")
    assert response.headers["allow"] == "GET, HEAD"
    assert counted_since(before, shared_exporter) == {("other", "method_not_allowed"): 1}
    assert shared_exporter.parts.metrics.refusals.newest["method_not_allowed"] == f"POST {path}"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS"])
def test_another_request_to_a_path_that_takes_only_get_is_not_a_push(
    shared_exporter: Exporter, method: str
) -> None:
    before = shared_exporter.exposition()
    response = shared_exporter.client.request(method, f"{shared_exporter.url}/healthz")

    assert_problem(response, HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed")
    assert counted_since(before, shared_exporter) == {}


def counted_since(before: Samples, exporter: Exporter) -> dict[tuple[str, str], float]:
    """Return the growth of the push counters, by endpoint and by outcome or reason."""
    growth = {
        sample: value - before.get(sample, 0.0)
        for sample, value in exporter.exposition().items()
        if sample[0].startswith(f"{OWN}_push_") and before.get(sample) != value
    }
    labels = {sample: dict(sample[1]) for sample in growth}
    return {
        (labels[sample]["endpoint"], labels[sample].get("reason") or labels[sample]["outcome"]): more
        for sample, more in growth.items()
    }


def test_a_query_is_not_part_of_the_path(shared_exporter: Exporter) -> None:
    response = shared_exporter.client.post(f"{shared_exporter.url}/events/creation?token=x")

    assert_problem(response, HTTPStatus.UNAUTHORIZED, "not_authenticated")


ECHOES = [
    pytest.param(f"Bearer {MARKER}", b"", id="token"),
    pytest.param(f"Bearer {MARKER}.{MARKER}.{MARKER}", b"", id="jwt"),
    pytest.param(token(audience=MARKER), b"", id="audience"),
    pytest.param(token(email=MARKER), b"", id="account"),
    pytest.param(token(header={"kid": MARKER}), b"", id="kid"),
    pytest.param(None, MARKER.encode(), id="body-no-json"),
    pytest.param(None, f'{{"{MARKER}": "{MARKER}"}}'.encode(), id="body-no-envelope"),
    pytest.param(None, push(insert(), subscription=MARKER), id="subscription"),
    pytest.param(None, with_data(MARKER), id="data"),
    pytest.param(None, with_data(b64encode(MARKER.encode()).decode()), id="data-no-json"),
    pytest.param(None, with_entry(changed(preempted(), NAME, MARKER)), id="name"),
    pytest.param(None, with_entry(changed(preempted(), NAME, f"{PARENT}/{MARKER}\x00")), id="name-unfit"),
    pytest.param(
        None, with_entry(changed(preempted(), "operation", {"id": [MARKER]})), id="field-that-does-not-fit"
    ),
    pytest.param(None, with_entry(insert(cluster=MARKER * 50)), id="label"),
    pytest.param(None, with_entry(changed(preempted(), "timestamp", [MARKER])), id="timestamp"),
]


@pytest.mark.parametrize(("authorization", "body"), ECHOES)
def test_an_error_never_echoes_what_was_sent(
    shared_exporter: Exporter, caplog: pytest.LogCaptureFixture, authorization: str | None, body: bytes
) -> None:
    caplog.set_level(logging.DEBUG)
    response = shared_exporter.post(
        "interruption", body, authorization=authorization or shared_exporter.authorization
    )
    signature = (authorization or shared_exporter.authorization).split(".")[-1]

    assert response.is_client_error
    shown = f"{response.text} {response.headers} {caplog.text} {[vars(record) for record in caplog.records]}"
    assert MARKER not in shown
    assert signature not in shown
