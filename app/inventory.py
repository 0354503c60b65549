"""The fleet: when each project is listed, and how its listing enters the recorder, in slices."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, assert_never

from app.domain.batch import Applied, Shared
from app.errors import ExporterError, InventoryUnavailableError
from app.gcp.listing import PAGE_SECONDS, Lines, Part, Progress, Summary, list_fleet, parse_lines
from app.metrics import Metrics
from app.recorder import Recorder
from app.store.port import Store

_SLICE: Final = 25
"""Instances recorded at a time: pushes wait as long as that takes."""
_DEADLINE_SECONDS: Final = 1800.0
SHORTEST_PAUSE_SECONDS: Final = 60.0
_PROGRESS_SECONDS: Final = 10.0
_JITTER: Final = 0.1
_LEASE_LOOK_SECONDS: Final = 1.0
"""Of several replicas one lists; the others look so often whether it is them now."""

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Project:
    """One project's listings."""

    id: str
    asked: asyncio.Event
    known: bool
    """It was listed, in this life or an earlier one."""
    tried: bool = False
    """A listing of this life has ended, well or not."""
    failed: bool = False
    """Its last listing has failed."""
    put_off: bool = False
    """Its last listing was ended in favour of another project's."""
    heard_at: float = float("-inf")
    """When it was last listed because somebody asked, by the loop's clock."""


class _Turns:
    """Turns at listing: one project at a time, and first of those that wait one whose last did not fail.

    One at a time, because a child's memory counts against the exporter's own limit. Most of its second is
    work for a processor, so two at a time would not be done sooner with many projects.

    While a project waits whose last listing did not fail, the listing under way is put off if it shows no new
    page for `silence_seconds`.
    """

    def __init__(self, silence_seconds: float) -> None:
        self._silence_seconds = silence_seconds
        self._free = asyncio.Condition()
        self._taken = False
        self._waiting: list[_Project] = []
        self._limit: asyncio.Timeout | None = None
        self._page_at = 0.0
        self._retrying: str | None = None

    @asynccontextmanager
    async def turn(self, project: _Project) -> AsyncGenerator[None, None]:
        """Wait for the project's turn, and have it for the time of the block."""
        async with self._free:
            self._waiting.append(project)
            try:
                self._limit_silence()
                await self._free.wait_for(lambda: not self._taken and self._next() is project)
            finally:
                self._waiting.remove(project)
            self._taken = True
        project.put_off, self._retrying = False, None
        self._page_at = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self._taken = False
            async with self._free:
                self._free.notify_all()

    async def read(self, parts: AsyncGenerator[Part, None], project: _Project) -> Part | None:
        """Return the listing's next part; None after the last.

        Raises InventoryUnavailableError if the listing is put off.
        """
        loop = asyncio.get_running_loop()
        if self._retrying is None:
            self._page_at = loop.time()  # what was read before may have waited for the store
        try:
            async with asyncio.timeout(None) as self._limit:
                self._limit_silence()
                part = await anext(parts, None)
        except TimeoutError:
            project.put_off = True
            raise InventoryUnavailableError(
                self._retrying or "unavailable",
                f"project {project.id} gave no page for {self._silence_seconds:g} s while others waited; "
                "it is listed after them",
            ) from None
        finally:
            self._limit = None
        self._retrying = part.retrying if isinstance(part, Progress) else None
        return part

    def _next(self) -> _Project:
        return min(self._waiting, key=lambda project: project.failed)

    def _limit_silence(self) -> None:
        if self._limit is not None and not self._limit.expired():
            hurries = any(not project.failed for project in self._waiting)
            self._limit.reschedule(self._page_at + self._silence_seconds if hurries else None)


