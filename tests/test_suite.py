"""The configuration of the test suite."""

from pathlib import Path

from tests.conftest import LONGEST


def test_the_longest_tests_exist() -> None:
    root = Path(__file__).parents[1]

    assert [scope for scope in LONGEST if not (root / scope).exists()] == []
