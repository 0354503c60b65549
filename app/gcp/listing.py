"""A project's fleet, as a child process lists it (see `app.gcp.compute`): started, read in slices, and ended.

The client library costs more memory than the rest of the exporter, and its parsing would hold up requests.
"""

import asyncio
import json
import logging
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

from app.domain.events import UNKNOWN, InstanceName, Listed, Node
from app.domain.instances import shown_cluster
from app.errors import InventoryUnavailableError, StartError
from app.gcp.egress import child_environment

_ALIVE: Final = frozenset({"PROVISIONING", "STAGING", "RUNNING", "REPAIRING"})
FAILURES: Final = (
    *("forbidden", "api_disabled", "rate_limited", "unavailable", "not_found", "credentials", "malformed"),
    *("partial", "memory", "other", "deadline", "cut_off", "store"),
)
"""Why a fleet can be listed badly or not at all: the child's reasons, and those met on this side."""
PAGE_SECONDS: Final = 90.0
MEMORY_MIB: Final = 256
_CHUNK_BYTES: Final = 1 << 16
_LAST_BYTES: Final = 1 << 13
_HOME: Final = str(Path(__file__).parents[2])
_COMPUTE: Final = "https://compute.googleapis.com"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Slice:
    """Lines of instances, not parsed yet: that is left to the thread that uses them."""

    lines: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a listing is."""

    pages: int
    instances: int
    seconds: float
    retrying: str | None
    """Why the last request is being repeated; None while all goes well."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How a listing ended."""

    complete: bool
    failed_zones: frozenset[str]
    """Zones of which the listing says nothing, though it is complete otherwise."""
    pages: int
    instances: int
    unfit: int
    """Instances left out because they could not be stored or shown."""
    peak_rss_mib: float
    reason: str
    """Why it is not complete; "" where nothing failed."""
    message: str


Part: TypeAlias = Slice | Progress | Summary


async def list_fleet(
    project: str,
    *,
    endpoint: str,
    deadline_seconds: float,
    slice_size: int,
    page_seconds: float = PAGE_SECONDS,
    pages: int = 0,
    memory_mib: int = MEMORY_MIB,
) -> AsyncGenerator[Part, None]:
    """The parts of a project's listing, the summary last; `pages`: how many to read at most, 0 for all.

    `page_seconds`: how long a page is tried to get; `memory_mib`: to which the child keeps itself. Raises
    InventoryUnavailableError for a listing that was cut off. Close it (`contextlib.aclosing`): the child does
    not outlive it.
    """
    command = [sys.executable, "-P", "-m", "app.gcp.compute", "--project", project, "--endpoint", endpoint]
    command += ["--pages", str(pages), "--patience", str(page_seconds), "--parent", str(os.getpid())]
    command += ["--memory-mib", str(memory_mib)]
    until = asyncio.get_running_loop().time() + deadline_seconds
    try:
        environment = child_environment(endpoint or _COMPUTE)
    except StartError as exc:
        raise InventoryUnavailableError("other", str(exc)) from exc
    async with _child(command, environment) as child:
        waiting: list[bytes] = []
        try:
            async with aclosing(_lines(child.stdout, until)) as lines:
                async for line in lines:
                    if line.startswith(b"["):
                        waiting.append(line)
                        if len(waiting) < slice_size:
                            continue
                    if waiting:
                        yield Slice(waiting)
                        waiting = []
                    if line.startswith(b"{"):
                        part = _part(line)
                        yield part
                        if isinstance(part, Summary):
                            return
        except TimeoutError:
            raise InventoryUnavailableError(
                "deadline", f"listing project {project} took longer than {deadline_seconds:g} s"
            ) from None
        raise InventoryUnavailableError(
            "cut_off", f"listing project {project} ended without its summary: {await child.last_words()}"
        )


