"""The endpoint by itself, for what a server and a store of ours would not do to it."""

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from http import HTTPStatus

import pytest
from starlette.types import Message, Receive

from app.domain.attribution import Rules
from app.domain.outcomes import Duplicate, Pending
from app.errors import BodyTimeoutError, BodyTooLargeError
from app.metrics import Metrics
from app.recorder import Caller, Recorder
from app.store import open_store
from app.web.body import BodyReader
from app.web.protocol import Answer as Given
from app.web.push import Authenticator, Gate, PushEndpoint
from tests.support.entries import insert, preempted, push, system_event


class Broken:
    """An authenticator that meets a bug."""

    def cached(self, authorization: str) -> str | None:
        raise ZeroDivisionError(authorization)

    async def verify(self, authorization: str | None) -> str:
        raise ZeroDivisionError(authorization)


class Known:
    """Says that it has verified every token but `new`."""

    def cached(self, authorization: str) -> str | None:
        return None if authorization == "new" else "somebody"

    async def verify(self, authorization: str | None) -> str:
        raise AssertionError(authorization)


def endpoint_of(metrics: Metrics, authenticator: Authenticator | None = None) -> PushEndpoint:
    store = open_store("sqlite:///:memory:", Rules()).store
    store.remembered()  # as at a start
    return PushEndpoint(
        "creation",
        subscription="",
        authenticator=authenticator,
        recorder=Recorder(store, metrics),
        pushes=metrics.pushes["creation"],
        gate=Gate(),
        ask=lambda _: None,
        bodies=BodyReader(10_000, 0.01),
    )


class Answer:
    """What the endpoint answers to a request, and what it counts."""

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
    """Gives the chunks of a body; where it is not `whole`, one waits for the rest for ever."""
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
def test_a_body_is_waited_for_only_so_long(chunks: Sequence[bytes], error: type[Exception]) -> None:
    with pytest.raises(error):
        asyncio.run(BodyReader(10, 0.01).read(receiving(*chunks, whole=False)))


def test_each_body_has_its_own_time_and_only_the_late_ones_are_given_up() -> None:
    async def scenario() -> list[bytes | BaseException]:
        reader = BodyReader(10, 0.05)

        async def after(seconds: float, receive: Receive) -> bytes:
            await asyncio.sleep(seconds)
            body = await reader.read(receive)
            await asyncio.sleep(0.1)  # what was read in time is not given up later
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


def test_a_caller_that_is_given_up_otherwise_is_no_late_one() -> None:
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


def test_what_is_under_way_when_the_server_gives_up_is_to_come_again() -> None:
    async def cut_short() -> Message:
        raise asyncio.CancelledError

    answer = Answer(cut_short)

    start, body = answer.sent
    assert start["status"] == HTTPStatus.SERVICE_UNAVAILABLE
    assert json.loads(body["body"])["reason"] == "stopping"
    assert answer.refused("stopping")


def test_a_bug_is_answered_counted_and_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    answer = Answer(receiving(push(preempted()), whole=True), Broken())

    start, body = answer.sent
    assert start["status"] == HTTPStatus.INTERNAL_SERVER_ERROR
    assert json.loads(body["body"])["reason"] == "internal"
    assert answer.refused("internal")
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert "ZeroDivisionError" in caplog.text


def document(answer: Given) -> dict[str, str]:
    told: dict[str, str] = json.loads(answer.body)
    return told


class Replies:
    """Takes the answers to pushes that were taken."""

    def __init__(self) -> None:
        self.expected: list[Given] = []
        self.given: list[Given] = []

    def expect(self, answer: Given) -> None:
        assert not self.given
        self.expected.append(answer)

    def give(self, answer: Given) -> None:
        self.given.append(answer)


GOOD = [(b"host", b"exporter"), (b"authorization", b"good")]


def test_a_usual_push_is_taken_and_answered_once_it_is_committed() -> None:
    replies = Replies()

    async def scenario() -> None:
        metrics = Metrics()
        endpoint = endpoint_of(metrics, Known())
        assert endpoint.take(GOOD, push(insert("node-1")), replies)
        assert not replies.given
        assert b'last_push_timestamp_seconds{endpoint="creation"}' in metrics.render("")[0]
        endpoint.recorder.close()
        await endpoint.recorder.run()

    asyncio.run(scenario())
    (answer,) = replies.given
    assert answer.status == HTTPStatus.OK
    assert document(answer)["outcome"] == "tracked"


def test_of_many_pushes_the_answers_are_expected_before_they_are_given() -> None:
    replies = Replies()

    async def scenario() -> None:
        endpoint = endpoint_of(Metrics(), Known())
        assert all(endpoint.take(GOOD, push(insert(f"node-{number}")), replies) for number in range(20))
        endpoint.recorder.close()
        await endpoint.recorder.run()

    asyncio.run(scenario())
    assert [document(answer)["instance"] for answer in replies.given] == [f"node-{n}" for n in range(20)]
    assert list(map(id, replies.given)) == list(map(id, replies.expected))


class Submitted:
    """Stands where a recorder does, and keeps who waits."""

    def __init__(self) -> None:
        self.callers: list[Caller] = []

    def submit(self, caller: Caller) -> None:
        self.callers.append(caller)


def test_an_outcome_that_was_not_expected_is_answered_as_it_is() -> None:
    replies, submitted = Replies(), Submitted()
    endpoint = replace(endpoint_of(Metrics(), Known()), recorder=submitted)  # type: ignore[arg-type]
    assert endpoint.take(GOOD, push(insert("node-1")), replies)
    (caller,) = submitted.callers

    caller.expect(Duplicate())
    caller.tell(Pending("shop-prod"))

    assert [document(answer) for answer in replies.expected] == [{"outcome": "duplicate"}]
    assert [document(answer) for answer in replies.given] == [{"outcome": "pending"}]


def test_what_is_no_event_is_answered_at_once() -> None:
    replies = Replies()
    ignored = push(system_event("compute.instances.hostError"))

    assert endpoint_of(Metrics(), Known()).take(GOOD, ignored, replies)
    assert [document(answer) for answer in replies.given] == [
        {"outcome": "ignored", "reason": "other_method"}
    ]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param([], push(insert()), id="no-token"),
        pytest.param([(b"authorization", b"new")], push(insert()), id="token-not-verified-yet"),
        pytest.param(GOOD, b"{}", id="no-envelope"),
        pytest.param(GOOD, push(b"[]"), id="no-entry"),
        pytest.param(GOOD, push(insert()) + b" " * 10_000, id="too-large"),
    ],
)
def test_any_other_push_is_not_taken(headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    replies = Replies()

    assert not endpoint_of(Metrics(), Known()).take(headers, body, replies)
    assert not replies.given


def test_nothing_is_taken_any_more_when_the_gate_is_closed_or_the_writer_stops() -> None:
    replies = Replies()
    closed, stopping = endpoint_of(Metrics()), endpoint_of(Metrics())
    closed.gate.closed = True
    stopping.recorder.close()

    assert not any(endpoint.take([], push(insert()), replies) for endpoint in (closed, stopping))
    assert not replies.given


def test_a_bug_keeps_a_push_from_being_taken() -> None:
    assert not endpoint_of(Metrics(), Broken()).take(GOOD, push(insert()), Replies())
