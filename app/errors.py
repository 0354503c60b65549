"""Everything this service raises on purpose.

ExporterError
├── CallerError                       the request is wrong
│   ├── NotAuthenticatedError         not_authenticated
│   ├── NotPermittedError             not_permitted
│   ├── WrongSubscriptionError        wrong_subscription
│   ├── MalformedEnvelopeError        malformed_envelope
│   ├── MalformedEntryError           malformed_entry
│   ├── BodyTooLargeError             body_too_large
│   └── BodyTimeoutError              body_timeout
├── UnavailableError                  a backing service is down: have it sent again
│   ├── CertificatesUnavailableError  certificates_unavailable
│   ├── StoreUnavailableError         store_unavailable
│   │   └── StoreLostError            only a restart can help
│   │       ├── StoreCorruptError     store_corrupt
│   │       ├── StoreGoneError        store_gone
│   │       └── NameTakenError        name_taken
│   ├── StoreSlowError                store_slow
│   ├── OverloadError                 overload
│   └── StoppingError                 stopping
├── InternalError                     internal: a bug, one event's
├── InventoryUnavailableError         a project's fleet cannot be listed; no request's
├── StartError                        cannot start; one line tells why
└── ConfigurationError                cannot start; a line a wrong key

The slugs are each leaf's `reason`: what a problem document and the error metric call it.
Messages are lower case and never hold a token, a secret or a body.
"""

from collections.abc import Iterable
from typing import ClassVar


class ExporterError(Exception):
    """Anything this service raises on purpose."""


class CallerError(ExporterError):
    """The request is wrong; the same request will be wrong again."""

    reason: ClassVar[str]


class NotAuthenticatedError(CallerError):
    """The bearer token is missing, or is no valid token of Google's for this audience."""

    reason = "not_authenticated"


class NotPermittedError(CallerError):
    """The token is good, and belongs to somebody who may not push here."""

    reason = "not_permitted"


class WrongSubscriptionError(CallerError):
    """The envelope names another subscription than the configured one."""

    reason = "wrong_subscription"


class MalformedEnvelopeError(CallerError):
    """The body is neither a Pub/Sub envelope nor a log entry."""

    reason = "malformed_envelope"


class MalformedEntryError(CallerError):
    """The message is no log entry, or names no instance that could be stored and shown."""

    reason = "malformed_entry"


class BodyTooLargeError(CallerError):
    """The body is larger than `server.max_body_bytes`."""

    reason = "body_too_large"


class BodyTimeoutError(CallerError):
    """The body was not complete in time."""

    reason = "body_timeout"


class UnavailableError(ExporterError):
    """A backing service is down or too slow; the same request may pass later."""

    reason: ClassVar[str]


class CertificatesUnavailableError(UnavailableError):
    """Google's signing certificates cannot be fetched, and none are remembered."""

    reason = "certificates_unavailable"


class StoreUnavailableError(UnavailableError):
    """The store cannot be read or written now; nothing of the call has happened."""

    reason = "store_unavailable"


class StoreLostError(StoreUnavailableError):
    """The store can be used no more by this process; only a restart can mend that."""


class StoreCorruptError(StoreLostError):
    """The store was found damaged while running."""

    reason = "store_corrupt"


class StoreGoneError(StoreLostError):
    """The store's file was deleted, renamed or replaced while it was in use."""

    reason = "store_gone"


class NameTakenError(StoreLostError):
    """Another process has begun under this replica's name: the newest has it."""

    reason = "name_taken"


class StoreSlowError(UnavailableError):
    """The commit was not done in time; it may still come, and a redelivery is then a duplicate."""

    reason = "store_slow"


class OverloadError(UnavailableError):
    """Too many events wait for their commit."""

    reason = "overload"


class StoppingError(UnavailableError):
    """The exporter is shutting down."""

    reason = "stopping"


class InternalError(ExporterError):
    """A bug met by one event; its trace is in the log."""

    reason: ClassVar[str] = "internal"


class InventoryUnavailableError(ExporterError):
    """A project's fleet cannot be listed now; what is known of it stays."""

    def __init__(self, cause: str, message: str) -> None:
        """`cause` is a slug: what the metric of failed listings calls it."""
        self.cause = cause
        super().__init__(message)


class StartError(ExporterError):
    """The exporter cannot start."""


class ConfigurationError(ExporterError):
    """The configuration is wrong; `problems` has a line for each wrong key."""

    def __init__(self, problems: Iterable[str]) -> None:
        """Keep the lines; none of them holds a value."""
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))