@dataclass(frozen=True, slots=True)
class _Child:
    """The child at work."""

    process: asyncio.subprocess.Process
    stdout: asyncio.StreamReader
    stderr: "asyncio.Task[bytes]"

    async def last_words(self) -> str:
        """How it ended, once it has, and the last line that it wrote on stderr."""
        status = await self.process.wait()
        *_, last = (await self.stderr).decode(errors="replace").splitlines() or ["it said nothing"]
        return f"exit code {status}: {last}" if status >= 0 else f"signal {-status}: {last}"

    async def end(self) -> None:
        """Kill it, whatever it does, and close its pipes."""
        with suppress(ProcessLookupError):
            self.process.kill()
        # To their ends, or they stay open.
        while await self.stdout.read(_CHUNK_BYTES):
            pass
        if said := (await self.stderr).decode(errors="replace").strip():
            _log.warning("the listing's process has said", extra={"said": said})
        await self.process.wait()


@asynccontextmanager
async def _child(command: Sequence[str], environment: Mapping[str, str]) -> AsyncGenerator[_Child, None]:
    starting = asyncio.create_task(_start(command, environment))
    try:
        yield await asyncio.shield(starting)
    finally:
        # One that was to be cancelled while it started would live on, with nobody to reap it.
        await (await starting).end()


async def _start(command: Sequence[str], environment: Mapping[str, str]) -> _Child:
    # Found where this package is, and not in whatever folder the exporter was started.
    path = os.pathsep.join(filter(None, [_HOME, os.environ.get("PYTHONPATH")]))
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env={**environment, "PYTHONPATH": path},
            # A terminal's Ctrl-C is for the exporter, which ends the child.
            start_new_session=True,
        )
    except OSError as exc:
        raise InventoryUnavailableError("other", f"the listing cannot be started: {exc.strerror}") from exc
    assert process.stdout is not None  # noqa: S101 - they are pipes
    assert process.stderr is not None  # noqa: S101
    return _Child(process, process.stdout, asyncio.create_task(_end_of(process.stderr)))


async def _end_of(stream: asyncio.StreamReader) -> bytes:
    """The last of all that comes, and no more than is worth a log line."""
    said = b""
    while chunk := await stream.read(_CHUNK_BYTES):
        said = (said + chunk)[-_LAST_BYTES:]
    return said


async def _lines(stream: asyncio.StreamReader, until: float) -> AsyncGenerator[bytes, None]:
    """The complete lines that come until that time of the loop, then TimeoutError.

    A last one that was cut off is none.
    """
    rest = b""
    while True:
        # Around each reading: one around all would cancel whoever uses the lines.
        async with asyncio.timeout_at(until):
            chunk = await stream.read(_CHUNK_BYTES)
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def _part(line: bytes) -> Progress | Summary:
    try:
        return _told(json.loads(line))
    except (ValueError, KeyError, TypeError) as exc:
        raise InventoryUnavailableError(
            "malformed", "the listing's process has said what it should not"
        ) from exc


def _told(told: Mapping[str, Any]) -> Progress | Summary:
    if (progress := told.get("progress")) is not None:
        return Progress(**progress)
    summary = told["summary"]
    error = summary["error"] or {"reason": "", "message": ""}
    return Summary(
        complete=summary["complete"],
        failed_zones=frozenset(scope.removeprefix("zones/") for scope in summary["failed_scopes"]),
        pages=summary["pages"],
        instances=summary["instances"],
        unfit=summary["unfit"],
        peak_rss_mib=summary["peak_rss_mib"],
        reason=error["reason"],
        message=error["message"],
    )


def listed_of(project: str, lines: Sequence[bytes]) -> list[Listed]:
    """The instances that lines of the project's listing tell of."""
    return [_listed(project, told) for told in json.loads(b"[" + b",".join(lines) + b"]")]


def _listed(project: str, told: Sequence[Any]) -> Listed:
    zone, name, instance_id, is_node, cluster, location, pool, machine_type = told[:8]
    spot, status, created_at, started_at = told[8:]
    cluster = shown_cluster(cluster) if cluster else UNKNOWN
    node = Node(cluster, location or UNKNOWN, pool or UNKNOWN, machine_type or UNKNOWN)
    return Listed(
        InstanceName(project, zone, name),
        instance_id,
        node if is_node else None,
        spot=spot,
        alive=status in _ALIVE,
        created_at=created_at,
        started_at=started_at,
    )
