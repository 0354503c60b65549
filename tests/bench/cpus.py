"""CPUs of a benchmark: one for the load, the others for the servers.

Otherwise the system runs the load generator on a server's CPU in the server's pauses, and its code displaces
the server's from the caches of that CPU.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_ALL: Final = os.sched_getaffinity(0) if sys.platform == "linux" else set[int]()
LOAD_CPU: Final = {max(_ALL)} if len(_ALL) > 1 else _ALL
SERVER_CPUS: Final = _ALL - LOAD_CPU or _ALL


@contextmanager
def run_on(cpus: set[int]) -> Iterator[None]:
    """Keep this thread, and the processes that the block starts, on these CPUs.

    It has no effect on a system other than Linux.
    """
    if sys.platform != "linux":
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
