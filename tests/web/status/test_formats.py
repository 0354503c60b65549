import pytest

from app.web.status import formats


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (3599, "59 min 59 s"),
        (3600, "1 h"),
        (11520, "3 h 12 min"),
        (86400 * 2 + 59, "2 d"),
        (86400 * 2 + 3600 * 4, "2 d 4 h"),
        (86400 * 1234, "1,234 d"),
    ],
)
def test_a_duration_has_two_units(seconds: float, text: str) -> None:
    assert formats.duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0005, "0.5 ms"),
        (0.025, "25 ms"),
        (0.25, "0.2 s"),
        (2.5, "2.5 s"),
        (5, "5 s"),
        (30, "30 s"),
        (300, "5 min"),
    ],
)
def test_a_short_duration_is_precise(seconds: float, text: str) -> None:
    assert formats.short_duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text", "rate"),
    [
        (0.0, "0", "0"),
        (0.0457, "0.0457", "0.046"),
        (4.567, "4.57", "4.6"),
        (27.0, "27", "27.0"),
        (99.97, "100", "100"),
        (1234.4, "1,234", "1,234"),
    ],
)
def test_a_number_has_three_digits_at_most(number: float, text: str, rate: str) -> None:
    assert (formats.significant(number), formats.rate(number)) == (text, rate)


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0 %"), (0.00612, "0.61 %"), (0.0996, "10 %"), (0.5, "50 %"), (1.0, "100 %")]
)
def test_a_share_is_per_cent(share: float, text: str) -> None:
    assert formats.percent(share) == text


def test_moments_are_utc() -> None:
    assert formats.moment(1_772_451_656.25) == "2 Mar 11:40:56"
    assert (formats.ago(-3), formats.ago(0.5), formats.ago(61)) == ("just now", "just now", "1 min 1 s ago")
    assert (formats.count_noun(1, "push", "pushes"), formats.count_noun(2000, "push", "pushes")) == (
        "1 push",
        "2,000 pushes",
    )


def test_a_name_is_read_in_the_order_in_which_it_is_written() -> None:
    assert (
        formats.escape_bidi("\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe\N{LEFT-TO-RIGHT ISOLATE}é")
        == "\\u202egnp.exe\\u2066é"
    )
