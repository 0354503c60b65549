"""The two push endpoints: authenticate, read the body, decode, record, answer.

They bypass FastAPI, whose layers would cost more per request than all of this. A push that arrived
completely, from a caller whose token is cached, takes the fast path without a task; any other is plain ASGI.
https://cloud.google.com/pubsub/docs/push
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, assert_never

from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from app.domain.events import Event, Ignored
from app.domain.outcomes import Counted, Duplicate, Ended, Outcome, Pending, Tracked
from app.errors import (
    CallerError,
    InternalError,
    StoppingError,
    UnavailableError,
    WrongSubscriptionError,
)
from app.gcp.auditlog import decode_entry
from app.gcp.pubsub import PushMessage, decode_push, same_subscription
from app.metrics import Endpoint, PushCounters
from app.recorder import Recorder, Result, Submission
from app.web.body import BodyReader, CallerGoneError
from app.web.problems import problem_of
from app.web.protocol import Answer, Headers, Reply

_JSON: Final = ((b"content-type", b"application/json"),)

_log = logging.getLogger(__name__)


class Authenticator(Protocol):
    """Identifies callers by their tokens; see `app.gcp.oidc.Verifier`."""

    def cached(self, authorization: str) -> str | None:
        """Return the caller if this token was verified before and is still valid."""
        ...

    async def verify(self, authorization: str | None) -> str:
        """Return the caller.

        Raises NotAuthenticatedError, NotPermittedError or CertificatesUnavailableError.
        """
        ...


@dataclass(slots=True)
class Gate:
    """A switch that closes the push endpoints."""

    closed: bool = False


@dataclass(frozen=True, slots=True)
class PushEndpoint:
    """One endpoint, as an ASGI application."""

    endpoint: Endpoint
    subscription: str
    """The only subscription that may push here; empty for any."""
    authenticator: Authenticator | None
    """None if everybody may push."""
    recorder: Recorder
    counters: PushCounters
    gate: Gate
    request_listing: Callable[[str], None]
    """Requests a listing of a project, because an interruption of it is pending."""
    bodies: BodyReader
    clock: Callable[[], float] = time.time

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one POST."""
        try:
            answer = await self._push(scope, receive)
        except (CallerError, UnavailableError, InternalError) as exc:
            answer = self.refuse(exc)
        except CallerGoneError:
            return
        except asyncio.CancelledError:  # the server stops, and ends the requests in progress
            answer = self.refuse(StoppingError("the exporter has stopped"))
        except Exception:  # noqa: BLE001 - without an answer the message would be redelivered without a reason
            _log.exception("a push could not be handled", extra={"endpoint": self.endpoint})
            answer = self.refuse(InternalError("a bug; the log has the trace"))
        await _send(send, answer)

    def try_fast_path(self, headers: Headers, body: bytes, reply: Reply) -> bool:
        """Handle a push that arrived completely, from a caller whose token is cached.

        Return False if the request must take the ASGI path, which also reports a bug of the decoders.
        """
        try:
            if self.gate.closed or not self._is_known_caller(_authorization(headers)):
                return False
            now = self.counters.last_at = self.clock()
            event = self._decode(self.bodies.check_size(body), headers, now)
        except CallerError as exc:
            reply.send(self.refuse(exc))
            return True
        except Exception:  # noqa: BLE001 - the ASGI path logs it
            return False
        if isinstance(event, Ignored):
            reply.send(self.accept(event))
            return True
        try:
            self.recorder.submit(_PushSubmission(event, self, reply))
        except UnavailableError as exc:
            reply.send(self.refuse(exc))
        return True

    async def _push(self, scope: Scope, receive: Receive) -> Answer:
        if self.gate.closed:
            raise StoppingError("the exporter is stopping")
        authorization = _authorization(scope["headers"])
        if self.authenticator is not None and not self._is_known_caller(authorization):
            await self.authenticator.verify(authorization)
        now = self.counters.last_at = self.clock()
        event = self._decode(await self.bodies.read(receive), scope["headers"], now)
        if isinstance(event, Ignored):
            return self.accept(event)
        return self.accept(await self.recorder.record(event), event)

    def _is_known_caller(self, authorization: str | None) -> bool:
        if self.authenticator is None:
            return True
        return authorization is not None and self.authenticator.cached(authorization) is not None

    def _decode(self, body: bytes, headers: Headers, now: float) -> Event | Ignored:
        message = decode_push(body, headers)
        self._check_subscription(message)
        return decode_entry(message.data, message, now)

    def _check_subscription(self, message: PushMessage) -> None:
        if not self.subscription or not message.subscription:
            return
        if same_subscription(message.subscription, self.subscription):
            return
        # A replay from the dead-letter topic has another subscription, and names the one before.
        if not same_subscription(message.dead_letter_source, self.subscription):
            raise WrongSubscriptionError("the envelope names another subscription than the configured one")

    def accept(self, outcome: Outcome, event: Event | None = None, prepared: Answer | None = None) -> Answer:
        """Count a push that was recorded, or ignored because it is not an event, and return its answer.

        That is the `prepared` answer, if there is one.
        """
        if isinstance(outcome, Pending):
            self.request_listing(outcome.project)
        delay = None if event is None or isinstance(outcome, Duplicate) else self.clock() - event.at
        self.counters.answered(name_of(outcome), delay)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("push", extra={"endpoint": self.endpoint, **_document(outcome)})
        return prepared or _answer(outcome)

    def refuse(self, exc: CallerError | UnavailableError | InternalError) -> Answer:
        """Count any other push, and return its answer."""
        self.counters.refused(exc.reason, str(exc))
        _log.debug(
            "push refused", extra={"endpoint": self.endpoint, "reason": exc.reason, "detail": str(exc)}
        )
        problem = problem_of(exc)
        headers = tuple((name.encode(), value.encode()) for name, value in problem.headers.items())
        return Answer(problem.status, headers, problem.body)


