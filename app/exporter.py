"""The exporter: everything that runs, wired together."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.batch import Shared
from app.domain.changes import Rules
from app.domain.replicas import ReplicaSettings
from app.errors import StartError, StoreLostError
from app.gcp.listing import FAILURES
from app.gcp.verification import Verification
from app.intake import Intake
from app.inventory import Inventory
from app.metrics import ENDPOINTS, Endpoint, Metrics
from app.periodic import POLL_SECONDS, RETRY_SECONDS, SETTLE_SECONDS, PeriodicTasks
from app.recorder import COMMIT_TIMEOUT_SECONDS, Recorder
from app.recovery import Recovery
from app.replica_settings import SettingsComparison
from app.settings import Settings
from app.store.opening import open_store
from app.store.port import OpenedStore
from app.store.watched import WatchedLedger
from app.turns import Turns
from app.web.problems import leaves
from app.web.push import Gate
from app.worker_thread import run_up_to

if TYPE_CHECKING:
    from app.pull import Puller

_SHUTDOWN_SECONDS: Final = 7.5
"""The time for everything that is in progress at the end: pulled messages, requests and commits together."""
_LEAST_SECONDS: Final = 0.5
"""Each of them has at least this time."""
_CLOSE_SECONDS: Final = 1.5
"""With the times above, less than the 10 s in which the process has to end."""
_DAY: Final = 86400.0
_STUCK_SECONDS: Final = 60.0
"""Longer than the slowest commit that is answered."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Overrides:
    """The values that are not settings, and that a test may replace: the store, the clock, the timeouts."""

    open_store: Callable[..., OpenedStore] = open_store
    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    """The clock of the certificates, and of the time for which a new series is held."""
    commit_timeout_seconds: float = COMMIT_TIMEOUT_SECONDS
    shortest_pause_seconds: float = 60.0
    page_seconds: float = 90.0
    settle_seconds: float = SETTLE_SECONDS
    direct_pushes: bool = True
    """Pushes do not go through uvicorn and ASGI."""
    poll_seconds: float = POLL_SECONDS
    retry_seconds: float = RETRY_SECONDS
    first_pause_seconds: float = 1.0
    """The first pause of the pulling after a failure."""
    extension_seconds: int = 20
    """Longest time by which the lease of a pulled message is extended, 10 or more. After a crash, Pub/Sub
    delivers the message again when its lease ends."""
    examine_seconds: float = 10.0
    """Longest time for one look at a subscription."""
    shutdown_seconds: float = _SHUTDOWN_SECONDS


DEFAULTS: Final = Overrides()