class Inventory:
    """Lists every project at start, regularly, and when an interruption waits for its instance."""

    def __init__(  # noqa: PLR0913 - what it works with, and what the configuration or a test decides
        self,
        projects: Sequence[str],
        recorder: Recorder,
        metrics: Metrics,
        *,
        remembered: Mapping[str, float],
        interval_seconds: float,
        endpoint: str,
        shortest_pause_seconds: float = SHORTEST_PAUSE_SECONDS,
        page_seconds: float = PAGE_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`remembered`: the projects whose fleet the store knows already, and the moment it is known for.

        `shortest_pause_seconds`: between two listings of a project that were asked for, or after a failed
        one. `page_seconds`: how long a page is tried to get; and for how long, in all, the other projects can
        keep one waiting that did not fail.
        """
        self._projects = {
            project: _Project(project, asyncio.Event(), known=project in remembered) for project in projects
        }
        self._recorder = recorder
        self._metrics = metrics
        self._interval_seconds = interval_seconds
        self._shortest_pause_seconds = shortest_pause_seconds
        self._page_seconds = page_seconds
        self._endpoint = endpoint
        self._clock = clock
        self._turns = _Turns(page_seconds / max(len(self._projects), 1))
        self._remembered = any(project.known for project in self._projects.values())

    def ask(self, project: str) -> None:
        """Have the project listed soon: something waits for an instance of it."""
        if project in self._projects:
            self._projects[project].asked.set()

    def hear(self, shared: Shared) -> None:
        """Take in what another replica has listed, and asks for."""
        for project in self._projects.values():
            if project.id in shared.listed:
                project.known = project.tried = self._remembered = True
        for asked in shared.asked:
            self.ask(asked)

    def missing(self) -> Sequence[str]:
        """Which listings are missing before the fleet counts as known."""
        projects = self._projects.values()
        if self._remembered or not projects:
            return ()
        if untried := [project.id for project in projects if not project.tried]:
            return [f"the fleet of project {project} was not listed yet" for project in untried]
        if not any(project.known for project in projects):
            return ["the fleet of no project could be listed; the log says why"]
        return ()

    async def run(self) -> None:
        """List again and again; without a project, wait for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.Event().wait())
            for project in self._projects.values():
                group.create_task(self._keep_listed(project))

    async def _keep_listed(self, project: _Project) -> None:
        while True:
            if not self._metrics.leads:
                await asyncio.sleep(_LEASE_LOOK_SECONDS)
                continue
            async with self._turns.turn(project):
                project.asked.clear()
                listed = await self._list(project, self._clock())
            at_once = project.put_off and not project.failed
            project.tried, project.failed = True, not listed
            project.known = project.known or listed
            if at_once:
                continue  # it has a place behind the others
            await self._pause(project, self._interval_seconds if listed else self._retry_seconds())

    def _retry_seconds(self) -> float:
        return min(self._interval_seconds, self._shortest_pause_seconds)

    async def _pause(self, project: _Project, seconds: float) -> None:
        """Wait until the next listing is due, or asked for. By the jitter, projects are listed apart."""
        loop = asyncio.get_running_loop()
        jitter = random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds * jitter):
                await project.asked.wait()
                await asyncio.sleep(project.heard_at + self._shortest_pause_seconds - loop.time())
                project.heard_at = loop.time()

    async def _list(self, project: _Project, began: float) -> bool:
        """List a project; whether its fleet is known now."""
        started = time.monotonic()
        try:
            summary = await self._take_in(project, began)
        except InventoryUnavailableError as exc:
            self._failed(project.id, exc.cause, str(exc))
            return False
        except ExporterError as exc:
            self._failed(project.id, "store", str(exc))
            return False
        seconds = time.monotonic() - started
        if summary.reason or summary.failed_zones:
            self._failed(project.id, summary.reason or "partial", summary.message or _unread(summary))
        if not summary.complete:
            return False
        self._metrics.listed(project.id, at=began, seconds=seconds, instances=summary.instances)
        _log.info(
            "fleet listed",
            extra={
                "project": project.id,
                "instances": summary.instances,
                "invalid": summary.invalid,
                "pages": summary.pages,
                "seconds": round(seconds, 3),
                "child_peak_mib": summary.peak_rss_mib,
            },
        )
        return True

    def _failed(self, project: str, reason: str, message: str) -> None:
        self._metrics.listing_failed(project, reason)
        _log.warning("fleet not listed", extra={"project": project, "reason": reason, "error": message})

    async def _take_in(self, listed: _Project, began: float) -> Summary:
        """Record the listing slice by slice; only a complete one ends what it does not name."""
        perform, project = self._recorder.perform, listed.id
        await perform(lambda store, now: store.begin_listing(project, now))
        told_at = time.monotonic()
        listing = list_fleet(
            project,
            endpoint=self._endpoint,
            deadline_seconds=_DEADLINE_SECONDS,
            max_lines=_SLICE,
            page_seconds=self._page_seconds,
        )
        async with aclosing(listing) as parts:
            while part := await self._turns.read(parts, listed):
                match part:
                    case Lines():
                        await perform(partial(_record, project=project, began=began, lines=part.lines))
                    case Progress():
                        if part.retrying or time.monotonic() - told_at >= _PROGRESS_SECONDS:
                            told_at = time.monotonic()
                            _tell(project, part)
                    case Summary():
                        summary = part
                    case _:
                        assert_never(part)
        if summary.complete:
            await self._end(project, began, summary)
        return summary

    async def _end(self, project: str, began: float, summary: Summary) -> None:
        zones = summary.failed_zones
        while (await self._recorder.perform(partial(_sweep, project=project, began=began, zones=zones))).more:
            pass


def _record(store: Store, now: float, *, project: str, began: float, lines: Sequence[bytes]) -> Applied:
    return store.record_listed(project, began, parse_lines(project, lines), now)


def _sweep(store: Store, now: float, *, project: str, began: float, zones: Collection[str]) -> Applied:
    return store.end_listing(project, began, zones, now)


def _tell(project: str, progress: Progress) -> None:
    _log.info(
        "listing the fleet",
        extra={
            "project": project,
            "pages": progress.pages,
            "instances": progress.instances,
            "seconds": progress.seconds,
            "retrying": progress.retrying,
        },
    )


def _unread(summary: Summary) -> str:
    return f"what was known of {', '.join(sorted(summary.failed_zones))} is kept: not reachable"
