"""The child processes that a test has started."""

from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

_OTHERS: Final[set[int]] = set()


def ignore_present_children() -> None:
    """Leave out the children of this moment. The same worker runs other files, with servers of their own."""
    _OTHERS.clear()
    _OTHERS.update(children_of("self"))


def children() -> set[int]:
    """Return the ids of the child processes since the last `ignore_present_children`, zombies included."""
    return children_of("self") - _OTHERS


def children_of(process: int | Literal["self"]) -> set[int]:
    """Return the ids of the child processes of a process, zombies included."""
    found: set[int] = set()
    for thread in Path(f"/proc/{process}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            found.update(map(int, (thread / "children").read_text().split()))
    return found
