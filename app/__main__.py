"""The command `spot-interruption-exporter`, which is also `python -m app`."""

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run a command, and give its exit code; until it listens to signals, one to stop ends the process."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    # After that: the imports take most of the time of a start.
    from app.cli import main as run  # noqa: PLC0415

    return run()


def _end(_number: int, _frame: FrameType | None) -> None:
    # At once, and not by an exception, which might be caught by whom it meets, in the midst of an import.
    # What is under way is left as kill -9 would leave it, and everything here bears that.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
