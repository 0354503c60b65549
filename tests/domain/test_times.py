import pytest

from app.domain.times import rfc3339


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1_700_000_000.0, "2023-11-14T22:13:20.000Z"),
        (1_772_451_656.25, "2026-03-02T11:40:56.250Z"),
        (1_700_000_000.9996, "2023-11-14T22:13:20.999Z"),
        (-0.5, "1969-12-31T23:59:59.500Z"),
        (253_370_764_799.0, "9998-12-31T23:59:59.000Z"),
    ],
)
def test_a_time_is_utc_with_milliseconds(seconds: float, text: str) -> None:
    assert rfc3339(seconds) == text
