"""The programs that a test needs on its machine."""

import os
from typing import TypeVar

import pytest

T = TypeVar("T")


def require(program: str, found: T | None) -> T:
    """Return `found` if it is truthy, for example the path of a program.

    Otherwise the program is missing: the test is skipped, and fails if CI is set.
    """
    if found:
        return found
    reason = f"needs {program}, which is not here"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
