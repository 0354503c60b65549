"""Errors as problem documents, with the table of their statuses.

https://www.rfc-editor.org/rfc/rfc9457
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from starlette.responses import Response

from app.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    ExporterError,
    InternalError,
    MalformedEntryError,
    MalformedEnvelopeError,
    NotAuthenticatedError,
    NotPermittedError,
    Refusal,
    UnavailableError,
    WrongSubscriptionError,
)
from app.web.answers import Answer

STATUSES: Final[Mapping[type[ExporterError], HTTPStatus]] = {
    NotAuthenticatedError: HTTPStatus.UNAUTHORIZED,
    NotPermittedError: HTTPStatus.FORBIDDEN,
    WrongSubscriptionError: HTTPStatus.FORBIDDEN,
    MalformedEnvelopeError: HTTPStatus.BAD_REQUEST,
    MalformedEntryError: HTTPStatus.UNPROCESSABLE_ENTITY,
    BodyTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    BodyTimeoutError: HTTPStatus.REQUEST_TIMEOUT,
    UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    InternalError: HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""The status of each error. A class without a row has the status of its parent."""

_RETRY_AFTER_SECONDS: Final = "5"
_HEADERS: Final[Mapping[HTTPStatus, Mapping[str, str]]] = {
    HTTPStatus.UNAUTHORIZED: {"www-authenticate": "Bearer"},
    HTTPStatus.SERVICE_UNAVAILABLE: {"retry-after": _RETRY_AFTER_SECONDS},
    # The rest of the body is not read, so the connection cannot carry another request.
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: {"connection": "close"},
    HTTPStatus.REQUEST_TIMEOUT: {"connection": "close"},
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: {"connection": "close"},
}

INERT: Final[Mapping[str, str]] = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}
"""Headers that forbid a browser to run or to guess anything."""


@dataclass(frozen=True, slots=True)
class Problem:
    """An answer other than 2xx."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def status_of(error: type[ExporterError]) -> HTTPStatus:
    """Return the status of an error. Raises KeyError if that error does not answer requests."""
    return next(STATUSES[cls] for cls in error.__mro__ if cls in STATUSES or cls is ExporterError)


def problem_of(exc: Refusal) -> Problem:
    """Return the problem document of an error."""
    return problem(status_of(type(exc)), exc.reason, str(exc))


def problem(
    status: HTTPStatus, reason: str, detail: str, headers: Mapping[str, str] | None = None
) -> Problem:
    """Return a problem document. `reason` is a slug, which is also the label of the metric."""
    document = {"title": status.phrase, "status": status.value, "detail": detail, "reason": reason}
    body = json.dumps(document).encode()
    return Problem(
        status.value,
        {"content-type": "application/problem+json", **_HEADERS.get(status, {}), **(headers or {})},
        body,
    )


def reason_of(status: HTTPStatus) -> str:
    """Return the reason of a refusal that has no error class."""
    return status.phrase.lower().replace(" ", "_")


def as_answer(document: Problem) -> Answer:
    """Return the problem document as an answer of the server's protocol."""
    headers = tuple((name.encode(), value.encode()) for name, value in document.headers.items())
    return Answer(document.status, headers, document.body)


def as_response(answer: Problem) -> Response:
    """Return the problem document as a response."""
    return Response(answer.body, answer.status, headers={**INERT, **answer.headers})


def leaves(error: type[ExporterError] = ExporterError) -> Iterator[type[Refusal]]:
    """Yield every error class that answers requests; each has a reason."""
    if issubclass(error, Refusal) and "reason" in vars(error):
        yield error
    for child in error.__subclasses__():
        yield from leaves(child)


NOT_HTTP: Final = as_answer(
    problem(
        HTTPStatus.BAD_REQUEST,
        reason_of(HTTPStatus.BAD_REQUEST),
        "the request is not HTTP/1.1",
        {"connection": "close"},
    )
)
"""The answer to bytes that are not a request."""
HEAD_TOO_LARGE: Final = as_answer(
    problem(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        reason_of(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
        "the head of the request is too large, or has too many fields",
    )
)
"""The answer to a head beyond the limits."""
