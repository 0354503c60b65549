"""The two push endpoints: authenticate, read the body, decode, have it recorded, answer.

Outside of FastAPI's layers: they would cost more a request than all of this. A push that has come whole, of a
caller who is known, is not even a task; any other is plain ASGI.
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
from app.domain.outcomes import Counted, Duplicate, Outcome, Pending, Tracked
from app.errors import (
    CallerError,
    InternalError,
    StoppingError,
    UnavailableError,
    WrongSubscriptionError,
)
from app.gcp.auditlog import decode_entry
from app.gcp.pubsub import PushMessage, decode_push, same_subscription
from app.metrics import Endpoint, Pushes
from app.recorder import Caller, Recorder, Result
from app.web.body import BodyReader, CallerGoneError
from app.web.problems import problem_of
from app.web.protocol import Answer, Headers, Reply

_JSON: Final = ((b"content-type", b"application/json"),)

_log = logging.getLogger(__name__)


class Authenticator(Protocol):
    """Says who calls; see `app.gcp.oidc.Verifier`."""

    def cached(self, authorization: str) -> str | None:
        """The caller, if this very token was verified before and is still good."""
        ...

    async def verify(self, authorization: str | None) -> str:
        """The caller; raises NotAuthenticatedError, NotPermittedError or CertificatesUnavailableError."""
        ...


@dataclass(slots=True)
class Gate:
    """Whether pushes are taken."""

    closed: bool = False


@dataclass(frozen=True, slots=True)
class PushEndpoint:
    """One endpoint, as an ASGI application."""

    endpoint: Endpoint
    subscription: str
    """The only subscription that may push here; "" for any."""
    authenticator: Authenticator | None
    """None: everybody may push."""
    recorder: Recorder
    pushes: Pushes
    gate: Gate
    ask: Callable[[str], None]
    """Asks for a listing of a project's fleet: something waits for an instance of it."""
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
        except asyncio.CancelledError:  # the server gives up on what is still under way when it stops
            answer = self.refuse(StoppingError("the exporter has stopped"))
        except Exception:  # noqa: BLE001 - a bug must be answered, or the message is redelivered blindly
            _log.exception("a push has met a bug", extra={"endpoint": self.endpoint})
            answer = self.refuse(InternalError("a bug; the log has the trace"))
        await _send(send, answer)

    def take(self, headers: Headers, body: bytes, reply: Reply) -> bool:
        """Take a push that has come whole, from a caller who is known.

        False: it has to go the way of `__call__`, where it is told what is wrong, if that is why.
        """
        try:
            if self.gate.closed or not self._knows(_authorization(headers)):
                return False
            now = self.pushes.last_at = self.clock()
            event = self._decode(self.bodies.whole(body), headers, now)
            if isinstance(event, Ignored):
                reply.give(self.accept(event))
            else:
                self.recorder.submit(_Taken(event, self, reply))
        except Exception:  # noqa: BLE001 - it is met again there, bugs too
            return False
        return True

    async def _push(self, scope: Scope, receive: Receive) -> Answer:
        if self.gate.closed:
            raise StoppingError("the exporter is stopping")
        authorization = _authorization(scope["headers"])
        if self.authenticator is not None and not self._knows(authorization):
            await self.authenticator.verify(authorization)
        now = self.pushes.last_at = self.clock()
        event = self._decode(await self.bodies.read(receive), scope["headers"], now)
        if isinstance(event, Ignored):
            return self.accept(event)
        return self.accept(await self.recorder.record(event), event)

    def _knows(self, authorization: str | None) -> bool:
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
        # A replay from the dead-letter topic comes by another subscription, and names where it was before.
        if not same_subscription(message.dead_letter_source, self.subscription):
            raise WrongSubscriptionError("the envelope is of another subscription than the configured one")

    def accept(self, outcome: Outcome, event: Event | None = None, made: Answer | None = None) -> Answer:
        """The answer to a push that is recorded, or ignored as no event; made before, or now.

        Takes in what has become of it.
        """
        if isinstance(outcome, Pending):
            self.ask(outcome.project)
        delay = None if event is None or isinstance(outcome, Duplicate) else self.clock() - event.at
        self.pushes.answered(_NAMES[type(outcome)], delay)
        return made or _answer(outcome)

    def refuse(self, exc: CallerError | UnavailableError | InternalError) -> Answer:
        """The answer to any other push; counts it."""
        self.pushes.refused(exc.reason)
        problem = problem_of(exc)
        headers = tuple((name.encode(), value.encode()) for name, value in problem.headers.items())
        return Answer(problem.status, headers, problem.body)


@dataclass(slots=True, eq=False)
class _Taken(Caller):
    """A push that was taken, until it is answered."""

    endpoint: PushEndpoint
    reply: Reply
    expected: Outcome | None = None
    answer: Answer | None = None
    """To what is expected."""

    def expect(self, outcome: Outcome) -> None:
        self.expected, self.answer = outcome, _answer(outcome)
        self.reply.expect(self.answer)

    def take(self, result: Result) -> None:
        if isinstance(result, Exception):
            self.reply.give(self.endpoint.refuse(result))
        else:
            # Another outcome than was expected: the batch met a bug, and was decided once more in halves.
            made = self.answer if result is self.expected else None
            self.reply.give(self.endpoint.accept(result, self.event, made))


def _authorization(headers: Headers) -> str | None:
    for name, value in headers:
        if name == b"authorization":
            return value.decode("latin-1")
    return None


def _answer(outcome: Outcome) -> Answer:
    return Answer(200, _JSON, render(outcome))


def render(outcome: Outcome) -> bytes:
    """The outcome as the JSON that the caller sees."""
    return to_json(_told(outcome))


_NAMES: Final[Mapping[type[Outcome], str]] = {
    Tracked: "tracked",
    Counted: "counted",
    Duplicate: "duplicate",
    Pending: "pending",
    Ignored: "ignored",
}


def _told(outcome: Outcome) -> dict[str, str]:
    word = _NAMES[type(outcome)]
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
    if isinstance(outcome, Duplicate | Pending):
        return {"outcome": word}
    assert_never(outcome)


async def _send(send: Send, answer: Answer) -> None:
    headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
