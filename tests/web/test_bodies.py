from collections.abc import Iterator
from http import HTTPStatus
from typing import Final

import pytest

from tests.support.entries import insert, push
from tests.support.exporter import OWN, Exporter, subscription
from tests.support.raw_http import connected, read_answer, request_head
from tests.web.problems import assert_problem

pytestmark = pytest.mark.usefixtures("both_ways")


def test_authentication_comes_before_the_body_is_read(exporter: Exporter) -> None:
    with connected(exporter) as connection:
        connection.sendall(request_head("Content-Length: 1000", "Expect: 100-continue", "Connection: close"))
        answer = read_answer(connection)

    assert answer.startswith(b"HTTP/1.1 401 ")


def padded(size: int) -> bytes:
    body = push(insert("node-1"), subscription=subscription("creation"))
    return body + b" " * (size - len(body))


LIMIT: Final = 8192


@pytest.fixture(scope="module")
def narrow_exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    with Exporter(tmp_path_factory.mktemp("narrow"), {"server.max_body_bytes": LIMIT}) as exporter:
        yield exporter


def in_chunks(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
def test_a_body_as_long_as_the_limit_is_read(narrow_exporter: Exporter, chunked: bool) -> None:  # noqa: FBT001
    body = padded(LIMIT)
    response = narrow_exporter.client.post(
        f"{narrow_exporter.url}/events/creation",
        content=in_chunks(body) if chunked else body,
        headers={"authorization": narrow_exporter.authorization},
    )

    assert response.json()["outcome"] in {"tracked", "duplicate"}


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
def test_a_body_over_the_limit_is_refused(narrow_exporter: Exporter, chunked: bool) -> None:  # noqa: FBT001
    before = narrow_exporter.refused("creation", "body_too_large")
    body = padded(LIMIT + 1)
    response = narrow_exporter.client.post(
        f"{narrow_exporter.url}/events/creation",
        content=in_chunks(body) if chunked else body,
        headers={"authorization": narrow_exporter.authorization},
    )

    assert_problem(response, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body_too_large")
    assert "server.max_body_bytes (" in response.json()["detail"]
    assert response.headers["connection"] == "close"
    assert narrow_exporter.refused("creation", "body_too_large") == before + 1


def test_an_endless_body_is_refused_at_the_limit(narrow_exporter: Exporter) -> None:
    with connected(narrow_exporter) as connection:
        connection.sendall(
            request_head(f"Authorization: {narrow_exporter.authorization}", f"Content-Length: {10**12}")
        )
        connection.sendall(b" " * (LIMIT + 1))
        answer = read_answer(connection)

    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_caller_that_disconnects_during_the_body_is_not_an_error(
    exporter: Exporter, caplog: pytest.LogCaptureFixture
) -> None:
    before = exporter.exposition()
    with connected(exporter) as connection:
        connection.sendall(
            request_head(
                f"Authorization: {exporter.authorization}", "Content-Length: 1000", "Expect: 100-continue"
            )
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"{")
    exporter.stop()
    assert not caplog.records
    exporter.start()

    answered = {sample for sample in before if sample[0].startswith(f"{OWN}_push_")}
    now = exporter.exposition()
    assert all(now[sample] == 0 for sample in answered)
