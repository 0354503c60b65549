"""What every benchmark tells, and how it looks at a process."""

import math
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_BAR: Final = 30


def say(line: str) -> None:
    """Tell it now on standard output, whoever reads."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextmanager
def progress(what: str, of: float) -> Iterator[Callable[[float], None]]:
    """A bar on standard error that is gone at the end; the block is given what says how much is done.

    Where standard error is no terminal: a line at every tenth.
    """
    is_terminal = sys.stderr.isatty()
    told = -1

    def done(amount: float) -> None:
        nonlocal told
        share = min(amount / of, 1.0) if of else 1.0
        step = int(share * (100 if is_terminal else 10))
        if step <= told:
            return
        told = step
        if is_terminal:
            full = int(share * _BAR)
            sys.stderr.write(f"\r\033[K[{'#' * full}{'.' * (_BAR - full)}] {share:4.0%} {what}")
        else:
            sys.stderr.write(f"{share:4.0%} {what}\n")
        sys.stderr.flush()

    done(0)
    try:
        yield done
    finally:
        if is_terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def machine() -> str:
    """What the figures were measured on: they mean little without."""
    return f"{os.cpu_count()} cores, Python {platform.python_version()}"


def at_most(value: float, limit: float) -> str:
    """What stands beside a figure that must not be larger."""
    return f"(limit {limit:g})" if value <= limit else f"(limit {limit:g}: missed)"


def at_least(value: float, wanted: float) -> str:
    """What stands beside a figure that must not be smaller."""
    return f"(wanted {wanted:g})" if value >= wanted else f"(wanted {wanted:g}: missed)"


def percentile(values: Sequence[float], share: float) -> float:
    """The least of the values that so large a share of them does not exceed; NaN of none."""
    return sorted(values)[max(math.ceil(len(values) * share) - 1, 0)] if values else math.nan


def rss_mib(pid: int) -> float:
    """What a process has resident now, in MiB."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def cpu_seconds(pid: int) -> float:
    """The processor time that a process has taken so far, in all its threads; in steps of 10 ms.

    https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
    """
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
