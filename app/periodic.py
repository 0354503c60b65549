"""The periodic work: the ends of grace periods, instance-seconds, pruning, and the release of held series."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from app.domain.batch import Shared
from app.errors import ExporterError
from app.metrics import Metrics
from app.recorder import Recorder, Work
from app.store.port import Sync

POLL_SECONDS: Final = 1.0
"""The interval at which tasks look for work that is due."""
RETRY_SECONDS: Final = 10.0
_MINUTE: Final = 60.0
SETTLE_SECONDS: Final = 120.0
_RETRY_SHARED_SECONDS: Final = 2.0
"""Other replicas wait for the leader, and its lease is short."""

_log = logging.getLogger(__name__)


class PeriodicTasks:
    """Runs each periodic task through the recorder when it is due."""

    def __init__(
        self,
        recorder: Recorder,
        metrics: Metrics,
        *,
        sync: Sync | None,
        on_shared: Callable[[Shared], None] = lambda _: None,
        are_listed: Callable[[], bool],
        settle_seconds: float = SETTLE_SECONDS,
        poll_seconds: float = POLL_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """`sync`: None if there are no other replicas. `on_shared` is called with what it has read.

        `are_listed`: whether the first listing of each project has ended, well or badly. Before that, and in
        the first `settle_seconds`, no grace period ends: creations that waited for the start still arrive.
        `retry_seconds`: the pause after a failure.
        """
        self._recorder = recorder
        self._metrics = metrics
        self._sync = sync
        self._on_shared = on_shared
        self._poll_seconds = poll_seconds
        self._retry_seconds = retry_seconds if sync is None else min(retry_seconds, _RETRY_SHARED_SECONDS)
        self._are_listed = are_listed
        self._settle_seconds = settle_seconds
        self._started_at: float | None = None
        self._next_minute_at = float("-inf")
        self._next_sync_at = float("-inf")

    async def run(self) -> None:
        """Run the tasks that are due, until cancelled."""
        while True:
            done = await self.run_due(asyncio.get_running_loop().time())
            await asyncio.sleep(self._poll_seconds if done else self._retry_seconds)

    async def run_due(self, now: float) -> bool:
        """Run the tasks that are due at this time of the loop. Return False if one of them failed."""
        return all([await self._run(name, work) for name, work in self._due(now)])

    def _due(self, now: float) -> list[tuple[str, Work]]:
        due: list[tuple[str, Work]] = []
        if (sync := self._sync) is not None and now >= self._next_sync_at:
            self._next_sync_at = now + sync.interval_seconds
            due.append(("sync with other replicas", lambda _, at: sync.run(at)))
        if rows := self._metrics.ready_to_release():
            due.append(("release of held series", lambda store, at: store.release_held(rows, at)))
        if now >= self._next_minute_at:
            self._next_minute_at = now + _MINUTE
            self._metrics.refusals.flush()
            due.append(("instance-seconds", lambda store, at: store.accrue_instance_seconds(at)))
            due.append(("pruning", lambda store, at: store.prune(at)))
        # After the instance-seconds, which notice a time without an exporter.
        if self._metrics.pending and self._may_expire(now):
            due.append(("expiry", lambda store, at: store.expire(at)))
        return due

    def _may_expire(self, now: float) -> bool:
        if self._started_at is None:
            self._started_at = now
        return now >= self._started_at + self._settle_seconds and self._are_listed()

    async def _run(self, name: str, work: Work) -> bool:
        """Run a task, slice by slice. Return False if it failed; it runs again when it is due again."""
        try:
            more = True
            while more:
                applied = await self._recorder.perform(work)
                more = applied.more
                if applied.shared is not None:
                    self._on_shared(applied.shared)
        except ExporterError as exc:
            _log.warning("periodic work was postponed", extra={"task": name, "error": str(exc)})
            return False
        return True