@dataclass(slots=True, eq=False)
class _PushSubmission(Submission):
    """A push on the fast path, until it is answered."""

    endpoint: PushEndpoint
    reply: Reply
    expected: Outcome | None = None
    prepared: Answer | None = None
    """The answer to the expected outcome."""

    def prepare_answer(self, outcome: Outcome) -> None:
        self.expected, self.prepared = outcome, _answer(outcome)
        self.reply.prepare(self.prepared)

    def respond(self, result: Result) -> None:
        if isinstance(result, Exception):
            self.reply.send(self.endpoint.refuse(result))
        else:
            # The outcome differs if the batch met a bug and was decided again in halves.
            prepared = self.prepared if result is self.expected else None
            self.reply.send(self.endpoint.accept(result, self.event, prepared))


def _authorization(headers: Headers) -> str | None:
    for name, value in headers:
        if name == b"authorization":
            return value.decode("latin-1")
    return None


def _answer(outcome: Outcome) -> Answer:
    return Answer(200, _JSON, render(outcome))


def render(outcome: Outcome) -> bytes:
    """Return the JSON document of the outcome."""
    return to_json(_document(outcome))


def name_of(outcome: Outcome) -> str:
    """Return the outcome's name in answers and metrics."""
    return _NAMES[type(outcome)]


_NAMES: Final[Mapping[type[Outcome], str]] = {
    Tracked: "tracked",
    Counted: "counted",
    Duplicate: "duplicate",
    Pending: "pending",
    Ended: "ended",
    Ignored: "ignored",
}


def _document(outcome: Outcome) -> dict[str, str]:
    word = name_of(outcome)
    if isinstance(outcome, Counted | Tracked):
        project, zone, instance = outcome.name
        cluster, cluster_location, node_pool, machine_type = outcome.node
        return {
            "outcome": word,
            "instance": instance,
            "project": project,
            "kubernetes_cluster": cluster,
            "cluster_location": cluster_location,
            "node_pool": node_pool,
            "zone": zone,
            "machine_type": machine_type,
        }
    if isinstance(outcome, Ignored):
        return {"outcome": word, "reason": outcome.reason}
    if isinstance(outcome, Duplicate | Ended | Pending):
        return {"outcome": word}
    assert_never(outcome)


async def _send(send: Send, answer: Answer) -> None:
    headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
