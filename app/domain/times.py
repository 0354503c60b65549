"""Times as text, for logs and responses.

https://www.rfc-editor.org/rfc/rfc3339
"""

from datetime import UTC, datetime
from functools import lru_cache


def rfc3339(seconds: float) -> str:
    """Return the time of these seconds since the epoch, in UTC and with milliseconds."""
    # Rounded to microseconds first, because most milliseconds are a little less as a float.
    second, milliseconds = divmod(round(seconds * 1_000_000) // 1000, 1000)
    # A format specification would take a fifth more instructions.
    return f"{_second(second)}.{str(milliseconds).zfill(3)}Z"


@lru_cache(maxsize=256)  # many lines have times of one second, and its text takes two thirds of the time
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).isoformat().removesuffix("+00:00")
