"""Times as text, for logs and responses.

https://www.rfc-editor.org/rfc/rfc3339
"""

from datetime import UTC, datetime


def rfc3339(seconds: float) -> str:
    """Return the time of these seconds since the epoch, in UTC and with milliseconds."""
    return f"{datetime.fromtimestamp(seconds, UTC).isoformat(timespec='milliseconds')[:-6]}Z"
