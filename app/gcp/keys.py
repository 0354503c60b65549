"""The event keys, which are the same each time that an event is delivered, exported or read."""

import json
from hashlib import sha256
from typing import Final

_MAX_KEY: Final = 256


def operation_key(kind: str, producer: str, operation: str) -> str:
    """Return the key of an event that belongs to the operation with this id."""
    return joined(kind, "operation", producer, operation_id(operation))


def operation_id(operation: str) -> str:
    """Return the operation's id, or a digest if the id is long or not plain."""
    return operation if _is_plain(operation) else _digest(operation)


def joined(*parts: str) -> str:
    """Return a key of these parts, the first of which is the kind of the event."""
    # Readable if possible. Operation ids begin with their time, so the keys are in the order of time, and an
    # index grows at its end.
    text = " ".join(parts)
    is_readable = _is_plain(text) and text.count(" ") == len(parts) - 1
    return text if is_readable else f"{parts[0]} sha256 {_digest(*parts)}"


def _is_plain(text: str) -> bool:
    return len(text) <= _MAX_KEY and text.isascii() and text.isprintable()


def _digest(*parts: str) -> str:
    return sha256(json.dumps(parts).encode()).hexdigest()
