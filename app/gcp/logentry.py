"""What makes a JSON object one of Cloud Logging's entries.

https://cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry
"""

from collections.abc import Mapping
from typing import Final

_FIELDS: Final = frozenset({"protoPayload", "jsonPayload", "textPayload", "logName", "insertId"})


def is_log_entry(fields: Mapping[str, object]) -> bool:
    """Whether an object has a field that log entries have; a Pub/Sub envelope has none of them."""
    return not _FIELDS.isdisjoint(fields)
