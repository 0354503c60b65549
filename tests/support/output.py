"""Lines that a benchmark or a long test prints."""

import sys
from collections.abc import Sequence
from typing import NoReturn


def print_line(line: str) -> None:
    """Print a line at once, also if standard output is a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def exit_with(errors: Sequence[str]) -> NoReturn:
    """Print the errors and end the program, with exit status 1 if there are any."""
    for error in errors:
        print_line(f"WRONG: {error}")
    print_line("not exact" if errors else "exact")
    sys.exit(bool(errors))
