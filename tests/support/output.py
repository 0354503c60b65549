"""Lines that a benchmark or a long test prints."""

import sys


def print_line(line: str) -> None:
    """Print a line at once, also if standard output is a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
