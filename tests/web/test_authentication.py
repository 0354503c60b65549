from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path

import pytest

from app.metrics import ENDPOINTS, Endpoint
from tests.support.entries import insert, push
from tests.support.exporter import OWN, Exporter, subscription, token
from tests.support.issuer import ABSENT, Issuer
from tests.web.problems import assert_problem

pytestmark = pytest.mark.usefixtures("both_ways")


def payload_exchanged() -> str:
    header, _, signature = token().split(".")
    return f"{header}.{token(sub='1').split('.')[1]}.{signature}"


HOSTILE = [
    *(
        pytest.param(authorization, HTTPStatus.UNAUTHORIZED, "not_authenticated", id=name)
        for name, authorization in {
            "no-header": None,
            "empty": "",
            "basic": "Basic dXNlcjpwYXNzd29yZA==",
            "no-jwt": "Bearer token",
            "bad-signature": payload_exchanged(),
            "another-key": token(Issuer()),
            "alg-none": token(header={"alg": "none"}),
            "alg-hs256": token(header={"alg": "HS256"}),
            "expired": token(iat=1, exp=2),
            "from-the-future": token(iat=int(datetime.now(UTC).timestamp()) + 86400),
            "wrong-issuer": token(iss="https://accounts.example.com"),
            "wrong-audience": token(audience="https://other.example.com"),
            "no-audience": token(audience=ABSENT),
            "no-email": token(email=ABSENT),
            "no-expiry": token(exp=ABSENT),
            "64-kB": f"Bearer {'a' * 60_000}",
        }.items()
    ),
    *(
        pytest.param(authorization, HTTPStatus.FORBIDDEN, "not_permitted", id=name)
        for name, authorization in {
            "another-account": token(email="other@example-project.iam.gserviceaccount.com"),
            "email-not-verified": token(email_verified=False),
            "email-verified-in-words": token(email_verified="true"),
        }.items()
    ),
]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(("authorization", "status", "reason"), HOSTILE)
def test_no_other_caller_may_push(
    shared_exporter: Exporter, endpoint: Endpoint, authorization: str | None, status: HTTPStatus, reason: str
) -> None:
    before = shared_exporter.refused(endpoint, reason)
    response = shared_exporter.post(endpoint, push(insert("stranger")), authorization=authorization)

    assert_problem(response, status, reason)
    assert shared_exporter.refused(endpoint, reason) == before + 1


@pytest.mark.parametrize("headers", [{}, {"expect": "100-continue"}], ids=["plain", "expects-continue"])
def test_a_stranger_without_a_body_is_refused_once_and_is_not_an_authentic_push(
    exporter: Exporter, headers: dict[str, str]
) -> None:
    response = exporter.post("creation", b"", authorization="Bearer token", headers=headers)

    assert_problem(response, HTTPStatus.UNAUTHORIZED, "not_authenticated")
    assert exporter.refused("creation", "not_authenticated") == 1
    assert exporter.refused("creation", "malformed_envelope") == 0
    assert exporter.value(f"{OWN}_last_push_timestamp_seconds", endpoint="creation") is None


def test_an_empty_body_of_a_new_caller_is_refused_after_the_authentication(exporter: Exporter) -> None:
    response = exporter.post("creation", b"")

    assert_problem(response, HTTPStatus.BAD_REQUEST, "malformed_envelope")
    assert exporter.create("node-1").json()["outcome"] == "tracked"


def test_without_certificates_a_push_is_answered_503(exporter: Exporter) -> None:
    exporter.certificates.status = HTTPStatus.INTERNAL_SERVER_ERROR
    assert_problem(exporter.create("node-1"), HTTPStatus.SERVICE_UNAVAILABLE, "certificates_unavailable")

    exporter.certificates.status = HTTPStatus.OK
    assert exporter.create("node-1").json()["outcome"] == "tracked"


def test_every_caller_may_push_without_authentication(tmp_path: Path) -> None:
    settings = {"pubsub.authentication": "none", "pubsub.audience": "", "pubsub.service_account_email": ""}
    with Exporter(tmp_path, settings) as exporter:
        body = push(insert("node-1"), subscription=subscription("creation"))
        assert exporter.post("creation", body, authorization=None).json()["outcome"] == "tracked"
        assert exporter.certificates.fetches == 0


def test_only_an_authentic_push_is_the_newest(exporter: Exporter) -> None:
    series = f"{OWN}_last_push_timestamp_seconds"
    exporter.post("creation", push(insert("node-1")), authorization=None)
    assert exporter.value(series, endpoint="creation") is None

    before = datetime.now(UTC).timestamp()
    exporter.post("creation", b"unreadable")
    at = exporter.value(series, endpoint="creation")
    assert at is not None
    assert before <= at <= datetime.now(UTC).timestamp()
    assert exporter.value(series, endpoint="interruption") is None
