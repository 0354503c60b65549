"""What a run tells people."""

import sys
from collections.abc import Sequence


def say(line: str) -> None:
    """Tell it now, whoever reads."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def conclude(wrong: Sequence[str]) -> None:
    """Tell what is wrong, and end the program: with status 1 where anything is."""
    for line in wrong:
        say(f"WRONG: {line}")
    say("not exact" if wrong else "exact")
    sys.exit(bool(wrong))
