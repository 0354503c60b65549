"""The schedule of the listings of each project, which are recorded in slices."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from app.domain.batch import Applied, Shared
from app.domain.replicas import all_projects
from app.errors import ExporterError, InventoryUnavailableError
from app.gcp.instances import parse_instances
from app.gcp.listing import Progress, Summary, read_project
from app.metrics import Metrics
from app.project_tasks import ProjectTasks, jittered
from app.recorder import Recorder
from app.store.port import Store
from app.turns import Participant, Turns

SLICE: Final = 25
"""The number of instances recorded at a time. Pushes wait as long as that takes."""
DEADLINE_SECONDS: Final = 1800.0
_PROGRESS_SECONDS: Final = 10.0

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False, kw_only=True)
class _Project(Participant):
    """The listings of a project."""

    requested: asyncio.Event = field(default_factory=asyncio.Event)
    known: bool
    """It was listed by this process or an earlier one."""
    attempted: bool = False
    """Since this process started, a listing has succeeded or failed."""
    last_requested_listing_at: float = float("-inf")
    """The time of its last listing that was requested, by the loop's clock."""


class Inventory:
    """Lists every project at start, regularly, and when an interruption of it is pending."""

    def __init__(  # noqa: PLR0913 - its collaborators, its settings, and a test's values
        self,
        projects: Sequence[str],
        recorder: Recorder,
        metrics: Metrics,
        *,
        enabled: bool,
        remembered: Mapping[str, float],
        interval_seconds: float,
        endpoint: str,
        turns: Turns,
        shortest_pause_seconds: float,
        page_seconds: float,
        poll_seconds: float,
        clock: Callable[[], float],
    ) -> None:
        """`projects`: those of the configuration. Without `enabled`, those of other replicas are not listed.

        `remembered`: when the last complete listing of each project began, as stored before this process.
        `shortest_pause_seconds`: the shortest time between two requested listings of a project, and after a
        failed listing. `page_seconds`: the time after which a page counts as failed. `poll_seconds`: only the
        leading replica lists; the others check at this interval if they lead now.
        """
        self._own = tuple(projects)
        self._enabled = enabled
        self._projects = {project: _Project(id=project, known=project in remembered) for project in projects}
        self._tasks = ProjectTasks(self._keep_listed)
        self._tasks.replace(self._projects.values())
        self._recorder = recorder
        self._metrics = metrics
        self._interval_seconds = interval_seconds
        self._shortest_pause_seconds = shortest_pause_seconds
        self._page_seconds = page_seconds
        self._poll_seconds = poll_seconds
        self._endpoint = endpoint
        self._clock = clock
        self._turns = turns
        turns.share_among(len(projects))
        self._remembered_at = remembered
        self._remembered = any(project.known for project in self._projects.values())

    @property
    def projects(self) -> Sequence[str]:
        """The projects that the living replicas list."""
        return list(self._projects)

    def was_attempted(self, project: str) -> bool:
        """Return True if a listing of the project has ended, well or badly."""
        return project in self._projects and self._projects[project].attempted

    def request(self, project: str) -> None:
        """Request a listing of the project, because an interruption of it is pending."""
        if project in self._projects:
            self._projects[project].requested.set()

    def are_listed(self) -> bool:
        """Return True once the first listing of each project has ended, well or badly."""
        return all(project.attempted for project in self._projects.values())

    def update_from_replicas(self, shared: Shared) -> None:
        """Note the listings that another replica has done or requests, and the projects that it lists."""
        if self._enabled:
            others = all_projects(shared.replicas.values())
            self._replace_projects(list(dict.fromkeys([*self._own, *others])))
        for project in self._projects.values():
            listed_at = shared.last_listed_at.get(project.id)
            if listed_at is not None:
                project.known = self._remembered = True
                # An earlier process' listing explains nothing that has become pending since then.
                project.attempted |= listed_at != self._remembered_at.get(project.id)
        for requested in shared.requested:
            self.request(requested)

    def _replace_projects(self, projects: Collection[str]) -> None:
        added = [project for project in projects if project not in self._projects]
        dropped = [project for project in self._projects if project not in projects]
        if not added and not dropped:
            return
        for project in dropped:
            del self._projects[project]
            self._metrics.drop_project(project)
        for project in added:
            self._projects[project] = _Project(id=project, known=False)
            self._metrics.add_listed_project(project)
        self._tasks.replace(self._projects.values())
        self._turns.share_among(len(self._projects))
        _log.info(
            "the replicas list other projects than before; the leading replica needs access to all of them",
            extra={
                "projects": list(self._projects),
                "added": added,
                "dropped": dropped,
                "not_in_own_configuration": [id_ for id_ in self._projects if id_ not in self._own],
            },
        )

    def not_ready_reasons(self) -> Sequence[str]:
        """Return the reasons for which the fleet does not count as known."""
        projects = self._projects.values()
        if self._remembered or not projects:
            return ()
        if not_attempted := [project.id for project in projects if not project.attempted]:
            return [f"the fleet of project {project} has not been listed yet" for project in not_attempted]
        if not any(project.known for project in projects):
            return ["no project's fleet could be listed; the log has the reasons"]
        return ()

    async def run(self) -> None:
        """List every project regularly."""
        await self._tasks.run()

    async def _keep_listed(self, project: _Project) -> None:
        while True:
            if not self._metrics.leads:
                await asyncio.sleep(self._poll_seconds)
                continue
            async with self._turns.turn(project):
                project.requested.clear()
                listed = await self._list(project, self._clock())
            retry_at_once = project.postponed and not project.failed
            project.attempted, project.failed = True, not listed
            project.known = project.known or listed
            if retry_at_once:
                continue  # its next turn is after the projects that wait
            await self._pause(project, self._interval_seconds if listed else self._retry_seconds())

    def _retry_seconds(self) -> float:
        return min(self._interval_seconds, self._shortest_pause_seconds)

    async def _pause(self, project: _Project, seconds: float) -> None:
        """Wait until the next listing is due or requested."""
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout(jittered(seconds)):
                await project.requested.wait()
                await asyncio.sleep(
                    project.last_requested_listing_at + self._shortest_pause_seconds - loop.time()
                )
                project.last_requested_listing_at = loop.time()

    async def _list(self, project: _Project, began: float) -> bool:
        """List a project, and return whether all of its fleet is known now."""
        started = time.monotonic()
        try:
            summary = await self._record_listing(project, began)
        except InventoryUnavailableError as exc:
            self._failed(project.id, exc.reason, str(exc))
            return False
        except ExporterError as exc:
            self._failed(project.id, "store", str(exc))
            return False
        seconds = time.monotonic() - started
        if summary.reason or summary.failed_zones:
            self._failed(project.id, summary.reason or "partial", summary.message or _unread(summary))
        if not summary.complete:
            return False
        self._metrics.listed(project.id, at=began, seconds=seconds, instances=summary.entries)
        _log.info(
            "fleet listed",
            extra={
                "project": project.id,
                "instances": summary.entries,
                "invalid": summary.invalid,
                "pages": summary.pages,
                "seconds": round(seconds, 3),
                "child_peak_mib": summary.peak_rss_mib,
            },
        )
        return True

    def _failed(self, project: str, reason: str, message: str) -> None:
        self._metrics.listing_failed(project, reason)
        result = "fleet listed in part" if reason == "partial" else "fleet not listed"
        _log.warning(result, extra={"project": project, "reason": reason, "error": message})

    async def _record_listing(self, listed: _Project, began: float) -> Summary:
        """Record the listing slice by slice. Only a complete listing ends the instances missing from it."""
        perform, project = self._recorder.perform, listed.id
        await perform(lambda store, now: store.begin_listing(project, now))
        logged_at = time.monotonic()

        async def record(lines: Sequence[bytes]) -> None:
            await perform(
                lambda store, now: store.record_listed(project, began, parse_instances(project, lines), now)
            )

        def report(progress: Progress) -> None:
            nonlocal logged_at
            if progress.retrying or time.monotonic() - logged_at >= _PROGRESS_SECONDS:
                logged_at = time.monotonic()
                _log_progress(project, progress)

        listing = read_project(
            project,
            "instances",
            endpoint=self._endpoint,
            deadline_seconds=DEADLINE_SECONDS,
            max_lines=SLICE,
            page_seconds=self._page_seconds,
        )
        summary = await self._turns.read(listing, listed, record, report)
        if summary.complete:
            await self._end(project, began, summary)
        return summary

    async def _end(self, project: str, began: float, summary: Summary) -> None:
        def end_slice(store: Store, now: float) -> Applied:
            return store.end_listing(project, began, summary.failed_zones, now)

        while (await self._recorder.perform(end_slice)).more:
            pass


def _log_progress(project: str, progress: Progress) -> None:
    _log.info(
        "listing the fleet",
        extra={
            "project": project,
            "pages": progress.pages,
            "instances": progress.entries,
            "seconds": progress.seconds,
            "retrying": progress.retrying,
        },
    )


def _unread(summary: Summary) -> str:
    return f"not reachable: {', '.join(sorted(summary.failed_zones))}; their known instances are kept"
