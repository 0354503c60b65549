"""Figures of a running process, and percentiles."""

import math
import re
import time
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
    """Return the processor time of all threads of a process so far.

    It is the clock of clock_getcpuclockid, which Python does not have.
    https://man7.org/linux/man-pages/man3/clock_getcpuclockid.3.html
    """
    return time.clock_gettime(~pid << 3 | 2)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that this share of the values does not exceed; NaN if there are none."""
    return sorted(values)[max(math.ceil(len(values) * share) - 1, 0)] if values else math.nan
