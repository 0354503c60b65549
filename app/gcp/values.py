"""Google's values: a timestamp as a number, and text that can be stored and shown."""

import re
from datetime import MAXYEAR, MINYEAR, datetime
from typing import Final

MAX_CHARACTERS: Final = 512
UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and halves of a surrogate pair, which UTF-8 cannot encode."""

_TIMESTAMP: Final = re.compile(
    r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d+)?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII | re.IGNORECASE,
)
_SECOND: Final = slice(17, 19)


def epoch_seconds(timestamp: str | None) -> float | None:
    """Return an RFC 3339 timestamp as seconds since the epoch, cut to microseconds.

    A leap second counts as the second before it. Return None for any other text, for a time without an
    offset, and for the calendar's first and last year.
    https://www.rfc-editor.org/rfc/rfc3339#section-5.6
    """
    # fromisoformat reads more than RFC 3339 (dates alone, weeks, any character before the time), but no leap
    # second, and Z in upper case only.
    if not timestamp or not _TIMESTAMP.fullmatch(timestamp):
        return None
    if timestamp[_SECOND] == "60":
        timestamp = f"{timestamp[: _SECOND.start]}59{timestamp[_SECOND.stop :]}"
    try:
        moment = datetime.fromisoformat(timestamp.upper())
    except ValueError:
        return None
    # In these two years, an offset or rounding can lead out of the calendar.
    return moment.timestamp() if MINYEAR < moment.year < MAXYEAR else None


def is_valid_text(*texts: str) -> bool:
    """Return True if each text can be a label's value: up to MAX_CHARACTERS, none of them UNPRINTABLE."""
    joined = "".join(texts)
    if len(joined) <= MAX_CHARACTERS and joined.isascii() and joined.isprintable():
        return True
    return max(map(len, texts)) <= MAX_CHARACTERS and not UNPRINTABLE.search(joined)
