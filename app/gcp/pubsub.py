"""Pub/Sub push bodies, wrapped and unwrapped, as values.

https://cloud.google.com/pubsub/docs/push, https://cloud.google.com/pubsub/docs/payload-unwrapping
"""

import json
import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Annotated, Final
from urllib.parse import quote

from pydantic import ConfigDict, ValidationError, with_config
from pydantic_core import from_json
from typing_extensions import TypedDict

from app.domain.values import value
from app.errors import MalformedEntryError, MalformedEnvelopeError
from app.gcp.values import epoch_seconds
from app.gcp.wire import is_log_entry, path, reader

_DEAD_LETTER_SOURCE: Final = "CloudPubSubDeadLetterSourceSubscription"
_DEAD_LETTER_SOURCE_HEADER: Final = _DEAD_LETTER_SOURCE.lower().encode()
_PLAIN: Final = re.compile(r"[A-Za-z0-9._/-]*/[A-Za-z0-9]+")


@value
class PushMessage:
    """A delivered message: its data, and what Pub/Sub says of it."""

    data: bytes
    message_id: str = ""
    """Unique in its topic; "" for an unwrapped message without metadata."""
    subscription: str = ""
    """As sent, usually `projects/P/subscriptions/S`; "" where the delivery does not name it."""
    publish_time: str = ""
    """As sent."""
    dead_letter_source: str = ""
    """The subscription that gave the message up, on a replay from its dead-letter topic."""

    @property
    def published_at(self) -> float | None:
        """Seconds since the epoch; None if the delivery has no publish time that can be read."""
        return epoch_seconds(self.publish_time)

    @property
    def key(self) -> str:
        """What tells the message from others when its data does not: printable, and without spaces."""
        if not self.message_id:
            return f"sha256:{sha256(self.data).hexdigest()}"
        key = f"{self.subscription}/{self.message_id}"
        return (
            key if _PLAIN.fullmatch(key) else f"{quote(self.subscription)}/{quote(self.message_id, safe='')}"
        )


def decode_push(body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> PushMessage:
    """The message that a push request delivers; the headers, as ASGI gives them, matter to an unwrapped one.

    Raises MalformedEnvelopeError for what is neither an envelope nor a log entry, and MalformedEntryError
    for an envelope whose data cannot be a log entry.
    """
    try:
        envelope = _read_envelope(body)
    except ValidationError as exc:
        raise _refusal(body) from exc
    message_id = _message_id(envelope)
    if not message_id:
        return _unwrapped(body, headers)
    return PushMessage(
        envelope.get("data", b""),
        message_id,
        envelope.get("subscription") or "",
        _text(envelope.get("publish_time") or envelope.get("old_publish_time")),
        _text(envelope.get("dead_letter_source")),
    )


def same_subscription(named: str, configured: str) -> bool:
    """Whether two names, each full or short, mean the same subscription: only the last part counts."""
    return named.rpartition("/")[2] == configured.rpartition("/")[2]


class _Metadata(TypedDict, total=False):
    """What is read of an envelope besides its data."""

    message_id: Annotated[str | None, path("message", "messageId")]
    old_message_id: Annotated[str | None, path("message", "message_id")]
    publish_time: Annotated[object, path("message", "publishTime")]
    old_publish_time: Annotated[object, path("message", "publish_time")]
    dead_letter_source: Annotated[object, path("message", "attributes", _DEAD_LETTER_SOURCE)]
    subscription: str | None


# Decoded by the parser, without a string in between. As protobuf's JSON has it, the
# alphabet may be either one and the padding may be missing; anything else is refused.
@with_config(ConfigDict(val_json_bytes="base64"))
class _Envelope(_Metadata, total=False):
    data: Annotated[bytes, path("message", "data")]


_read_metadata: Final = reader(_Metadata)
_read_envelope: Final = reader(_Envelope)


def _message_id(envelope: _Metadata) -> str:
    return envelope.get("message_id") or envelope.get("old_message_id") or ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _refusal(body: bytes) -> MalformedEnvelopeError | MalformedEntryError:
    try:
        envelope = _read_metadata(body)
    except ValidationError:
        if _is_unfit_entry(body):
            return MalformedEntryError("the log entry holds text or a number that cannot be stored")
        return MalformedEnvelopeError("the body is no JSON object that fits a Pub/Sub envelope")
    if not _message_id(envelope):
        return MalformedEnvelopeError("the envelope's message has no message id")
    return MalformedEntryError("the message's data is not base64")


def _is_unfit_entry(body: bytes) -> bool:
    # Python's own parser takes lone surrogates, which pydantic's, like SQLite, does not.
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and "message" not in fields and is_log_entry(fields)


def _unwrapped(body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> PushMessage:
    # Read a second time, without a model: only so can a field that is there be told from one that is not,
    # and wrapped deliveries are the usual ones.
    fields = from_json(body)
    if "message" in fields:
        raise MalformedEnvelopeError("the envelope's message has no message id")
    if not is_log_entry(fields):
        raise MalformedEnvelopeError("the body is neither a Pub/Sub envelope nor a log entry")
    metadata = {name.lower(): value.decode("latin-1") for name, value in headers}
    return PushMessage(
        data=body,
        message_id=metadata.get(b"x-goog-pubsub-message-id", ""),
        subscription=metadata.get(b"x-goog-pubsub-subscription-name", ""),
        publish_time=metadata.get(b"x-goog-pubsub-publish-time", ""),
        dead_letter_source=metadata.get(_DEAD_LETTER_SOURCE_HEADER, ""),
    )
