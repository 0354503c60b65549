"""The two push endpoints: authenticate, read the body, decode, have it recorded, answer.

Plain ASGI, and outside of FastAPI's layers: they would cost more a request than all of this.
https://cloud.google.com/pubsub/docs/push
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, assert_never

from pydantic_core import to_json
from starlette.types import Receive, Scope, Send

from app.domain.events import Ignored, InstanceName, Node
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
from app.metrics import Endpoint, Metrics
from app.recorder import Recorder
from app.web.body import BodyReader, CallerGoneError
from app.web.problems import problem_of

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
    metrics: Metrics
    gate: Gate
    ask: Callable[[str], None]
    """Asks for a listing of a project's fleet: something waits for an instance of it."""
    bodies: BodyReader
    clock: Callable[[], float] = time.time

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one POST."""
        try:
            outcome = await self._push(scope, receive)
        except (CallerError, UnavailableError, InternalError) as exc:
            await self._refuse(exc, send)
        except CallerGoneError:
            return
        except asyncio.CancelledError:  # the server gives up on what is still under way when it stops
            await self._refuse(StoppingError("the exporter has stopped"), send)
        except Exception:  # noqa: BLE001 - a bug must be answered, or the message is redelivered blindly
            _log.exception("a push has met a bug", extra={"endpoint": self.endpoint})
            await self._refuse(InternalError("a bug; the log has the trace"), send)
        else:
            self.metrics.answered(self.endpoint, _NAMES[type(outcome)])
            await _send(send, 200, _JSON, render(outcome))

    async def _push(self, scope: Scope, receive: Receive) -> Outcome:
        if self.gate.closed:
            raise StoppingError("the exporter is stopping")
        if self.authenticator is not None:
            authorization = _authorization(scope)
            if authorization is None or self.authenticator.cached(authorization) is None:
                await self.authenticator.verify(authorization)
        now = self.clock()
        self.metrics.pushed(self.endpoint, now)
        message = decode_push(await self.bodies.read(receive), scope["headers"])
        self._check_subscription(message)
        event = decode_entry(
            message.data,
            fallback_key=message.key,
            fallback_at=now if message.published_at is None else message.published_at,
        )
        if isinstance(event, Ignored):
            return event
        outcome = await self.recorder.record(event)
        if isinstance(outcome, Pending):
            self.ask(outcome.project)
        if not isinstance(outcome, Duplicate):
            self.metrics.delayed(self.endpoint, self.clock() - event.at)
        return outcome

    def _check_subscription(self, message: PushMessage) -> None:
        if not self.subscription or not message.subscription:
            return
        if same_subscription(message.subscription, self.subscription):
            return
        # A replay from the dead-letter topic comes by another subscription, and names where it was before.
        if not same_subscription(message.dead_letter_source, self.subscription):
            raise WrongSubscriptionError("the envelope is of another subscription than the configured one")

    async def _refuse(self, exc: CallerError | UnavailableError | InternalError, send: Send) -> None:
        self.metrics.refused(self.endpoint, exc.reason)
        problem = problem_of(exc)
        headers = [(name.encode(), value.encode()) for name, value in problem.headers.items()]
        await _send(send, problem.status, headers, problem.body)


def _authorization(scope: Scope) -> str | None:
    value: bytes
    for name, value in scope["headers"]:
        if name == b"authorization":
            return value.decode("latin-1")
    return None


def render(outcome: Outcome) -> bytes:
    """The outcome as the JSON that the caller sees."""
    return to_json({"outcome": _NAMES[type(outcome)], **_details(outcome)})


_NAMES: Final[Mapping[type[Outcome], str]] = {
    Tracked: "tracked",
    Counted: "counted",
    Duplicate: "duplicate",
    Pending: "pending",
    Ignored: "ignored",
}


def _details(outcome: Outcome) -> dict[str, str]:
    match outcome:
        case Tracked() | Counted():
            return _attribution(outcome.name, outcome.node)
        case Ignored():
            return {"reason": outcome.reason}
        case Duplicate() | Pending():
            return {}
        case _:
            assert_never(outcome)


def _attribution(name: InstanceName, node: Node) -> dict[str, str]:
    return {
        "instance": name.instance,
        "project": name.project,
        "kubernetes_cluster": node.cluster,
        "cluster_location": node.cluster_location,
        "node_pool": node.node_pool,
        "zone": name.zone,
        "machine_type": node.machine_type,
    }


async def _send(send: Send, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
