"""The child processes that a test has started."""

from contextlib import suppress
from pathlib import Path
from typing import Final

_OTHERS: Final[set[int]] = set()


def ignore_present_children() -> None:
    """Leave out the children of this moment. The same worker runs other files, with servers of their own."""
    _OTHERS.clear()
    _OTHERS.update(_all_children())


def children() -> set[int]:
    """Return the ids of the child processes since the last `ignore_present_children`, zombies included."""
    return _all_children() - _OTHERS


def _all_children() -> set[int]:
    found: set[int] = set()
    for thread in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            found.update(map(int, (thread / "children").read_text().split()))
    return found
