"""Numbers as people read them: counts, durations, rates and moments."""

from datetime import UTC, datetime
from typing import Final

DASH: Final = "\N{EN DASH}"
"""Shown in place of a number that is not known."""
_WHOLE: Final = 99.95
"""Larger numbers have three digits before the point."""
_SHORT_SECONDS, _LONG_SECONDS = 0.1, 10.0
_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_BIDI_CONTROLS: Final = {
    code: f"\\u{code:04x}"
    for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def escape_bidi(name: str) -> str:
    """Return the name with its direction-changing characters as escapes, so that it reads as written."""
    return name.translate(_BIDI_CONTROLS)


def count(number: float) -> str:
    """Return a whole number with separated thousands."""
    return f"{number:,.0f}"


def duration(seconds: float) -> str:
    """Return the two largest units: `3 h 12 min`, `2 d`, `45 s`."""
    seconds = max(round(seconds), 0)
    size, unit = next((pair for pair in _UNITS if seconds >= pair[0]), _UNITS[-1])
    text = f"{seconds // size:,} {unit}"
    following = next((pair for pair in _UNITS if pair[0] < size), None)
    if following is None or seconds % size < following[0]:
        return text
    return f"{text} {seconds % size // following[0]} {following[1]}"


def short_duration(seconds: float) -> str:
    """Return a duration that may be short: `2.5 ms`, `0.5 s`. From ten seconds on, as `duration`."""
    if seconds < _SHORT_SECONDS:
        return f"{_tenths(seconds * 1000)} ms"
    return f"{_tenths(seconds)} s" if seconds < _LONG_SECONDS else duration(seconds)


def ago(seconds: float) -> str:
    """Return `5 min ago`. A time in the future is `just now`."""
    return "just now" if seconds < 1 else f"{duration(seconds)} ago"


def significant(number: float) -> str:
    """Return at most three digits after rounding: `0.457`, `12.3`, `1,234`."""
    return count(number) if number >= _WHOLE else f"{number:.3g}"


def rate(number: float) -> str:
    """Return a rate with as many decimals as other rates of its size have: `45.0`, `0.46`."""
    if number >= _WHOLE:
        return count(number)
    return f"{number:.1f}" if number >= _WHOLE / 10 else f"{number:.2g}"


def percent(share: float) -> str:
    """Return a share as per cent: `0.61 %`, `50 %`."""
    return f"{share * 100:.2g} %" if share < 0.1 else f"{share * 100:.0f} %"  # noqa: PLR2004 - two digits


def count_noun(number: float, one: str, more: str | None = None) -> str:
    """Return a count with its noun: `1 push`, `2,000 pushes`."""
    return f"{count(number)} {one if number == 1 else more or f'{one}s'}"


def moment(at: float) -> str:
    """Return day and time of day in UTC: `23 Nov 20:04:11`."""
    when = datetime.fromtimestamp(at, UTC)
    return f"{when.day} {when:%b %H:%M:%S}"


def _tenths(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
