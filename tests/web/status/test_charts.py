import re
from typing import Final

import pytest

from app.domain.ledger import DAY_SECONDS, PERIODS
from app.web.status.charts import HEIGHT, SPARK_HEIGHT, chart, described, spark

NOW: Final = 1_772_451_656.0
SOME: Final = [0] * (PERIODS - 3) + [1, 0, 200]


def test_a_small_chart_has_a_bar_for_every_period_that_had_one() -> None:
    bars = re.findall(r"M(\d+) \d+v-([\d.]+)h", spark(SOME))

    assert [(int(x), float(height)) for x, height in bars] == [(100, 2.0), (108, SPARK_HEIGHT)]
    assert spark([0] * PERIODS) == spark([]) == ""


def test_a_chart_says_what_it_shows() -> None:
    assert described(SOME).endswith("oldest first: " + " ".join(map(str, SOME)))
    assert described([0] * PERIODS) == "No interruption in the last 7 days"


def test_the_large_charts_bars_are_as_high_as_their_numbers() -> None:
    drawn = chart(SOME, NOW)
    last = drawn.bars[-1]

    assert [line.text for line in drawn.lines] == ["200", "100"]
    assert (last.y, last.height) == (0.0, HEIGHT)
    assert last.text == "Mon 2 Mar 05:40 to 11:40: 200"
    assert drawn.bars[0].height == 0
    assert all(bar.x >= 0 and bar.x + bar.width <= 100 for bar in drawn.bars)


def test_uncounted_interruptions_are_drawn_apart_on_top_of_the_others() -> None:
    drawn = chart([0] * (PERIODS - 1) + [50], NOW, [0] * (PERIODS - 2) + [20, 150])

    assert (drawn.bars[-1].y, drawn.bars[-1].height) == (HEIGHT * 0.75, HEIGHT * 0.25)
    assert (drawn.past[-1].y, drawn.past[-1].height) == (0.0, HEIGHT * 0.75)
    assert (drawn.bars[-2].height, drawn.past[-2].height) == (0.0, HEIGHT * 0.1)
    assert drawn.past[-1].text == "Mon 2 Mar 05:40 to 11:40: 150 before counting began"


@pytest.mark.parametrize(
    ("highest", "lines"),
    [
        (0, ["1"]),
        (1, ["1"]),
        (2, ["2", "1"]),
        (5, ["6", "3"]),
        (7, ["10", "5"]),
        (11, ["20", "10"]),
        (61, ["100", "50"]),
        (101, ["200", "100"]),
    ],
)
def test_heights_are_read_by_round_whole_numbers(highest: int, lines: list[str]) -> None:
    assert [line.text for line in chart([highest] * PERIODS, NOW).lines] == lines


def test_days_begin_at_midnight() -> None:
    ticks = chart(SOME, NOW).ticks
    share = (NOW % DAY_SECONDS) / DAY_SECONDS

    assert [tick.text for tick in ticks] == [
        "Tue 24",
        "Wed 25",
        "Thu 26",
        "Fri 27",
        "Sat 28",
        "Sun 1",
        "Mon 2",
    ]
    assert ticks[0].x == pytest.approx((1 - share) / 7 * 100, abs=0.01)
    assert [tick.is_late for tick in ticks] == [False] * 6 + [True]
    assert chart(SOME, NOW - NOW % DAY_SECONDS + 60).ticks[-1].x < 93.2