class Exporter:
    """Everything that runs, wired together, and its health."""

    def __init__(
        self, settings: Settings, *, reset_totals: bool = False, overrides: Overrides = DEFAULTS
    ) -> None:
        """Open the store. Raises StartError."""
        self.settings = settings
        self.direct_pushes = overrides.direct_pushes
        self.verification = self._make_verification(overrides.monotonic)
        self.clock = overrides.clock
        self.metrics = Metrics(
            cluster_label=settings.prometheus.cluster_label,
            hold_seconds=settings.prometheus.hold_seconds,
            reasons=[leaf.reason for leaf in leaves()],
            projects=_projects(settings),
            listing_failures=FAILURES,
            recovered_projects=_recovered_projects(settings),
            monotonic=overrides.monotonic,
            clock=overrides.clock,
        )
        opened = _open_store(settings, overrides, reset_totals=reset_totals)
        if opened.moved_aside_to is not None:
            self.metrics.count_store_reset()
        self.store = opened.store
        self._sync = opened.sync
        self._overrides = overrides
        self.recorder = Recorder(
            self.store,
            self.metrics,
            commit_timeout_seconds=overrides.commit_timeout_seconds,
            clock=overrides.clock,
        )
        self.ledger = WatchedLedger(opened.ledger, self._lose_store)
        self.gate = Gate()
        self.stopping = False
        self._end_by: float | None = None
        """The time, by the loop's clock, by which everything in progress has to end; None if not stopping."""
        state = self.store.state()
        self.metrics.restore(state)
        turns = Turns(overrides.page_seconds)
        self.inventory = Inventory(
            _projects(settings),
            self.recorder,
            self.metrics,
            enabled=settings.inventory.enabled,
            remembered=state.listed,
            interval_seconds=settings.inventory.interval_seconds,
            endpoint=settings.inventory.endpoint,
            turns=turns,
            shortest_pause_seconds=overrides.shortest_pause_seconds,
            page_seconds=overrides.page_seconds,
            poll_seconds=overrides.poll_seconds,
            clock=overrides.clock,
        )
        self.puller = self._make_puller(overrides)
        self._recovery = Recovery(
            _recovered_projects(settings),
            self.recorder,
            self.metrics,
            self.inventory,
            turns,
            interval_seconds=settings.recovery.interval_seconds,
            settle_seconds=settings.recovery.settle_seconds,
            endpoint=settings.inventory.endpoint,
            page_seconds=overrides.page_seconds,
            poll_seconds=overrides.poll_seconds,
        )
        self._comparison = SettingsComparison(_published(settings))
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._loop: asyncio.AbstractEventLoop | None = None

    def _lose_store(self, exc: StoreLostError) -> None:
        """Note, from any thread, an error that only a restart can correct."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self.recorder.lose_store, exc)

    def _update_from_replicas(self, shared: Shared) -> None:
        self._comparison.compare(shared.replicas)
        self.inventory.update_from_replicas(shared)
        if self.settings.recovery.enabled:
            self._recovery.replace_projects(self.inventory.projects)

    def _make_puller(self, overrides: Overrides) -> "Puller | None":
        if self.settings.pubsub.delivery == "push":
            return None
        try:
            from app.pull import Puller, Subscription  # noqa: PLC0415 - of an extra, and only for this way
        except ModuleNotFoundError as exc:
            raise StartError(
                f"pubsub.delivery pull needs the extra `pull` ({exc.name} is not installed); install it with"
                " pip install '.[pull]' in the checkout"
            ) from exc
        subscriptions = zip(ENDPOINTS, self.settings.pulled_subscriptions, strict=True)
        return Puller(
            [
                Subscription(
                    self.intake(endpoint),
                    subscription,
                    self.settings.server.max_body_bytes,
                    overrides.first_pause_seconds,
                    overrides.extension_seconds,
                    overrides.examine_seconds,
                )
                for endpoint, subscription in subscriptions
            ]
        )

    def intake(self, endpoint: Endpoint) -> Intake:
        """Return the intake of an endpoint's messages."""
        return Intake(
            endpoint, self.recorder, self.metrics.pushes[endpoint], self.inventory.request, self.clock
        )

    def _make_verification(self, monotonic: Callable[[], float]) -> Verification | None:
        pubsub = self.settings.pubsub
        if not pubsub.authenticates_pushes:
            return None
        return Verification(
            certs_url=pubsub.certs_url,
            audiences=pubsub.audience,
            accounts=pubsub.service_account_email,
            clock_skew_seconds=pubsub.clock_skew_seconds,
            monotonic=monotonic,
        )

    def unhealthy_reason(self) -> str | None:
        """Return the reason for which a restart is needed, or None while the writer and the tasks run."""
        ended = [task.get_name() for task in self._tasks if task.done()]
        if ended or not self._tasks:
            return f"a part of the exporter is not running: {', '.join(ended) or 'the writer'}"
        if self.recorder.stuck_seconds > _STUCK_SECONDS:
            return f"the store has not finished a commit or a read for {_STUCK_SECONDS:g} s"
        return None

    def not_ready_reasons(self) -> Sequence[str]:
        """Return the reasons for which some interruptions cannot be attributed at once."""
        if self.stopping:
            return ["the exporter is stopping"]
        pulling = self.puller.problems() if self.puller is not None else ()
        return [*pulling, *self.inventory.not_ready_reasons()]

    async def stop_pulling(self) -> None:
        """Stop pulling: commit what was taken, and hand back the rest. With push delivery, do nothing."""
        if self.puller is not None:
            await self.puller.stop()

    def begin_end(self, spent_seconds: float = 0.0) -> None:
        """Begin the time that everything in progress has. `spent_seconds` of it have passed already."""
        self._end_by = asyncio.get_running_loop().time() + self._overrides.shutdown_seconds - spent_seconds

    def seconds_left(self) -> float:
        """Return the rest of that time, which begins with the first call if it has not begun."""
        if self._end_by is None:
            self.begin_end()
        assert self._end_by is not None  # noqa: S101 - it has begun
        return max(self._end_by - asyncio.get_running_loop().time(), _LEAST_SECONDS)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the writer and the periodic work; at the end, commit what was accepted and close the store."""
        writer = asyncio.create_task(self.recorder.run(), name="writer")
        tasks = PeriodicTasks(
            self.recorder,
            self.metrics,
            sync=self._sync,
            on_shared=self._update_from_replicas,
            are_listed=self.inventory.are_listed,
            settle_seconds=self._overrides.settle_seconds,
            poll_seconds=self._overrides.poll_seconds,
            retry_seconds=self._overrides.retry_seconds,
        )
        periodic = [
            asyncio.create_task(tasks.run(), name="periodic work"),
            asyncio.create_task(self.inventory.run(), name="inventory"),
            asyncio.create_task(self._recovery.run(), name="recovery"),
        ]
        pulling = [asyncio.create_task(self.puller.run(), name="pulling")] if self.puller is not None else []
        self._tasks = (writer, *periodic, *pulling)
        self._loop = asyncio.get_running_loop()
        for task in self._tasks:
            task.add_done_callback(log_failure)
        try:
            yield
        finally:
            await self.stop_pulling()
            for task in (*periodic, *pulling):
                task.cancel()
            await asyncio.wait([*periodic, *pulling])
            self.recorder.close(self.seconds_left())
            await asyncio.wait([writer])
            if self.verification is not None:
                await self.verification.aclose()
            if self.recorder.is_idle:  # else it hangs in its last work
                await self._close_store()

    async def _close_store(self) -> None:
        """Close the store. Leave it if that hangs; each start can use it as it is."""

        def close() -> None:
            try:
                self.store.close()
            except Exception:  # noqa: BLE001 - the exporter ends all the same
                _log.exception("the store could not be closed")

        if not await run_up_to(_CLOSE_SECONDS, "closing", close):
            _log.error("the store could not be closed in time", extra={"seconds": _CLOSE_SECONDS})

    async def wait_until_fatal(self) -> str:
        """Wait until a restart is needed, and return the reason."""
        fatal = asyncio.create_task(self.recorder.fatal.wait())
        try:
            await asyncio.wait([fatal, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            fatal.cancel()
        return self.recorder.fatal_error or str(self.unhealthy_reason())


def log_failure(task: asyncio.Task[None]) -> None:
    """Log why a task has ended that should run for ever."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error(
            "a part of the exporter has failed; the exporter ends",
            extra={"task": task.get_name()},
            exc_info=error,
        )


