"""The single writer: commits the events that requests hand it, in batches, and does the periodic work.

A batch is decided in the loop's own thread: two threads that run Python spend more on each other's caches and
on the interpreter's lock than on the batch. What waits, for a disk or for other machines, has a thread.
"""

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias

from app.domain.batch import Applied
from app.domain.events import Event
from app.domain.moments import rfc3339
from app.domain.outcomes import Counted, Outcome
from app.errors import (
    InternalError,
    OverloadError,
    StoppingError,
    StoreLostError,
    StoreSlowError,
    StoreUnavailableError,
    UnavailableError,
)
from app.metrics import Metrics
from app.store import Prepared, Store
from app.worker_thread import Aside

_LONGEST_QUEUE: Final = 10_000
_LARGEST_BATCH: Final = 128
"""The event loop does nothing else while it handles a batch."""
_WORTH_MAKING_READY: Final = 8
"""Fewer answers are made quicker than the commit's thread begins."""
_LONGEST_UNWRITTEN_SECONDS: Final = 0.02
LULL_SECONDS: Final = 0.0003
PATIENCE_SECONDS: Final = 20.0

_log = logging.getLogger(__name__)

Work: TypeAlias = Callable[[Store, float], Applied]
"""Something of the store's, and the time at which it is done."""
Result: TypeAlias = Outcome | UnavailableError | InternalError


@dataclass(slots=True, eq=False)
class Caller(ABC):
    """Who waits for what becomes of an event."""

    event: Event
    since: float = field(default=0.0, init=False)
    """When the event was submitted, by the monotonic clock."""
    told: bool = field(default=False, init=False)

    def expect(self, outcome: Outcome) -> None:  # noqa: B027 - not everybody has to
        """Get ready to take this outcome, if it comes to that."""

    @abstractmethod
    def take(self, result: Result) -> None:
        """Take the outcome, which is durable, or what `record` raises; called once."""

    def tell(self, result: Result) -> None:
        """Have the caller take it, unless that is done."""
        if not self.told:
            self.told = True
            try:
                self.take(result)
            except Exception:  # noqa: BLE001 - it is one caller's, and the writer must live
                _log.exception("an answer has met a bug", extra={"event": str(self.event.name)})


@dataclass(slots=True, eq=False)
class _Job:
    work: Work
    future: asyncio.Future[Applied]


@dataclass(slots=True)
class _Queue:
    events: deque[Caller] = field(default_factory=deque)
    jobs: deque[_Job] = field(default_factory=deque)

    def __bool__(self) -> bool:
        return bool(self.events or self.jobs)


