"""The two push endpoints: authenticate the caller, read the envelope, and answer with the outcome.

Each is used by the server's protocol (`app.web.push_request`) and as an ASGI application (`app.web.asgi`).
https://cloud.google.com/pubsub/docs/push
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from pydantic_core import to_json

from app.documents import outcome_document
from app.errors import (
    BodyTooLargeError,
    CallerError,
    Refusal,
    StoppingError,
    UnavailableError,
    WrongSubscriptionError,
)
from app.gcp.pubsub import PushMessage, decode_push
from app.intake import Intake, Result
from app.web.answers import Answer, Headers
from app.web.problems import as_answer, problem_of

_JSON: Final = ((b"content-type", b"application/json"),)


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


@dataclass(slots=True)
class PushEndpoint:
    """The handler of one endpoint's pushes; see `app.web.push_request.PushHandler`."""

    intake: Intake
    subscription: str
    """The only subscription that may push here; empty for any."""
    authenticator: Authenticator | None
    """None if everybody may push."""
    gate: Gate
    max_body_bytes: int

    def admits(self, headers: Headers) -> bool:
        """Return True if the caller was authenticated before, so that the body can be read."""
        if self.gate.closed:
            return False
        if self.authenticator is None:
            return True
        authorization = _authorization(headers)
        return authorization is not None and self.authenticator.cached(authorization) is not None

    async def authenticate(self, headers: Headers) -> Answer | None:
        """Return None if the caller may push, else the answer that refuses it."""
        if self.gate.closed:
            return self.refuse(StoppingError("the exporter is stopping"))
        try:
            if self.authenticator is not None:
                await self.authenticator.verify(_authorization(headers))
        except (CallerError, UnavailableError) as exc:
            return self.refuse(exc)
        except Exception:  # noqa: BLE001 - without an answer the message would come again without a reason
            return self.refuse(self.intake.note_bug())
        return None

    def receive(self, headers: Headers, body: bytes, respond: Callable[[Answer], None]) -> None:
        """Record the push of an authenticated caller; `respond` is called once, with the answer."""
        self.intake.receive(partial(self._read, headers, body), lambda result: respond(answer_of(result)))

    def refuse(self, exc: Refusal) -> Answer:
        """Count a push that is refused before it is decoded, and return its answer."""
        self.intake.refuse(exc)
        return answer_of(exc)

    def _read(self, headers: Headers, body: bytes) -> PushMessage:
        if len(body) > self.max_body_bytes:
            raise BodyTooLargeError(f"the body is larger than server.max_body_bytes ({self.max_body_bytes})")
        message = decode_push(body, headers)
        if self.subscription and message.subscription and not message.belongs_to(self.subscription):
            key = f"pubsub.instance_{self.intake.endpoint}_subscription_name"
            raise WrongSubscriptionError(f"the envelope's subscription is not {key}")
        return message


def answer_of(result: Result) -> Answer:
    """Return the answer to a push with this result."""
    if isinstance(result, Exception):
        return as_answer(problem_of(result))
    return Answer(200, _JSON, to_json(outcome_document(result)))


def _authorization(headers: Headers) -> str | None:
    for name, value in headers:
        if name == b"authorization":
            return value.decode("latin-1")
    return None
