"""The configuration of the test suite."""

from pathlib import Path

from tests.conftest import LONGEST


def test_what_is_started_first_is_there() -> None:
    root = Path(__file__).parents[1]

    assert [scope for scope in LONGEST if not (root / scope).exists()] == []
