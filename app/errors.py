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
├── UnavailableError                  a backing service is down; Pub/Sub delivers again
│   ├── CertificatesUnavailableError  certificates_unavailable
│   ├── StoreUnavailableError         store_unavailable
│   │   └── StoreLostError            only a restart helps
│   │       ├── StoreCorruptError     store_corrupt
│   │       ├── StoreGoneError        store_gone
│   │       └── NameTakenError        name_taken
│   ├── StoreSlowError                store_slow
│   ├── OverloadError                 overload
│   └── StoppingError                 stopping
├── InternalError                     internal: a bug that one event triggers
├── InventoryUnavailableError         a project cannot be read; not related to a request
├── StartError                        the exporter cannot start; one line has the cause
└── ConfigurationError                the exporter cannot start; one line per wrong key

The slugs are the `reason` of each leaf, in problem documents and in the error metric.
Messages are in lower case, and never contain a token, a secret or a body.
"""

from collections.abc import Iterable
from typing import ClassVar, TypeAlias


class ExporterError(Exception):
    """The base of all exceptions of this service."""


class CallerError(ExporterError):
    """The request is wrong. The same request will be refused again."""

    reason: ClassVar[str]


class NotAuthenticatedError(CallerError):
    """The bearer token is missing, or is not a valid Google token for this audience."""

    reason = "not_authenticated"


class NotPermittedError(CallerError):
    """The token is valid, but its account may not push here."""

    reason = "not_permitted"


class WrongSubscriptionError(CallerError):
    """The envelope's subscription is not the configured one."""

    reason = "wrong_subscription"


class MalformedEnvelopeError(CallerError):
    """The body is neither a Pub/Sub envelope nor a log entry."""

    reason = "malformed_envelope"


class MalformedEntryError(CallerError):
    """The message is not a log entry, or has no instance name that can be stored and shown."""

    reason = "malformed_entry"


class BodyTooLargeError(CallerError):
    """The body is larger than `server.max_body_bytes`."""

    reason = "body_too_large"


class BodyTimeoutError(CallerError):
    """The body did not arrive in time."""

    reason = "body_timeout"


class UnavailableError(ExporterError):
    """A backing service is down or too slow. The same request may succeed later."""

    reason: ClassVar[str]


class CertificatesUnavailableError(UnavailableError):
    """Google's signing certificates cannot be fetched, and none are cached."""

    reason = "certificates_unavailable"


class StoreUnavailableError(UnavailableError):
    """The store cannot be read or written now. The call had no effect."""

    reason = "store_unavailable"


class StoreLostError(StoreUnavailableError):
    """The process cannot use the store any more. Only a restart helps."""


class StoreCorruptError(StoreLostError):
    """The running exporter found its store damaged."""

    reason = "store_corrupt"


class StoreGoneError(StoreLostError):
    """The store file was deleted, renamed or replaced while the exporter used it."""

    reason = "store_gone"


class NameTakenError(StoreLostError):
    """Another process has started with the name of this replica. The newest process owns the name."""

    reason = "name_taken"


class StoreSlowError(UnavailableError):
    """The commit did not finish in time. It may still finish; a redelivery is then a duplicate."""

    reason = "store_slow"


class OverloadError(UnavailableError):
    """Too many events are queued for a commit."""

    reason = "overload"


class StoppingError(UnavailableError):
    """The exporter is shutting down."""

    reason = "stopping"


class InternalError(ExporterError):
    """A bug that one event triggers. The log has its traceback."""

    reason: ClassVar[str] = "internal"


Refusal: TypeAlias = CallerError | UnavailableError | InternalError
"""The errors that answer a request; each has a reason."""


class InventoryUnavailableError(ExporterError):
    """A project's instances or operations cannot be read now. What was read before stays recorded."""

    def __init__(self, reason: str, message: str) -> None:
        """`reason`: the slug in the metrics of failed listings and readings."""
        self.reason = reason
        super().__init__(message)


class StartError(ExporterError):
    """The exporter cannot start."""


class ConfigurationError(ExporterError):
    """The configuration is wrong. `problems` has one line per wrong key."""

    def __init__(self, problems: Iterable[str]) -> None:
        """Keep the lines. They must not contain configuration values."""
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))
