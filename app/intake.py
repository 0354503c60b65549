"""The intake of messages, pushed or pulled: decode, record, count."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from app.documents import name_of, outcome_document
from app.domain.events import Event, Ignored
from app.domain.outcomes import Duplicate, Outcome, Pending
from app.errors import CallerError, InternalError, Refusal, UnavailableError
from app.gcp.auditlog import decode_entry
from app.gcp.pubsub import PushMessage
from app.metrics import Endpoint, PushCounters
from app.recorder import Recorder

Result: TypeAlias = Outcome | Refusal
"""An outcome, which is durable, or the reason for which there is none."""
Respond: TypeAlias = Callable[[Result], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Intake:
    """Takes the messages of one endpoint, or of its subscription."""

    endpoint: Endpoint
    recorder: Recorder
    counters: PushCounters
    request_listing: Callable[[str], None]
    """Requests a listing of a project, because an interruption of it is pending."""
    clock: Callable[[], float] = time.time

    def receive(self, read: Callable[[], PushMessage], respond: Respond) -> None:
        """Record a message, count its result, and respond once, perhaps before this returns.

        `read` returns the message, or raises CallerError.
        """
        now = self.counters.last_at = self.clock()
        result: Result
        try:
            message = read()
            event = decode_entry(message.data, message, now)
            if not isinstance(event, Ignored):
                self.recorder.submit(event, partial(self._finish, event, respond))
                return
            result = event
        except (CallerError, UnavailableError) as exc:
            result = exc
        except Exception:  # noqa: BLE001 - without an answer the message would come again without a reason
            result = self.note_bug()
        self._finish(None, respond, result)

    def refuse(self, exc: Refusal) -> None:
        """Count a message that was refused."""
        self.counters.refused(exc.reason, str(exc))
        _log.debug(
            "push refused", extra={"endpoint": self.endpoint, "reason": exc.reason, "detail": str(exc)}
        )

    def note_bug(self) -> InternalError:
        """Log the exception that is handled now, and return the refusal of its message."""
        _log.exception("a push could not be handled because of a bug", extra={"endpoint": self.endpoint})
        return InternalError("a bug in the exporter; its log has the trace")

    def _finish(self, event: Event | None, respond: Respond, result: Result) -> None:
        if isinstance(result, Exception):
            self.refuse(result)
        else:
            if isinstance(result, Pending):
                self.request_listing(result.project)
            delay = None if event is None or isinstance(result, Duplicate) else self.clock() - event.at
            self.counters.answered(name_of(result), delay)
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug("push accepted", extra={"endpoint": self.endpoint, **outcome_document(result)})
        respond(result)
