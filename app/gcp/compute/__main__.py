"""The start of the child process: its arguments, its priority and its limits."""

import argparse
import ctypes
import gc
import os
import resource
import signal
import sys
from collections.abc import Sequence


def main() -> int:
    """Read what the arguments name, and return the exit code."""
    options = parsed(sys.argv[1:])
    os.nice(options.nice)
    if options.parent:
        _end_with(options.parent)
    # These imports take more than a second of processor time, which the server needs first.
    from app.gcp.compute.reading import read, source_of  # noqa: PLC0415

    source = source_of(options.read)  # before the limit, which is for the reading
    _limit_memory(options.memory_mib)
    gc.freeze()
    # sys.stdout has no buffer under PYTHONUNBUFFERED, and a write without a buffer can be partial.
    stream = open(sys.stdout.fileno(), "wb", closefd=False)  # noqa: SIM115 - open until the process ends
    try:
        return read(source, options, stream)
    except BrokenPipeError:
        # The reader has closed the pipe.
        return 1


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options that the command line gives; exit with a usage message if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m app.gcp.compute", description="Read a project's instances or operations."
    )
    parser.add_argument("--project", required=True)
    parser.add_argument("--read", choices=("instances", "operations"), default="instances")
    parser.add_argument(
        "--endpoint", default="", help="another Compute API; without credentials if it begins with http://"
    )
    parser.add_argument("--pages", type=int, default=0, help="the number of pages to read; 0: all")
    parser.add_argument("--parent", type=int, default=0, help="a process id: end when this process ends")
    parser.add_argument("--memory-mib", type=int, default=256, help="limit of its data; 0: no limit")
    parser.add_argument("--nice", type=int, default=10, help="added to the niceness")
    parser.add_argument("--page-seconds", type=float, default=90, help="timeout of a page with its retries")
    parser.add_argument("--answer-seconds", type=float, default=30, help="timeout of a request")
    parser.add_argument(
        "--backoff", type=float, default=1, help="maximum delay before the first retry, in seconds"
    )
    return parser.parse_args(arguments)


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends for any reason.

    In fact, when the thread that started it ends. A server's thread must live as long as the server.
    """
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit("the parent has ended")


def _limit_memory(mib: int) -> None:
    # Private writable memory, as for an out-of-memory kill. RLIMIT_AS would also count mapped libraries and
    # reserved addresses, which differ between machines.
    if mib:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = mib * 2**20 if hard == resource.RLIM_INFINITY else min(mib * 2**20, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


if __name__ == "__main__":
    raise SystemExit(main())
