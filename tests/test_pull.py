"""The pulling from Pub/Sub, without a server. `tests/e2e/test_pull.py` has one."""

from app.pull import pause_after


def test_the_pause_after_failures_doubles_up_to_a_minute() -> None:
    pauses = [pause_after(attempts, 1) for attempts in range(9)]

    assert pauses == [1, 1, 2, 4, 8, 16, 32, 60, 60]
