"""The endpoint alone, in cases that a real server and store do not produce."""

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus

import pytest
from starlette.types import Message, Receive

from app.domain.changes import Rules
from app.domain.outcomes import Duplicate, Pending
from app.errors import BodyTimeoutError, BodyTooLargeError
from app.metrics import Metrics
from app.recorder import Recorder, Submission
from app.store.opening import open_store
from app.web.body import BodyReader
from app.web.protocol import Answer as Given
from app.web.push import Authenticator, Gate, PushEndpoint
from tests.support.entries import insert, preempted, push, system_event


class BrokenAuthenticator:
    """An authenticator that meets a bug."""

    def cached(self, authorization: str) -> str | None:
        raise ZeroDivisionError(authorization)

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
    return PushEndpoint(
        "creation",
        subscription="",
        authenticator=authenticator,
        recorder=Recorder(store, metrics),
        counters=metrics.pushes["creation"],
        gate=Gate(),
        request_listing=lambda _: None,
        bodies=BodyReader(10_000, 0.01),
    )


class Answer:
    """The answer of the endpoint to a request, and its metrics."""

    def __init__(self, receive: Receive, authenticator: Authenticator | None = None) -> None:
        self.sent: list[Message] = []
        self.metrics = Metrics(reasons=["body_timeout", "internal", "stopping"])
        asyncio.run(self._ask(receive, authenticator))

    async def _ask(self, receive: Receive, authenticator: Authenticator | None) -> None:
        endpoint = endpoint_of(self.metrics, authenticator)
        await endpoint({"type": "http", "headers": []}, receive, self._send)

    async def _send(self, message: Message) -> None:
        self.sent.append(message)

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
        asyncio.run(BodyReader(10, 0.01).read(receiving(*chunks, whole=False)))


def test_each_body_has_its_own_deadline() -> None:
    async def scenario() -> list[bytes | BaseException]:
        reader = BodyReader(10, 0.05)

        async def after(seconds: float, receive: Receive) -> bytes:
            await asyncio.sleep(seconds)
            body = await reader.read(receive)
            await asyncio.sleep(0.1)  # a body that was read in time is not cancelled later
            return body

        slow = (receiving(b"1", whole=False) for _ in range(3))
        return await asyncio.gather(
            *(after(0.02 * number, receive) for number, receive in enumerate(slow)),
            after(0.0, receiving(b"whole", whole=True)),
            after(0.2, receiving(b"1", whole=False)),
            return_exceptions=True,
        )

    *late, whole, latest = asyncio.run(scenario())
    assert whole == b"whole"
    assert {type(one) for one in (*late, latest)} == {BodyTimeoutError}


def test_a_cancelled_request_is_not_a_late_one() -> None:
    async def scenario() -> None:
        task = asyncio.create_task(BodyReader(10, 60).read(receiving(whole=False)))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(scenario())


def test_a_slow_body_is_refused_and_counted() -> None:
    answer = Answer(receiving(b"{", whole=False))

    start, body = answer.sent
    assert start["status"] == HTTPStatus.REQUEST_TIMEOUT
    assert (b"connection", b"close") in start["headers"]
    assert json.loads(body["body"])["reason"] == "body_timeout"
    assert answer.refused("body_timeout")


def test_a_request_that_the_server_cancels_at_its_end_is_answered_503() -> None:
    async def cut_short() -> Message:
        raise asyncio.CancelledError

    answer = Answer(cut_short)

    start, body = answer.sent
    assert start["status"] == HTTPStatus.SERVICE_UNAVAILABLE
    assert json.loads(body["body"])["reason"] == "stopping"
    assert answer.refused("stopping")


def test_a_bug_is_answered_counted_and_logged_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    answer = Answer(receiving(push(preempted()), whole=True), BrokenAuthenticator())

    start, body = answer.sent
    assert start["status"] == HTTPStatus.INTERNAL_SERVER_ERROR
    assert json.loads(body["body"])["reason"] == "internal"
    assert answer.refused("internal")
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert "ZeroDivisionError" in caplog.text


def document(answer: Given) -> dict[str, str]:
    fields: dict[str, str] = json.loads(answer.body)
    return fields


class RecordingReply:
    """Records the answers to pushes on the fast path."""

    def __init__(self) -> None:
        self.prepared: list[Given] = []
        self.sent: list[Given] = []

    def prepare(self, answer: Given) -> None:
        assert not self.sent
        self.prepared.append(answer)

    def send(self, answer: Given) -> None:
        self.sent.append(answer)


GOOD = [(b"host", b"exporter"), (b"authorization", b"good")]


