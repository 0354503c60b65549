"""The endpoint alone, in cases that a real server and store do not produce."""

import asyncio
import json
import logging
from collections.abc import Sequence
from http import HTTPStatus

import pytest
from starlette.types import Message, Receive

from app.domain.changes import Rules
from app.errors import BodyTimeoutError, BodyTooLargeError
from app.intake import Intake
from app.metrics import Metrics
from app.recorder import Recorder
from app.store.opening import open_store
from app.web.answers import Answer as Given
from app.web.asgi import answer_push
from app.web.body import CALLER_GONE, read_body
from app.web.push import Authenticator, Gate, PushEndpoint
from tests.support.entries import insert, preempted, push, system_event


class BrokenAuthenticator:
    """An authenticator that meets a bug."""

    def cached(self, _authorization: str) -> str | None:
        return None

    async def verify(self, authorization: str | None) -> str:
        raise ZeroDivisionError(authorization)


class CachingAuthenticator:
    """An authenticator that has cached every token except `new`."""

    def cached(self, authorization: str) -> str | None:
        return None if authorization == "new" else "somebody"

    async def verify(self, authorization: str | None) -> str:
        raise AssertionError(authorization)


def endpoint_of(metrics: Metrics, authenticator: Authenticator | None = None) -> PushEndpoint:
    store = open_store("sqlite:///:memory:", Rules()).store
    store.state()  # as at a start
    intake = Intake(
        "creation", Recorder(store, metrics), metrics.pushes["creation"], request_listing=lambda _: None
    )
    return PushEndpoint(intake, "", authenticator, Gate(), max_body_bytes=10_000)


class Answer:
    """The answer of the endpoint to a request, and its metrics."""

    def __init__(self, receive: Receive, authenticator: Authenticator | None = None) -> None:
        self.metrics = Metrics(reasons=["body_timeout", "internal", "stopping"])
        asyncio.run(self._ask(receive, authenticator))

    async def _ask(self, receive: Receive, authenticator: Authenticator | None) -> None:
        endpoint = endpoint_of(self.metrics, authenticator)
        self.answer = await answer_push(endpoint, [], receive, body_seconds=0.01)

    def refused(self, reason: str) -> bool:
        series = f'push_errors_total{{endpoint="creation",reason="{reason}"}} 1.0'
        return series.encode() in self.metrics.render("")[0]


def receiving(*chunks: bytes, whole: bool) -> Receive:
    """Return a `receive` that gives the chunks of a body. If it is not `whole`, the rest never comes."""
    rest = list(chunks)

    async def receive() -> Message:
        if not rest:
            await asyncio.Event().wait()
        chunk = rest.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(rest) or not whole}

    return receive


@pytest.mark.parametrize(
    ("chunks", "error"),
    [
        pytest.param([], BodyTimeoutError, id="nothing"),
        pytest.param([b"12345"], BodyTimeoutError, id="not-all"),
        pytest.param([b"12345", b"67890", b"1"], BodyTooLargeError, id="too-large-before-it-is-late"),
    ],
)
def test_a_body_has_limits_of_time_and_size(chunks: Sequence[bytes], error: type[Exception]) -> None:
    with pytest.raises(error):
        asyncio.run(read_body(receiving(*chunks, whole=False), 10, 0.01))


def test_a_cancelled_request_is_not_a_late_one() -> None:
    async def scenario() -> None:
        task = asyncio.create_task(read_body(receiving(whole=False), 10, 60))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(scenario())


def test_a_slow_body_is_refused_and_counted() -> None:
    answer = Answer(receiving(b"{", whole=False))

    assert answer.answer.status == HTTPStatus.REQUEST_TIMEOUT
    assert answer.answer.closes
    assert document(answer.answer)["reason"] == "body_timeout"
    assert answer.refused("body_timeout")


def test_a_request_that_the_server_cancels_at_its_end_is_answered_503() -> None:
    async def cut_short() -> Message:
        raise asyncio.CancelledError

    answer = Answer(cut_short)

    assert answer.answer.status == HTTPStatus.SERVICE_UNAVAILABLE
    assert document(answer.answer)["reason"] == "stopping"
    assert answer.refused("stopping")


