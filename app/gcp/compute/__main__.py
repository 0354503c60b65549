"""The entry of the child process: its arguments, its limits, and its lines."""

import argparse
import ctypes
import gc
import json
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from app.gcp.compute.failures import Failure, failed, failure_of, reason_of
from app.gcp.compute.pages import Page, Source, read_pages

_PROGRESS_SECONDS: Final = 1.0
_NO_RESULTS: Final = "NO_RESULTS_ON_PAGE"
_ZONE: Final = re.compile(r"(?:.*/)?zones/([^/]+)")

_encode = json.JSONEncoder(separators=(",", ":")).encode


def main() -> int:
    """Read by the arguments and return the exit code."""
    options = parsed(sys.argv[1:])
    if options.parent:
        _end_with(options.parent)
    source = source_of(options.read)  # before the limit, which is for the reading
    os.nice(options.nice)
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


def source_of(name: str) -> Source:
    """Return what is to be read. Only its client is imported, because each takes memory and time."""
    if name == "operations":
        from app.gcp.compute.operations import OPERATIONS  # noqa: PLC0415

        return OPERATIONS
    from app.gcp.compute.instances import INSTANCES  # noqa: PLC0415

    return INSTANCES


def read(
    source: Source,
    options: argparse.Namespace,
    stream: BinaryIO,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Write the reading's lines to the stream and return the exit code.

    `clock` returns seconds. Raises BrokenPipeError if the reader has closed the stream.
    """
    reading = _Reading(source, stream, clock)
    failure: Failure | None = None
    try:
        reading.read(read_pages(source, options, reading.retrying), limit=options.pages)
    except BrokenPipeError:
        raise
    except Exception as exc:  # noqa: BLE001 - the edge of the process: the summary has the reason
        failure = failure_of(exc, source.subject, options.project)
    if failure is None and reading.unlistable:
        failure = failed("partial", source.subject, options.project, ", ".join(sorted(reading.unlistable)))
    return reading.end(failure)


class _Reading:
    """The entries of a project that were read so far, written as they are read."""

    def __init__(self, source: Source, stream: BinaryIO, clock: Callable[[], float]) -> None:
        self.unlistable: set[str] = set()
        self._source = source
        self._stream = stream
        self._clock = clock
        self._began = time.time()
        self._started = self._reported = clock()
        self._pages = self._entries = self._invalid = 0
        self._failed: set[str] = set()
        self._complete = False

    def read(self, pages: Iterator[Page], *, limit: int) -> None:
        for page in pages:
            lines = list(self._lines(page))
            self._pages += 1
            self._entries += len(lines)
            self._write(lines)
            if self._clock() - self._reported >= _PROGRESS_SECONDS:
                self._report(None)
            if self._pages == limit and page.next_page_token:
                return
        self._complete = True

    def retrying(self, error: Exception) -> None:
        self._report(reason_of(error))

    def end(self, failure: Failure | None) -> int:
        complete = self._complete and failure is None
        summary = {
            "began": self._began,
            "complete": complete,
            "failed_scopes": sorted(self._failed),
            "pages": self._pages,
            "entries": self._entries,
            "invalid": self._invalid,
            "seconds": self._seconds(),
            "peak_rss_mib": _peak_rss_mib(),
            "error": failure and failure._asdict(),
        }
        self._write([_encode({"summary": summary})])
        return 0 if complete else 1

    def _lines(self, page: Page) -> Iterator[str]:
        for missing in page.unreachables:
            self._fail(missing)
        if page.warning.code not in {"", _NO_RESULTS} and not page.unreachables:
            self._fail(page.warning.code)
        for scope, listed in page.items.items():
            if listed.warning.code not in {"", _NO_RESULTS}:
                self._fail(scope)
            for entry in self._source.entries_of(scope.rpartition("/")[2], listed):
                if entry is None:
                    self._invalid += 1
                else:
                    yield _encode(entry)

    def _fail(self, scope: str) -> None:
        zone = _ZONE.fullmatch(scope)
        if zone:
            self._failed.add(f"zones/{zone[1]}")
        else:
            self.unlistable.add(scope)

    def _report(self, retrying: str | None) -> None:
        self._reported = self._clock()
        progress = {
            "pages": self._pages,
            "entries": self._entries,
            "seconds": self._seconds(),
            "retrying": retrying,
        }
        self._write([_encode({"progress": progress})])

    def _write(self, lines: list[str]) -> None:
        self._stream.write("".join(f"{line}\n" for line in lines).encode())
        self._stream.flush()

    def _seconds(self) -> float:
        return round(self._clock() - self._started, 3)


def _peak_rss_mib() -> float:
    # Not the maximum of getrusage, which includes the parent's memory at the fork.
    status = Path("/proc/self/status").read_text()
    peak = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return round(int(peak[1]) / 1024, 1) if peak else 0.0


if __name__ == "__main__":
    raise SystemExit(main())
