"""The lines of a reading, which are written while its pages are read."""

import argparse
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from app.gcp.compute.failures import Failure, failed, failure_of, reason_of
from app.gcp.compute.pages import Page, Source, read_pages

_PROGRESS_SECONDS: Final = 1.0
_NO_RESULTS: Final = "NO_RESULTS_ON_PAGE"
_ZONE: Final = re.compile(r"(?:.*/)?zones/([^/]+)")

_encode = json.JSONEncoder(separators=(",", ":")).encode


def source_of(name: str) -> Source:
    """Return the source with that name. Only its client is imported, because each takes memory and time."""
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
