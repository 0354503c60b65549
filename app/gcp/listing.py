"""The reading of a project's instances or operations by a child process: its start, its lines, its end.

The client library needs more memory than the rest of the exporter, and its parsing would delay requests.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from app.errors import InventoryUnavailableError, StartError
from app.gcp.egress import child_environment

FAILURES: Final = (
    *("forbidden", "api_disabled", "rate_limited", "unavailable", "not_found", "credentials", "malformed"),
    *("partial", "memory", "other", "deadline", "cut_off", "store"),
)
"""The reasons of a failed or partial listing: the child's, and those of the exporter itself."""
_MEMORY_MIB: Final = 256
_CHUNK_BYTES: Final = 1 << 16
_MAX_STDERR_BYTES: Final = 1 << 13
_HOME: Final = str(Path(__file__).parents[2])
_COMPUTE: Final = "https://compute.googleapis.com"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lines:
    """Lines of entries. The thread that uses them parses them."""

    lines: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a reading."""

    pages: int
    entries: int
    seconds: float
    retrying: str | None
    """The reason to repeat the last request; None if it is not being repeated."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of a reading."""

    complete: bool
    failed_zones: frozenset[str]
    """Zones that could not be read. The reading can still be complete."""
    pages: int
    entries: int
    invalid: int
    """Entries left out because they cannot be stored and shown."""
    peak_rss_mib: float
    reason: str
    """One of FAILURES, or "" if nothing failed."""
    message: str


Resource: TypeAlias = Literal["instances", "operations"]
Part: TypeAlias = Lines | Progress | Summary


async def read_project(
    project: str,
    resource: Resource,
    *,
    endpoint: str,
    deadline_seconds: float,
    max_lines: int,
    page_seconds: float,
    pages: int = 0,
    memory_mib: int = _MEMORY_MIB,
) -> AsyncGenerator[Part, None]:
    """Yield the parts of a project's instances or operations, the summary last.

    `max_lines` is the limit of a part's lines, `page_seconds` the timeout of a page with its retries, `pages`
    the number of pages to read (0: all), `memory_mib` the child's own limit of memory. Close the generator
    (`contextlib.aclosing`) to end the child. Raises InventoryUnavailableError if the reading is cut off.
    """
    command = [sys.executable, "-P", "-m", "app.gcp.compute", "--read", resource, "--project", project]
    command += ["--endpoint", endpoint, "--pages", str(pages), "--page-seconds", str(page_seconds)]
    command += ["--parent", str(os.getpid()), "--memory-mib", str(memory_mib)]
    until = asyncio.get_running_loop().time() + deadline_seconds
    try:
        environment = child_environment(endpoint or _COMPUTE)
    except StartError as exc:
        raise InventoryUnavailableError("other", str(exc)) from exc
    async with _child(command, environment) as child:
        unsent: list[bytes] = []
        try:
            async with aclosing(_lines(child.stdout, until)) as lines:
                async for line in lines:
                    if line.startswith(b"["):
                        unsent.append(line)
                        if len(unsent) < max_lines:
                            continue
                    if unsent:
                        yield Lines(unsent)
                        unsent = []
                    if line.startswith(b"{"):
                        part = _part(line)
                        yield part
                        if isinstance(part, Summary):
                            return
        except TimeoutError:
            raise InventoryUnavailableError(
                "deadline",
                f"reading the {resource} of project {project} took longer than {deadline_seconds:g} s",
            ) from None
        raise InventoryUnavailableError(
            "cut_off",
            f"reading the {resource} of project {project} ended too early: {await child.exit_report()}",
        )


@dataclass(frozen=True, slots=True)
class _Child:
    """The running child."""

    process: asyncio.subprocess.Process
    stdout: asyncio.StreamReader
    stderr: "asyncio.Task[bytes]"

    async def exit_report(self) -> str:
        """Wait for the child's end; return its exit code or signal, and the last line of its stderr."""
        status = await self.process.wait()
        *_, last = (await self.stderr).decode(errors="replace").splitlines() or ["nothing on stderr"]
        return f"exit code {status}: {last}" if status >= 0 else f"signal {-status}: {last}"

    async def end(self) -> None:
        """Kill the child and close its pipes."""
        if self.process.returncode is None:
            # Not `kill`, which reaps a child that has ended; then asyncio warns that it does not know it.
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)
        # A pipe that is not read to its end stays open.
        while await self.stdout.read(_CHUNK_BYTES):
            pass
        if stderr := (await self.stderr).decode(errors="replace").strip():
            _log.warning(
                "the process that reads from Compute Engine wrote to stderr", extra={"stderr": stderr}
            )
        await self.process.wait()


@asynccontextmanager
async def _child(command: Sequence[str], environment: Mapping[str, str]) -> AsyncGenerator[_Child, None]:
    starting = asyncio.create_task(_start(command, environment))
    try:
        yield await asyncio.shield(starting)
    finally:
        # In a task of its own: a cancellation, during the start or the end, must leave no child and no pipe.
        ending = asyncio.create_task(_end(starting))
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            await ending
            raise


async def _end(starting: "asyncio.Task[_Child]") -> None:
    await (await starting).end()


async def _start(command: Sequence[str], environment: Mapping[str, str]) -> _Child:
    # The child imports this package from where it is, not from the folder in which the exporter was started.
    path = os.pathsep.join(filter(None, [_HOME, os.environ.get("PYTHONPATH")]))
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env={**environment, "PYTHONPATH": path},
            # A terminal's Ctrl-C must reach the exporter only, which then ends the child.
            start_new_session=True,
        )
    except OSError as exc:
        raise InventoryUnavailableError(
            "other", f"the process that reads from Compute Engine cannot be started: {exc.strerror}"
        ) from exc
    assert process.stdout is not None  # noqa: S101 - they are pipes
    assert process.stderr is not None  # noqa: S101
    return _Child(process, process.stdout, asyncio.create_task(_last_bytes(process.stderr)))


async def _last_bytes(stream: asyncio.StreamReader) -> bytes:
    """Read the stream to its end and return the last bytes, as many as a log line should have."""
    end = b""
    while chunk := await stream.read(_CHUNK_BYTES):
        end = (end + chunk)[-_MAX_STDERR_BYTES:]
    return end


async def _lines(stream: asyncio.StreamReader, until: float) -> AsyncGenerator[bytes, None]:
    """Yield the stream's complete lines; raise TimeoutError at that time of the loop."""
    rest = b""
    while True:
        # For each read: a timeout around the generator would cancel the code that uses the lines.
        async with asyncio.timeout_at(until):
            chunk = await stream.read(_CHUNK_BYTES)
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def _part(line: bytes) -> Progress | Summary:
    try:
        return _parse_report(json.loads(line))
    except (ValueError, KeyError, TypeError) as exc:
        raise InventoryUnavailableError(
            "malformed", "the process that reads from Compute Engine wrote a line that is not valid"
        ) from exc


def _parse_report(raw: Mapping[str, Any]) -> Progress | Summary:
    if (progress := raw.get("progress")) is not None:
        return Progress(**progress)
    summary = raw["summary"]
    error = summary["error"] or {"reason": "", "message": ""}
    return Summary(
        complete=summary["complete"],
        failed_zones=frozenset(scope.removeprefix("zones/") for scope in summary["failed_scopes"]),
        pages=summary["pages"],
        entries=summary["entries"],
        invalid=summary["invalid"],
        peak_rss_mib=summary["peak_rss_mib"],
        reason=error["reason"],
        message=error["message"],
    )
