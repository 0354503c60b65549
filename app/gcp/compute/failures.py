"""The reasons of failed readings, and their messages."""

import logging
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from google.api_core.exceptions import GoogleAPICallError, NotFound, RetryError, Unauthorized
from google.auth.exceptions import GoogleAuthError, TransportError
from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]

from app.gcp.egress import without_values
from app.gcp.values import UNPRINTABLE

_MAX_DETAIL: Final = 300
_LONG_URL: Final = re.compile(r"^[A-Z]+ \S+: |(?<=/instances)\?\S+|(?<=/operations)\?\S+")

_TRANSIENT: Final = frozenset({"rate_limited", "unavailable", "malformed"})
_RATE_LIMITS: Final = frozenset({"rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED"})
_DISABLED: Final = frozenset({"accessNotConfigured", "SERVICE_DISABLED"})

_MESSAGES: Final[Mapping[str, str]] = {
    "forbidden": "reading the {things} of project {project} is forbidden: it needs {needs} "
    "(role roles/compute.viewer, or a custom one): {detail}",
    "api_disabled": "the Compute Engine API is not enabled in project {project}: "
    "enable compute.googleapis.com there: {detail}",
    "rate_limited": "the Compute Engine API limits the rate of requests for project {project}: {detail}",
    "unavailable": "the Compute Engine API is unavailable for project {project}: {detail}",
    "not_found": "project {project} does not exist, or the exporter may not see it: {detail}",
    "credentials": "no usable Google Cloud credentials for project {project}: {detail}",
    "malformed": "the answer for project {project} is not a list of {things}: {detail}",
    "partial": "the list of {things} of project {project} is incomplete; missing: {detail}",
    "memory": "reading the {things} of project {project} needs more memory than its limit",
    "other": "reading the {things} of project {project} failed: {detail}",
}

_log = logging.getLogger(__name__)


class Subject(NamedTuple):
    """The words for what is read, in messages."""

    things: str
    needs: str
    """The permission that a reading needs."""


class Failure(NamedTuple):
    """A reason for the metric, and a message for people."""

    reason: str
    message: str


class NotAListError(Exception):
    """A successful answer that is not a list: a proxy's page, an empty object."""


def is_transient(error: Exception) -> bool:
    """Return True if the same request may succeed soon."""
    if isinstance(error, GoogleAuthError):
        return isinstance(error, TransportError) or error.retryable
    return reason_of(error) in _TRANSIENT


def reason_of(error: BaseException) -> str:
    """Return the reason that an exception stands for."""
    if isinstance(error, RetryError) and error.cause:
        error = error.cause
    for kinds, reason in _REASONS:
        if isinstance(error, kinds):
            return reason
    return _refusal(error) if isinstance(error, GoogleAPICallError) else "other"


# Every exception of requests is an OSError; google-auth's own OSError is about credentials.
_REASONS: Final[tuple[tuple[tuple[type[BaseException], ...], str], ...]] = (
    ((GoogleAuthError, Unauthorized), "credentials"),
    ((NotFound,), "not_found"),
    ((OSError,), "unavailable"),
    ((ParseError, UnicodeError, NotAListError), "malformed"),
    ((MemoryError,), "memory"),
)


def _refusal(error: GoogleAPICallError) -> str:
    # A 403 can be a missing permission, a disabled API, or a rate limit.
    code = int(error.code or 0)
    slugs = {str(item.get("reason")) for item in error.errors if isinstance(item, dict)} | {str(error.reason)}
    if code == 429 or slugs & _RATE_LIMITS:  # noqa: PLR2004 - an HTTP status
        return "rate_limited"
    if slugs & _DISABLED:
        return "api_disabled"
    if code == 403:  # noqa: PLR2004
        return "forbidden"
    return "unavailable" if code >= 500 or code == 408 else "other"  # noqa: PLR2004


def failure_of(error: Exception, subject: Subject, project: str) -> Failure:
    """Return the failure that an exception stands for."""
    reason = reason_of(error)
    if reason == "other":
        _log.error("reading from Compute Engine failed for an unknown reason", exc_info=error)
    return failed(reason, subject, project, detail_of(error))


def failed(reason: str, subject: Subject, project: str, detail: str) -> Failure:
    """Return the failure with that reason."""
    return Failure(reason, _MESSAGES[reason].format(project=project, detail=detail, **subject._asdict()))


def detail_of(error: BaseException) -> str:
    """Return an exception's message in one short line, without URLs and configured values."""
    cause = error.cause if isinstance(error, RetryError) and error.cause else error
    text = cause.message if isinstance(cause, GoogleAPICallError) else f"{type(cause).__name__}: {cause}"
    # The libraries' messages have a URL in them that is longer than the rest.
    text = without_values(_LONG_URL.sub("", str(text)))
    return UNPRINTABLE.sub(" ", text)[:_MAX_DETAIL]
