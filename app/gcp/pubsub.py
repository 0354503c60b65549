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

from app.domain.events import frozen
from app.errors import MalformedEntryError, MalformedEnvelopeError
from app.gcp.values import epoch_seconds
from app.gcp.wire import is_log_entry, path, reader

DEAD_LETTER_SOURCE: Final = "CloudPubSubDeadLetterSourceSubscription"
_DEAD_LETTER_SOURCE_HEADER: Final = DEAD_LETTER_SOURCE.lower().encode()
_PLAIN: Final = re.compile(r"[A-Za-z0-9._/-]*/[A-Za-z0-9]+")


@frozen
class PushMessage:
    """A delivered message: its data, and Pub/Sub's own fields."""

    data: bytes
    message_id: str = ""
    """Unique in its topic; "" if an unwrapped message has no metadata."""
    subscription: str = ""
    """As sent, usually `projects/P/subscriptions/S`; "" if the delivery does not name it."""
    publish_time: str = ""
    """As sent."""
    dead_letter_source: str = ""
    """The subscription that dead-lettered the message, if this is a replay; else ""."""

    @property
    def published_at(self) -> float | None:
        """Seconds since the epoch; None if the delivery has no publish time that can be read."""
        return epoch_seconds(self.publish_time)

    @property
    def key(self) -> str:
        """A key for messages whose data has none: printable, without spaces."""
        if not self.message_id:
            return f"sha256:{sha256(self.data).hexdigest()}"
        key = f"{self.subscription}/{self.message_id}"
        return (
            key if _PLAIN.fullmatch(key) else f"{quote(self.subscription)}/{quote(self.message_id, safe='')}"
        )

    def belongs_to(self, subscription: str) -> bool:
        """Return True if the subscription, by its full or its short name, delivered or dead-lettered it.

        A replay from the dead-letter topic has another subscription, and names the one before.
        """
        # A short name is the last part of a full one.
        name = subscription.rpartition("/")[2]
        return (
            name == self.subscription.rpartition("/")[2] or name == self.dead_letter_source.rpartition("/")[2]
        )


def decode_push(body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()) -> PushMessage:
    """Return the message that a push request delivers.

    `headers` are as ASGI gives them; an unwrapped message has its metadata there.
    Raises MalformedEnvelopeError if the body is neither an envelope nor a log entry, and MalformedEntryError
    if the envelope's data cannot be a log entry.
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


class _Metadata(TypedDict, total=False):
    """The fields that are read from an envelope, without its data."""

    message_id: Annotated[str | None, path("message", "messageId")]
    old_message_id: Annotated[str | None, path("message", "message_id")]
    publish_time: Annotated[object, path("message", "publishTime")]
    old_publish_time: Annotated[object, path("message", "publish_time")]
    dead_letter_source: Annotated[object, path("message", "attributes", DEAD_LETTER_SOURCE)]
    subscription: str | None


# The parser decodes the data itself, without a string in between. As in protobuf's JSON, both alphabets of
# base64 are accepted, and the padding may be missing.
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
        if _is_unstorable_entry(body):
            return MalformedEntryError("the log entry has a text or a number that cannot be stored")
        return MalformedEnvelopeError("the body is not a JSON object with the fields of a Pub/Sub envelope")
    if not _message_id(envelope):
        return MalformedEnvelopeError("the envelope's message has no message id")
    return MalformedEntryError("the message's data is not base64")


def _is_unstorable_entry(body: bytes) -> bool:
    # Python's parser accepts lone surrogates. Pydantic's parser and SQLite do not.
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and "message" not in fields and is_log_entry(fields)


def _unwrapped(body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> PushMessage:
    # Read a second time, without a model, which does not show absent fields. Most deliveries are wrapped.
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
