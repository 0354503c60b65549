"""What a test needs from its machine."""

import os
from typing import TypeVar

import pytest

T = TypeVar("T")


def require(program: str, found: T | None) -> T:
    """What was found of a program; where it is missing the test is skipped, and fails if CI is set.

    `found` is its path, its client, or true: anything falsy means that it is missing.
    """
    if found:
        return found
    reason = f"needs {program}, which is not here"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