def test_a_request_whose_caller_has_gone_is_neither_answered_nor_counted() -> None:
    metrics = Metrics(reasons=["stopping"])

    async def scenario() -> None:
        endpoint = endpoint_of(metrics)
        push = asyncio.create_task(answer_push(endpoint, [], receiving(whole=False)))
        await asyncio.sleep(0)
        push.cancel(CALLER_GONE)
        await push

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(scenario())
    assert b'reason="stopping"} 1.0' not in metrics.render("")[0]


def test_a_bug_is_answered_counted_and_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    answer = Answer(receiving(push(preempted()), whole=True), BrokenAuthenticator())

    assert answer.answer.status == HTTPStatus.INTERNAL_SERVER_ERROR
    assert document(answer.answer)["reason"] == "internal"
    assert document(answer.answer)["detail"] == "a bug in the exporter; its log has the trace"
    assert answer.refused("internal")
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert "ZeroDivisionError" in caplog.text


def document(answer: Given) -> dict[str, str]:
    fields: dict[str, str] = json.loads(answer.body)
    return fields


GOOD = [(b"host", b"exporter"), (b"authorization", b"good")]


def test_a_push_is_answered_after_its_commit() -> None:
    answers: list[Given] = []

    async def scenario() -> None:
        metrics = Metrics()
        endpoint = endpoint_of(metrics, CachingAuthenticator())
        endpoint.receive(GOOD, push(insert("node-1")), answers.append)
        assert not answers
        assert b'last_push_timestamp_seconds{endpoint="creation"}' in metrics.render("")[0]
        endpoint.intake.recorder.close()
        await endpoint.intake.recorder.run()

    asyncio.run(scenario())
    (answer,) = answers
    assert answer.status == HTTPStatus.OK
    assert document(answer)["outcome"] == "tracked"


def test_a_message_that_is_not_an_event_is_answered_at_once() -> None:
    answers: list[Given] = []
    ignored = push(system_event("compute.instances.hostError"))

    endpoint_of(Metrics()).receive(GOOD, ignored, answers.append)

    assert [document(answer) for answer in answers] == [{"outcome": "ignored", "reason": "other_method"}]


@pytest.mark.parametrize(
    ("headers", "admitted"),
    [
        pytest.param(GOOD, True, id="verified-before"),
        pytest.param([], False, id="no-token"),
        pytest.param([(b"authorization", b"new")], False, id="token-not-verified-yet"),
    ],
)
def test_only_a_caller_that_was_authenticated_before_is_admitted_at_once(
    headers: list[tuple[bytes, bytes]], *, admitted: bool
) -> None:
    assert endpoint_of(Metrics(), CachingAuthenticator()).admits(headers) == admitted


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"{}", "malformed_envelope", id="no-envelope"),
        pytest.param(push(b"[]"), "malformed_entry", id="no-entry"),
        pytest.param(push(insert()) + b" " * 10_000, "body_too_large", id="too-large"),
    ],
)
def test_a_push_that_cannot_be_read_is_refused_at_once(body: bytes, reason: str) -> None:
    answers: list[Given] = []

    endpoint_of(Metrics()).receive(GOOD, body, answers.append)

    assert [document(answer)["reason"] for answer in answers] == [reason]


def test_no_caller_is_admitted_when_the_gate_is_closed() -> None:
    closed = endpoint_of(Metrics())
    closed.gate.closed = True

    assert not closed.admits([])
    refusal = asyncio.run(closed.authenticate([]))
    assert refusal is not None
    assert document(refusal)["reason"] == "stopping"


def test_a_push_is_refused_when_the_writer_stops() -> None:
    answers: list[Given] = []
    stopping = endpoint_of(Metrics())
    stopping.intake.recorder.close()

    stopping.receive([], push(insert()), answers.append)

    assert [document(answer)["reason"] for answer in answers] == ["stopping"]


def test_a_decoder_that_meets_a_bug_is_answered_500_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    answers: list[Given] = []
    monkeypatch.setattr("app.intake.decode_entry", broken)

    endpoint_of(Metrics()).receive([], push(insert()), answers.append)

    assert [answer.status for answer in answers] == [HTTPStatus.INTERNAL_SERVER_ERROR]
    assert "ZeroDivisionError" in caplog.text
