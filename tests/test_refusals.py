import logging

import pytest

from app.refusals import RefusalLog


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str, int]]:
    return [
        (record.endpoint, record.reason, record.detail, record.refused)  # type: ignore[attr-defined]
        for record in caplog.records
        if record.levelno == logging.WARNING
    ]


def test_refusals_are_a_line_per_endpoint_reason_and_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log = RefusalLog(clock)
    for number in range(1000):
        log.note("creation", "not_authenticated", f"detail {number}")
    log.note("creation", "malformed_entry", "other")
    assert lines(caplog) == [
        ("creation", "not_authenticated", "detail 0", 1),
        ("creation", "malformed_entry", "other", 1),
    ]

    clock.now += 60
    log.flush()
    log.flush()

    assert lines(caplog)[2:] == [("creation", "not_authenticated", "detail 999", 999)]
    assert log.newest == {"not_authenticated": "detail 999", "malformed_entry": "other"}
