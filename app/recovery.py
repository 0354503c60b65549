"""The schedule of the readings of each project's operations, which find interruptions without a push."""

import asyncio
import logging
from collections.abc import Sequence

from app.domain.batch import Applied
from app.domain.outcomes import Pending
from app.errors import ExporterError, InventoryUnavailableError
from app.gcp.listing import Summary, read_project
from app.gcp.operations import parse_operations
from app.inventory import DEADLINE_SECONDS, SLICE, Inventory
from app.metrics import Metrics
from app.project_tasks import ProjectTasks, jittered
from app.recorder import Recorder
from app.store.port import Store
from app.turns import Participant, Turns

_log = logging.getLogger(__name__)


class Recovery:
    """Reads the operations of every project after its first listing, and then regularly."""

    def __init__(  # noqa: PLR0913 - its collaborators, its settings, and a test's values
        self,
        projects: Sequence[str],
        recorder: Recorder,
        metrics: Metrics,
        inventory: Inventory,
        turns: Turns,
        *,
        interval_seconds: float,
        settle_seconds: float,
        endpoint: str,
        page_seconds: float,
        poll_seconds: float,
    ) -> None:
        """`settle_seconds`: the time for which an operation is left to its push.

        `poll_seconds`: the interval at which it checks if this replica leads and the fleet was listed.
        """
        self._projects: dict[str, Participant] = {}
        self._tasks = ProjectTasks(self._keep_reading)
        self._recorder = recorder
        self._metrics = metrics
        self._inventory = inventory
        self._turns = turns
        self._interval_seconds = interval_seconds
        self._settle_seconds = settle_seconds
        self._endpoint = endpoint
        self._page_seconds = page_seconds
        self._poll_seconds = poll_seconds
        self._forbidden: set[str] = set()
        """The projects whose missing permission is in the log."""
        self.replace_projects(projects)

    def replace_projects(self, projects: Sequence[str]) -> None:
        """Read the operations of these projects from now on."""
        known = self._projects
        if list(known) == list(projects):
            return
        for project in projects:
            self._metrics.add_recovered_project(project)
        self._projects = {
            project: known.get(project) or Participant(id=project, secondary=True) for project in projects
        }
        self._tasks.replace(self._projects.values())

    async def run(self) -> None:
        """Read the operations of every project regularly."""
        await self._tasks.run()

    async def _keep_reading(self, project: Participant) -> None:
        while True:
            # The fleet first, because the names of instances attribute interruptions.
            if not self._metrics.leads or not self._inventory.was_attempted(project.id):
                await asyncio.sleep(self._poll_seconds)
                continue
            async with self._turns.turn(project):
                succeeded = await self._read(project)
            retry_at_once = project.postponed and not project.failed
            project.failed = not succeeded
            if not retry_at_once:
                await asyncio.sleep(jittered(self._interval_seconds))

    async def _read(self, project: Participant) -> bool:
        """Read a project's operations, and return whether everything was read."""
        try:
            summary = await self._record_operations(project)
        except InventoryUnavailableError as exc:
            self._failed(project.id, exc.reason, str(exc))
            return False
        except ExporterError as exc:
            self._failed(project.id, "store", str(exc))
            return False
        if not summary.complete or summary.failed_zones:
            unread = f"not reachable: {', '.join(sorted(summary.failed_zones))}"
            self._failed(project.id, summary.reason or "partial", summary.message or unread)
            return False
        self._forbidden.discard(project.id)
        self._metrics.operations_read(project.id)
        _log.info(
            "operations read",
            extra={
                "project": project.id,
                "operations": summary.entries,
                "invalid": summary.invalid,
                "pages": summary.pages,
                "child_peak_mib": summary.peak_rss_mib,
            },
        )
        return True

    def _failed(self, project: str, reason: str, message: str) -> None:
        self._metrics.recovery_failed(project, reason)
        if reason == "forbidden":
            # The exporter runs without the permission. One line is enough for the log.
            if project in self._forbidden:
                return
            self._forbidden.add(project)
        result = "operations read in part" if reason == "partial" else "operations not read"
        _log.warning(result, extra={"project": project, "reason": reason, "error": message})

    async def _record_operations(self, project: Participant) -> Summary:
        """Record the operations slice by slice. What was read before a failure stays recorded."""
        reading = read_project(
            project.id,
            "operations",
            endpoint=self._endpoint,
            deadline_seconds=DEADLINE_SECONDS,
            max_lines=SLICE,
            page_seconds=self._page_seconds,
        )

        async def record(lines: Sequence[bytes]) -> None:
            def recover(store: Store, now: float) -> Applied:
                return store.recover(parse_operations(project.id, lines), self._settle_seconds, now)

            applied = await self._recorder.perform(recover, hurries=False)
            if any(isinstance(outcome, Pending) for outcome in applied.outcomes):
                self._inventory.request(project.id)

        return await self._turns.read(reading, project, record)
