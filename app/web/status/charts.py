"""The bar charts of the last 7 days, as numbers for the template: no script, no image, no library."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from app.domain.ledger import DAY_SECONDS, PERIOD_SECONDS, PERIODS
from app.web.status import formats

SPARK_WIDTH: Final = PERIODS * 4 - 1
SPARK_HEIGHT: Final = 22
HEIGHT: Final = 120
"""The height of the large chart's bars. Widths are per cent of the chart."""
_WEEK: Final = PERIODS * PERIOD_SECONDS
_GAP: Final = 0.5
_LAST_TICK: Final = 93.2
"""A label further to the right would leave the chart."""
_LAST_TICK_ON_A_PHONE: Final = 82.0
_STEPS: Final = (1, 2, 4, 6, 10)


@dataclass(frozen=True, slots=True)
class Bar:
    """The bar of one period, and its text."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True, slots=True)
class Tick:
    """The beginning of a day."""

    x: float
    text: str
    is_late: bool
    """The label would leave a chart that is as narrow as a phone."""


@dataclass(frozen=True, slots=True)
class Line:
    """A horizontal line at a round number."""

    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """The large chart."""

    bars: Sequence[Bar]
    past: Sequence[Bar]
    """The bars of what no total includes, on top of the others."""
    ticks: Sequence[Tick]
    lines: Sequence[Line]
    text: str


def described(periods: Sequence[int]) -> str:
    """Return the chart of these periods as text, for screen readers."""
    if not any(periods):
        return "No interruption in the last 7 days"
    numbers = " ".join(map(str, periods))
    return f"Interruptions of the last 7 days in periods of six hours, oldest first: {numbers}"


def spark(periods: Sequence[int]) -> str:
    """Return the path of a small chart. Its highest bar fills the height, and every bar is visible."""
    highest = max(periods, default=0)
    return "".join(
        f"M{place * 4} {SPARK_HEIGHT}v-{max(2.0, SPARK_HEIGHT * number / highest):.3g}h3V{SPARK_HEIGHT}z"
        for place, number in enumerate(periods)
        if number
    )


def chart(periods: Sequence[int], now: float, past: Sequence[int] = ()) -> Chart:
    """Return the large chart of the 7 days before `now`; `past` are interruptions that are not counted."""
    past = past or [0] * len(periods)
    top = _top(max(map(sum, zip(periods, past, strict=True)), default=0))
    bars = list(_bars(periods, now, top))
    past_bars = [
        replace(bar, y=round(bar.y - below.height, 1), text=f"{bar.text} before counting began")
        for bar, below in zip(_bars(past, now, top), bars, strict=True)
    ]
    return Chart(bars, past_bars, list(_ticks(now)), list(_lines(top)), described(periods))


def _top(highest: int) -> int:
    """Return a round number that no bar exceeds."""
    power = 1
    while power * _STEPS[-1] < highest:
        power *= 10
    return next(power * step for step in _STEPS if power * step >= highest)


def _bars(periods: Sequence[int], now: float, top: int) -> Iterator[Bar]:
    width = 100 / PERIODS
    for place, number in enumerate(periods):
        begins = now - _WEEK + place * PERIOD_SECONDS
        height = max(2.0, HEIGHT * number / top) if number else 0.0
        since, until = (datetime.fromtimestamp(at, UTC) for at in (begins, begins + PERIOD_SECONDS))
        text = f"{since:%a} {since.day} {since:%b %H:%M} to {until:%H:%M}: {formats.count(number)}"
        yield Bar(
            round(place * width + _GAP / 2, 3),
            round(HEIGHT - height, 1),
            round(width - _GAP, 3),
            round(height, 1),
            text,
        )


def _ticks(now: float) -> Iterator[Tick]:
    begins = now - _WEEK
    midnight = begins - begins % DAY_SECONDS + DAY_SECONDS
    while midnight < now:
        x = round((midnight - begins) / _WEEK * 100, 2)
        if x < _LAST_TICK:
            when = datetime.fromtimestamp(midnight, UTC)
            yield Tick(x, f"{when:%a} {when.day}", x > _LAST_TICK_ON_A_PHONE)
        midnight += DAY_SECONDS


def _lines(top: int) -> Iterator[Line]:
    yield Line(0.0, formats.count(top))
    if top % 2 == 0:
        yield Line(HEIGHT / 2, formats.count(top // 2))