def _open_store(settings: Settings, overrides: Overrides, *, reset_totals: bool) -> OpenedStore:
    """Open the store, and log its warnings. Raises StartError."""
    opened = overrides.open_store(
        settings.store.url,
        Rules(
            grace_seconds=settings.attribution.grace_seconds,
            retention_seconds=settings.store.retention_days * _DAY,
            max_label_sets=settings.prometheus.max_label_sets,
        ),
        key_prefix=settings.store.key_prefix,
        replica=settings.store.replica,
        settings=_published(settings),
        hold=settings.prometheus.hold_seconds > 0,
        reset_totals=reset_totals,
    )
    if reset_totals:
        _log.warning(
            "--reset-totals: this exporter's counters start at 0, everything else is kept;"
            " remove the option, because every start with it resets them"
        )
    for warning in opened.warnings:
        _log.warning("the store may lose events or counts", extra={"detail": warning})
    return opened


def _projects(settings: Settings) -> Sequence[str]:
    return settings.project_ids if settings.inventory.enabled else ()


def _recovered_projects(settings: Settings) -> Sequence[str]:
    return _projects(settings) if settings.recovery.enabled else ()


def _published(settings: Settings) -> ReplicaSettings:
    """Return the settings that all replicas should share."""
    return ReplicaSettings.make(
        _projects(settings),
        {
            "attribution.grace_seconds": settings.attribution.grace_seconds,
            "store.retention_days": settings.store.retention_days,
            "prometheus.max_label_sets": settings.prometheus.max_label_sets,
            "prometheus.cluster_label": settings.prometheus.cluster_label,
            "inventory.enabled": settings.inventory.enabled,
            "recovery.enabled": settings.recovery.enabled,
        },
    )
