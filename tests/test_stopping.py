"""The end of the exporter: the time that everything in progress has."""

from pathlib import Path

from tests.support.exporter import Exporter

WITHIN = 60.0


def seconds_left(exporter: Exporter, *, spent: float) -> float:
    """Begin the end after so many seconds of it, and return the seconds that are left."""

    async def measure() -> float:
        exporter.parts.begin_end(spent)
        return exporter.parts.seconds_left()

    return exporter.perform(measure()).result(WITHIN)


def test_pulled_messages_requests_and_commits_share_one_time(tmp_path: Path) -> None:
    with Exporter(tmp_path, shutdown_seconds=1000.0) as exporter:
        assert 400.0 < seconds_left(exporter, spent=500.0) <= 500.0
        assert seconds_left(exporter, spent=2000.0) == 0.5


def test_the_time_begins_once(tmp_path: Path) -> None:
    async def measure() -> tuple[float, float]:
        return exporter.parts.seconds_left(), exporter.parts.seconds_left()

    with Exporter(tmp_path, shutdown_seconds=1000.0) as exporter:
        first, second = exporter.perform(measure()).result(WITHIN)
        assert second <= first <= 1000.0
