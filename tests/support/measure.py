"""Figures of a running process, and percentiles."""

import math
import re
from collections.abc import Sequence
from pathlib import Path


def rss_mib(pid: int) -> float:
    """Return the resident memory of a process in MiB, 0 if it has ended."""
    return _status_mib(pid, "VmRSS")


def peak_rss_mib(pid: int) -> float:
    """Return the largest resident memory that a process has had so far, in MiB."""
    return _status_mib(pid, "VmHWM")


def _status_mib(pid: int, field: str) -> float:
    """Return a field of `/proc/PID/status`.

    https://man7.org/linux/man-pages/man5/proc_pid_status.5.html
    """
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def cpu_seconds(pid: int) -> float:
    """Return the processor time of all living threads of a process so far, in steps of nanoseconds.

    The times of `/proc/PID/stat` are samples: they rarely see a process that only runs for moments.
    https://docs.kernel.org/scheduler/sched-stats.html
    """
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that this share of the values does not exceed; NaN if there are none."""
    return sorted(values)[max(math.ceil(len(values) * share) - 1, 0)] if values else math.nan