class Recorder:
    """Commits events in the order in which they come, as many at once as wait (group commit)."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        lull_seconds: float = LULL_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`patience_seconds`: how long a request waits for its commit before it is told to come again.

        `lull_seconds`: how long a commit waits for callers who were answered to push again.
        """
        self._store = store
        self._metrics = metrics
        self._patience_seconds = patience_seconds
        self._lull_seconds = lull_seconds
        self._clock = clock
        self._thread = Aside("store")
        self._unwritten: list[Counted] = []
        self._writing: asyncio.TimerHandle | None = None
        self._queue = _Queue()
        self._committing: Sequence[Caller] = ()
        self._committed: Sequence[Caller] = ()
        """The batch before, to be freed while this one waits."""
        self._wake = asyncio.Event()
        self._callers = 0
        """How many seem to push one event after the other."""
        self._told_at = 0.0
        """When the newest of them were answered."""
        self._stopping = False
        self._stale = False
        self._overflowed = False
        self.lost = asyncio.Event()
        """Set once only a restart can help."""
        self.lost_by = ""
        """Why."""

    @property
    def waiting(self) -> int:
        """How many events wait for their commit to begin."""
        return len(self._queue.events)

    async def record(self, event: Event) -> Outcome:
        """Have an event committed; returns once it is durable.

        Raises an UnavailableError where it may be tried again, or InternalError for a bug.
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        caller = _Awaiting(event, future)
        self.submit(caller)
        try:
            return await future
        finally:
            caller.told = True

    def submit(self, caller: Caller) -> None:
        """Have an event committed, and its caller told.

        Raises StoppingError or OverloadError, and tells nothing then.
        """
        if self._stopping:
            raise StoppingError("the exporter is stopping")
        waiting = self._queue.events
        if not waiting:
            self._wake.set()
        elif len(waiting) >= _LONGEST_QUEUE:
            raise OverloadError(f"{_LONGEST_QUEUE} events wait for their commit")
        caller.since = time.monotonic()
        waiting.append(caller)

    async def perform(self, work: Work) -> Applied:
        """Have periodic work done between two batches; raises as `record` does."""
        if self._stopping:
            raise StoppingError("the exporter is stopping")
        future: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        self._queue.jobs.append(_Job(work, future))
        self._wake.set()
        return await future

    async def run(self) -> None:
        """Write until `close` is called and nothing waits. It ends otherwise only by a bug of its own."""
        watch = asyncio.create_task(self._watch())
        try:
            while not (self._stopping and not self._queue):
                if not self._queue:
                    self._wake.clear()
                    await self._wake.wait()
                if self._queue.jobs:
                    await self._do(self._queue.jobs.popleft())
                if self._queue.events:
                    await self._gather()
                    await self._commit(self._take())
        finally:
            self._write_lines()
            if self._writing is not None:
                self._writing.cancel()
            watch.cancel()
            self._thread.close()

    def close(self) -> None:
        """Refuse what comes from now on, and let `run` end once everything accepted is answered."""
        self._stopping = True
        self._wake.set()

    async def _gather(self) -> None:
        """Let as many events come as there were callers lately: those who were answered may soon come again.

        Of what a commit costs besides its events each event then bears less; and callers who have fallen into
        two groups, each of which waits for the other's commit, become one again.
        """
        before, quiet_since = 0, self._told_at
        while self.waiting < (self._callers or _LARGEST_BATCH):
            now = time.monotonic()
            if self.waiting > before:
                quiet_since = now if before else quiet_since
                before = self.waiting
            elif now - quiet_since > self._lull_seconds:
                break
            await asyncio.sleep(0)

    def _take(self) -> Sequence[Caller]:
        callers = self._queue.events
        self._committed = self._committing
        self._committing = [callers.popleft() for _ in range(min(len(callers), _LARGEST_BATCH))]
        return self._committing

    async def _commit(self, batch: Sequence[Caller]) -> None:
        """Commit a batch; one that meets a bug is halved until its culprit is alone, and the others pass."""
        batches = [batch]
        while batches:
            batch = [caller for caller in batches.pop() if not caller.told]
            if not batch:
                continue
            try:
                applied = await self._apply(batch)
            except StoreUnavailableError as exc:
                _fail(batch, exc)
            except Exception:  # noqa: BLE001 - the writer must live, whatever one event meets
                if len(batch) == 1:
                    _log.exception(
                        "an event could not be recorded", extra={"event": str(batch[0].event.name)}
                    )
                    _fail(batch, InternalError("the event could not be recorded; the log has the trace"))
                else:
                    middle = len(batch) // 2
                    batches += [batch[middle:], batch[:middle]]
            else:
                for caller, outcome in zip(batch, applied.outcomes, strict=True):
                    caller.tell(outcome)
                self._callers = min(len(batch) + self.waiting, _LARGEST_BATCH)
                self._told_at = time.monotonic()

    async def _apply(self, batch: Sequence[Caller]) -> Applied:
        started = time.perf_counter()
        events = [caller.event for caller in batch]
        applied = await self._carry_out(lambda now: self._store.prepare(events, now), batch)
        self._metrics.commit_seconds.observe(time.perf_counter() - started)
        return applied

    async def _do(self, job: _Job) -> None:
        failure: Exception
        try:
            applied = await self._carry_out(lambda now: Prepared(partial(job.work, self._store, now)))
        except StoreUnavailableError as exc:
            failure = exc
        except Exception:  # noqa: BLE001 - likewise
            _log.exception("periodic work has failed")
            failure = InternalError("periodic work has failed; the log has the trace")
        else:
            if not job.future.done():
                job.future.set_result(applied)
            return
        if not job.future.done():
            job.future.set_exception(failure)

    async def _carry_out(self, prepare: Callable[[float], Prepared], batch: Sequence[Caller] = ()) -> Applied:
        """Prepare it here, commit it in the store's thread, and show it before anybody is told."""
        try:
            if self._stale:
                self._metrics.restore(await self._thread.run(self._store.remembered))
                self._stale = False
            commit, outcomes, *remains = prepare(self._clock())  # nothing else holds what remains
            many = len(outcomes) >= _WORTH_MAKING_READY
            meanwhile = partial(self._make_ready, batch, outcomes, remains) if many else None
            applied = await self._thread.run(commit, meanwhile)
        except StoreUnavailableError as exc:
            self._stale = True
            if isinstance(exc, StoreLostError):
                _log.error("the store is lost to this process", extra={"error": str(exc)})
                self.lost_by = str(exc)
                self.lost.set()
            raise
        self._metrics.show(applied)
        self._warn_of_overflow(applied)
        self._unwritten += applied.counted
        if not many:
            self._write_lines()
        elif self._writing is None:
            self._writing = asyncio.get_running_loop().call_later(
                _LONGEST_UNWRITTEN_SECONDS, self._write_late
            )
        return applied

    def _make_ready(
        self, batch: Sequence[Caller], outcomes: Sequence[Outcome], remains: list[object]
    ) -> None:
        """Do what can be done while a commit waits for the disk."""
        remains.clear()
        self._committed = ()
        self._write_lines()
        for caller, outcome in zip(batch, outcomes, strict=True):
            caller.expect(outcome)

    def _write_lines(self) -> None:
        """Tell the log what was counted: of many, while the next commit waits, or after a moment."""
        counted, self._unwritten = self._unwritten, []
        if counted:
            _log.info("interruption counted", extra={"each": [_line(one) for one in counted]})

    def _write_late(self) -> None:
        self._writing = None
        self._write_lines()

    def _warn_of_overflow(self, applied: Applied) -> None:
        if applied.overflowed and not self._overflowed:
            self._overflowed = True  # the metric tells how often; once is enough for the log
            _log.warning("events are counted under `other`: there are prometheus.max_label_sets label sets")

    async def _watch(self) -> None:
        """Answer requests whose commit takes too long; it may still come."""
        while True:
            await asyncio.sleep(self._patience_seconds / 20)
            oldest = time.monotonic() - self._patience_seconds
            late = [caller for caller in (*self._committing, *self._queue.events) if caller.since < oldest]
            _fail(late, StoreSlowError(f"the commit was not done in {self._patience_seconds:g} s"))


def _fail(batch: Sequence[Caller], exc: UnavailableError | InternalError) -> None:
    for caller in batch:
        caller.tell(exc)


@dataclass(slots=True, eq=False)
class _Awaiting(Caller):
    """A caller that awaits a future."""

    future: asyncio.Future[Outcome]

    def take(self, result: Result) -> None:
        if self.future.done():  # cancelled a moment ago
            return
        if isinstance(result, Exception):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


def _line(counted: Counted) -> dict[str, object]:
    project, zone, instance = counted.name
    cluster, cluster_location, node_pool, machine_type = counted.node
    return {
        "project": project,
        "kubernetes_cluster": cluster,
        "cluster_location": cluster_location,
        "node_pool": node_pool,
        "zone": zone,
        "machine_type": machine_type,
        "instance": instance,
        "instance_id": counted.id,
        "interrupted_at": rfc3339(counted.at),
        "age_seconds": None if counted.age is None else round(counted.age, 3),
        "counted_as": counted.counted_as,
        "released_by": counted.released_by,
    }
