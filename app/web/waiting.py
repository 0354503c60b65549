"""A limit to the requests that wait for work which is done for one request at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from app.errors import OverloadError

MOST_WAITING: Final = 100


class WaitingLimit:
    """The requests that wait. A caller who does not wait for its answer cannot add to them without end."""

    def __init__(self) -> None:
        self._waiting = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Wait during the block. Raises OverloadError if too many requests wait."""
        if self._waiting >= MOST_WAITING:
            raise OverloadError(f"{MOST_WAITING} requests wait for the same page")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