def test_a_usual_push_takes_the_fast_path_and_is_answered_after_its_commit() -> None:
    replies = RecordingReply()

    async def scenario() -> None:
        metrics = Metrics()
        endpoint = endpoint_of(metrics, CachingAuthenticator())
        assert endpoint.try_fast_path(GOOD, push(insert("node-1")), replies)
        assert not replies.sent
        assert b'last_push_timestamp_seconds{endpoint="creation"}' in metrics.render("")[0]
        endpoint.recorder.close()
        await endpoint.recorder.run()

    asyncio.run(scenario())
    (answer,) = replies.sent
    assert answer.status == HTTPStatus.OK
    assert document(answer)["outcome"] == "tracked"


def test_the_answers_of_a_large_batch_are_prepared_before_they_are_sent() -> None:
    replies = RecordingReply()

    async def scenario() -> None:
        endpoint = endpoint_of(Metrics(), CachingAuthenticator())
        assert all(
            endpoint.try_fast_path(GOOD, push(insert(f"node-{number}")), replies) for number in range(20)
        )
        endpoint.recorder.close()
        await endpoint.recorder.run()

    asyncio.run(scenario())
    assert [document(answer)["instance"] for answer in replies.sent] == [f"node-{n}" for n in range(20)]
    assert list(map(id, replies.sent)) == list(map(id, replies.prepared))


class RecordingRecorder:
    """A recorder that only keeps the submissions."""

    def __init__(self) -> None:
        self.submissions: list[Submission] = []

    def submit(self, submission: Submission) -> None:
        self.submissions.append(submission)


def test_the_answer_is_that_of_the_outcome_and_not_the_prepared_one() -> None:
    replies, recorder = RecordingReply(), RecordingRecorder()
    endpoint = replace(endpoint_of(Metrics(), CachingAuthenticator()), recorder=recorder)  # type: ignore[arg-type]
    assert endpoint.try_fast_path(GOOD, push(insert("node-1")), replies)
    (submission,) = recorder.submissions

    submission.prepare_answer(Duplicate())
    submission.answer(Pending("shop-prod"))

    assert [document(answer) for answer in replies.prepared] == [{"outcome": "duplicate"}]
    assert [document(answer) for answer in replies.sent] == [{"outcome": "pending"}]


def test_a_message_that_is_not_an_event_is_answered_at_once() -> None:
    replies = RecordingReply()
    ignored = push(system_event("compute.instances.hostError"))

    assert endpoint_of(Metrics(), CachingAuthenticator()).try_fast_path(GOOD, ignored, replies)
    assert [document(answer) for answer in replies.sent] == [{"outcome": "ignored", "reason": "other_method"}]


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="no-token"),
        pytest.param([(b"authorization", b"new")], id="token-not-verified-yet"),
    ],
)
def test_a_push_of_an_unknown_caller_does_not_take_the_fast_path(headers: list[tuple[bytes, bytes]]) -> None:
    replies = RecordingReply()

    assert not endpoint_of(Metrics(), CachingAuthenticator()).try_fast_path(headers, push(insert()), replies)
    assert not replies.sent


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"{}", "malformed_envelope", id="no-envelope"),
        pytest.param(push(b"[]"), "malformed_entry", id="no-entry"),
        pytest.param(push(insert()) + b" " * 10_000, "body_too_large", id="too-large"),
    ],
)
def test_a_push_that_cannot_be_read_is_refused_on_the_fast_path(body: bytes, reason: str) -> None:
    replies = RecordingReply()

    assert endpoint_of(Metrics(), CachingAuthenticator()).try_fast_path(GOOD, body, replies)
    assert [document(answer)["reason"] for answer in replies.sent] == [reason]


def test_no_push_takes_the_fast_path_when_the_gate_is_closed() -> None:
    replies = RecordingReply()
    closed = endpoint_of(Metrics())
    closed.gate.closed = True

    assert not closed.try_fast_path([], push(insert()), replies)
    assert not replies.sent


def test_a_push_is_refused_when_the_writer_stops() -> None:
    replies = RecordingReply()
    stopping = endpoint_of(Metrics())
    stopping.recorder.close()

    assert stopping.try_fast_path([], push(insert()), replies)
    assert [document(answer)["reason"] for answer in replies.sent] == ["stopping"]


def test_a_push_that_meets_a_bug_does_not_take_the_fast_path() -> None:
    assert not endpoint_of(Metrics(), BrokenAuthenticator()).try_fast_path(
        GOOD, push(insert()), RecordingReply()
    )
