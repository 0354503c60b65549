"""The lines with which exporters explain a loss."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

ROLLBACK: Final = "the store has gone back to older data"
DAMAGE: Final = "the store was damaged"


class Log(logging.Handler):
    """Keeps the warnings and errors of the program."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(logging.Formatter("%(message)s"))
        self._lines: list[str] = []
        self.bug = ""
        """The newest exception in the log."""

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())
        if record.exc_info:
            self.bug = self.format(record)

    def take(self, beginning: str) -> Sequence[str]:
        """Return the lines that begin so, and forget all lines."""
        lines, self._lines = self._lines, []
        return [line for line in lines if line.startswith(beginning)]


@contextmanager
def kept_log() -> Iterator[Log]:
    """Keep the program's log instead of writing it."""
    logger, log = logging.getLogger("app"), Log()
    before = logger.propagate, logger.level
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    logger.addHandler(log)
    try:
        yield log
    finally:
        logger.removeHandler(log)
        logger.propagate, logger.level = before
