"""Parts of every benchmark's report: a progress bar, the machine, and a figure beside its limit."""

import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_BAR_WIDTH: Final = 30


@contextmanager
def progress(label: str, total: float) -> Iterator[Callable[[float], None]]:
    """Show a progress bar on standard error while the block runs; the block gets a function that updates it.

    If standard error is not a terminal, print a line at every tenth instead.
    """
    is_terminal = sys.stderr.isatty()
    last_step = -1

    def update(amount: float) -> None:
        nonlocal last_step
        share = min(amount / total, 1.0) if total else 1.0
        step = int(share * (100 if is_terminal else 10))
        if step <= last_step:
            return
        last_step = step
        if is_terminal:
            full = int(share * _BAR_WIDTH)
            sys.stderr.write(f"\r\033[K[{'#' * full}{'.' * (_BAR_WIDTH - full)}] {share:4.0%} {label}")
        else:
            sys.stderr.write(f"{share:4.0%} {label}\n")
        sys.stderr.flush()

    update(0)
    try:
        yield update
    finally:
        if is_terminal:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def machine() -> str:
    """Return the machine's cores and Python version. Without them the figures mean little."""
    return f"{os.cpu_count()} cores, Python {platform.python_version()}"


def at_most(value: float, limit: float) -> str:
    """Return a note for a figure that must not be larger than the limit."""
    return f"(limit {limit:g})" if value <= limit else f"(limit {limit:g}: missed)"


def at_least(value: float, target: float) -> str:
    """Return a note for a figure that must not be smaller than the target."""
    return f"(target {target:g})" if value >= target else f"(target {target:g}: missed)"
