"""The exceptions of this service.

ExporterError
├── CallerError                       the request is wrong
│   ├── NotAuthenticatedError         not_authenticated
│   ├── NotPermittedError             not_permitted
│   ├── WrongSubscriptionError        wrong_subscription
│   ├── MalformedEnvelopeError        malformed_envelope
│   ├── MalformedEntryError           malformed_entry
│   ├── BodyTooLargeError             body_too_large
│   └── BodyTimeoutError              body_timeout
├── UnavailableError                  a backing service is down: the same request may pass later
│   ├── CertificatesUnavailableError  certificates_unavailable
│   ├── StoreUnavailableError         store_unavailable
│   │   └── StoreLostError            only a restart can help
│   │       ├── StoreCorruptError     store_corrupt
│   │       ├── StoreGoneError        store_gone
│   │       └── NameTakenError        name_taken
│   ├── StoreSlowError                store_slow
│   ├── OverloadError                 overload
│   └── StoppingError                 stopping
├── InternalError                     internal: a bug that an event meets
├── InventoryUnavailableError         a project cannot be listed; not about a request
├── StartError                        cannot start, with a reason of one line
└── ConfigurationError                cannot start, with a line per wrong key

The slug of a leaf is its `reason`, in problem documents and in the error metric.
Messages are lower case and never hold a token, a secret or a body.
"""

from collections.abc import Iterable
from typing import ClassVar


class ExporterError(Exception):
    """An error that this service raises on purpose."""


class CallerError(ExporterError):
    """The request is wrong; the same request will be wrong again."""

    reason: ClassVar[str]


class NotAuthenticatedError(CallerError):
    """The bearer token is missing, or is not a valid token of Google for this audience."""

    reason = "not_authenticated"


class NotPermittedError(CallerError):
    """The token is valid, but its account may not push here."""

    reason = "not_permitted"


class WrongSubscriptionError(CallerError):
    """The envelope names another subscription than the configured one."""

    reason = "wrong_subscription"


class MalformedEnvelopeError(CallerError):
    """The body is neither a Pub/Sub envelope nor a log entry."""

    reason = "malformed_envelope"


class MalformedEntryError(CallerError):
    """The message is not a log entry, or does not name an instance that can be stored and shown."""

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
    """Google's signing certificates cannot be fetched, and none are cached."""

    reason = "certificates_unavailable"


class StoreUnavailableError(UnavailableError):
    """The store cannot be read or written now; the call had no effect."""

    reason = "store_unavailable"


class StoreLostError(StoreUnavailableError):
    """The process cannot use the store any more; only a restart can help."""


class StoreCorruptError(StoreLostError):
    """The store was found damaged while running."""

    reason = "store_corrupt"


class StoreGoneError(StoreLostError):
    """The store's file was deleted, renamed or replaced while it was in use."""

    reason = "store_gone"


class NameTakenError(StoreLostError):
    """Another process was started under this replica's name, and has taken it."""

    reason = "name_taken"


class StoreSlowError(UnavailableError):
    """The commit was not done in time. It may still succeed; then a redelivery is a duplicate."""

    reason = "store_slow"


class OverloadError(UnavailableError):
    """Too many events wait for their commit."""

    reason = "overload"


class StoppingError(UnavailableError):
    """The exporter is shutting down."""

    reason = "stopping"


class InternalError(ExporterError):
    """An event has met a bug; the trace is in the log."""

    reason: ClassVar[str] = "internal"


class InventoryUnavailableError(ExporterError):
    """A project cannot be listed now. Its known instances are kept."""

    def __init__(self, cause: str, message: str) -> None:
        """`cause` is a slug, the reason in the metric of failed listings."""
        self.cause = cause
        super().__init__(message)


class StartError(ExporterError):
    """The exporter cannot start."""


class ConfigurationError(ExporterError):
    """The configuration is wrong; `problems` has a line per wrong key."""

    def __init__(self, problems: Iterable[str]) -> None:
        """No line contains a value."""
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))
