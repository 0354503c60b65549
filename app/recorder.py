"""The single writer: commits the events that requests hand it, in batches, and does the periodic work.

The event loop's own thread decides a batch: two threads that run Python spend more on each other's caches and
on the interpreter's lock than on the batch. Blocking work, for a disk or for other machines, runs in one
worker thread.
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

from app.domain.batch import Applied, Rollback
from app.domain.events import Event
from app.domain.outcomes import Counted, Outcome
from app.domain.times import rfc3339
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
from app.store.port import Prepared, Store
from app.worker_thread import WorkerThread

_MAX_QUEUE: Final = 10_000
_MAX_BATCH: Final = 128
"""The event loop does nothing else while it handles a batch."""
_MIN_BATCH_TO_ENCODE_AHEAD: Final = 8
"""Below this batch size, encoding the answers takes less time than starting the commit thread."""
_MAX_LOG_DELAY_SECONDS: Final = 0.02
BATCH_LINGER_SECONDS: Final = 0.0003
COMMIT_TIMEOUT_SECONDS: Final = 20.0

_log = logging.getLogger(__name__)

Work: TypeAlias = Callable[[Store, float], Applied]
"""Calls the store with the current time."""
Result: TypeAlias = Outcome | UnavailableError | InternalError


@dataclass(slots=True, eq=False)
class Submission(ABC):
    """An event that was submitted, until it is answered."""

    event: Event
    submitted_at: float = field(default=0.0, init=False)
    """By the monotonic clock."""
    answered: bool = field(default=False, init=False)

    def prepare_answer(self, outcome: Outcome) -> None:  # noqa: B027 - optional
        """Encode the answer to this outcome, which is valid only if the commit succeeds."""

    @abstractmethod
    def respond(self, result: Result) -> None:
        """Send the answer: the outcome, which is durable, or the error that `record` raises. Called once."""

    def answer(self, result: Result) -> None:
        """Respond, unless that was done before."""
        if not self.answered:
            self.answered = True
            try:
                self.respond(result)
            except Exception:  # noqa: BLE001 - it concerns one caller, and the writer must stay alive
                _log.exception("an answer could not be sent", extra={"event": str(self.event.name)})


@dataclass(slots=True, eq=False)
class _Job:
    work: Work
    future: asyncio.Future[Applied]


@dataclass(slots=True)
class _Queue:
    submissions: deque[Submission] = field(default_factory=deque)
    jobs: deque[_Job] = field(default_factory=deque)

    def __bool__(self) -> bool:
        return bool(self.submissions or self.jobs)


class Recorder:
    """Commits events in the order of their arrival, all queued events at once (group commit)."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        *,
        commit_timeout_seconds: float = COMMIT_TIMEOUT_SECONDS,
        batch_linger_seconds: float = BATCH_LINGER_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`commit_timeout_seconds`: the time after which a request whose commit is not done is refused.

        `batch_linger_seconds`: the time that a batch waits for callers who were answered to push again.
        """
        self._store = store
        self._metrics = metrics
        self._commit_timeout_seconds = commit_timeout_seconds
        self._batch_linger_seconds = batch_linger_seconds
        self._clock = clock
        self._worker = WorkerThread("store")
        self._unlogged: list[Counted] = []
        self._log_timer: asyncio.TimerHandle | None = None
        self._queue = _Queue()
        self._batch: Sequence[Submission] = ()
        self._previous_batch: Sequence[Submission] = ()
        """Kept until the commit of the next batch waits for the disk, when there is time to free it."""
        self._wake = asyncio.Event()
        self._active_callers = 0
        """An estimate of the callers that push one event after the other."""
        self._answered_at = 0.0
        """The time of the newest answer to them."""
        self._stopping = False
        self._busy_since: float | None = None
        """The start of the work that is in progress, by the monotonic clock."""
        self._stale = False
        self._overflowed = False
        self.fatal = asyncio.Event()
        """Set after an error that only a restart can correct."""
        self.fatal_error = ""
        """The message of that error."""

    @property
    def queue_length(self) -> int:
        """The number of events whose commit has not begun."""
        return len(self._queue.submissions)

    async def record(self, event: Event) -> Outcome:
        """Commit an event, and return its outcome once it is durable.

        Raises an UnavailableError if the caller can try again, or InternalError for a bug.
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        submission = _AwaitedSubmission(event, future)
        self.submit(submission)
        try:
            return await future
        finally:
            submission.answered = True

    def submit(self, submission: Submission) -> None:
        """Queue an event for its commit, after which it is answered.

        Raises StoppingError or OverloadError; then there is no other answer.
        """
        if self._stopping:
            raise StoppingError("the exporter is stopping")
        queued = self._queue.submissions
        if not queued:
            self._wake.set()
        elif len(queued) >= _MAX_QUEUE:
            raise OverloadError(f"{_MAX_QUEUE} events wait for their commit")
        submission.submitted_at = time.monotonic()
        queued.append(submission)

    async def perform(self, work: Work) -> Applied:
        """Do periodic work between two batches. Raises the same errors as `record`."""
        if self._stopping:
            raise StoppingError("the exporter is stopping")
        future: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        self._queue.jobs.append(_Job(work, future))
        self._wake.set()
        return await future

    async def run(self) -> None:
        """Commit until `close` is called and the queue is empty. Only a bug of its own ends it earlier."""
        timeouts = asyncio.create_task(self._refuse_late_commits())
        try:
            while not (self._stopping and not self._queue):
                if not self._queue:
                    self._wake.clear()
                    await self._wake.wait()
                if self._queue.jobs:
                    await self._run_job(self._queue.jobs.popleft())
                if self._queue.submissions:
                    await self._wait_for_batch()
                    await self._commit(self._next_batch())
        except BaseException:
            # Nobody else would answer them.
            self._stopping = True
            self._refuse_all(InternalError("the writer has ended; the log has the trace"))
            raise
        finally:
            self._flush_log()
            if self._log_timer is not None:
                self._log_timer.cancel()
            timeouts.cancel()
            self._worker.close()

    def _refuse_all(self, exc: InternalError) -> None:
        _fail([*self._batch, *self._queue.submissions], exc)
        for job in self._queue.jobs:
            if not job.future.done():
                job.future.set_exception(exc)

    def close(self) -> None:
        """Refuse new events and work. `run` ends once everything that was accepted is answered."""
        self._stopping = True
        self._wake.set()

    def lose_store(self, exc: StoreLostError) -> None:
        """Note an error that only a restart can correct. The process ends then."""
        if not self.fatal.is_set():
            _log.error("the store cannot be used until a restart", extra={"error": str(exc)})
            self.fatal_error = str(exc)
            self.fatal.set()

    @property
    def stuck_seconds(self) -> float:
        """The time for which the present work has been running; 0 without work."""
        return 0.0 if self._busy_since is None else time.monotonic() - self._busy_since

    async def _wait_for_batch(self) -> None:
        """Wait briefly until there are as many events as there were active callers.

        Larger batches share the fixed cost of a commit. Waiting also keeps callers from splitting into two
        groups that take turns.
        """
        before, quiet_since = 0, self._answered_at
        while self.queue_length < (self._active_callers or _MAX_BATCH):
            now = time.monotonic()
            if self.queue_length > before:
                quiet_since = now if before else quiet_since
                before = self.queue_length
            elif now - quiet_since > self._batch_linger_seconds:
                break
            await asyncio.sleep(0)

    def _next_batch(self) -> Sequence[Submission]:
        queued = self._queue.submissions
        self._previous_batch = self._batch
        self._batch = [queued.popleft() for _ in range(min(len(queued), _MAX_BATCH))]
        return self._batch

    async def _commit(self, batch: Sequence[Submission]) -> None:
        """Commit a batch. If an event meets a bug, halve the batch until that event is alone."""
        batches = [batch]
        while batches:
            batch = [submission for submission in batches.pop() if not submission.answered]
            if not batch:
                continue
            try:
                applied = await self._apply(batch)
            except StoreUnavailableError as exc:
                _fail(batch, exc)
            except Exception:  # noqa: BLE001 - the writer must stay alive
                if len(batch) == 1:
                    _log.exception(
                        "an event could not be recorded", extra={"event": str(batch[0].event.name)}
                    )
                    _fail(batch, InternalError("the event could not be recorded; the log has the trace"))
                else:
                    middle = len(batch) // 2
                    batches += [batch[middle:], batch[:middle]]
            else:
                for submission, outcome in zip(batch, applied.outcomes, strict=True):
                    submission.answer(outcome)
                self._active_callers = min(len(batch) + self.queue_length, _MAX_BATCH)
                self._answered_at = time.monotonic()

    async def _apply(self, batch: Sequence[Submission]) -> Applied:
        started = time.perf_counter()
        events = [submission.event for submission in batch]
        applied = await self._execute(lambda now: self._store.prepare(events, now), batch)
        self._metrics.commit_seconds.observe(time.perf_counter() - started)
        return applied

    async def _run_job(self, job: _Job) -> None:
        failure: Exception
        try:
            applied = await self._execute(lambda now: Prepared(partial(job.work, self._store, now)))
        except StoreUnavailableError as exc:
            failure = exc
        except Exception:  # noqa: BLE001 - the writer must stay alive
            _log.exception("periodic work failed")
            failure = InternalError("periodic work failed; the log has the trace")
        else:
            if not job.future.done():
                job.future.set_result(applied)
            return
        if not job.future.done():
            job.future.set_exception(failure)

    async def _execute(
        self, prepare: Callable[[float], Prepared], batch: Sequence[Submission] = ()
    ) -> Applied:
        """Prepare in the event loop, commit in the worker thread, then update the metrics and the log."""
        self._busy_since = time.monotonic()
        try:
            if self._stale:
                state = await self._worker.run(self._store.state)
                self._metrics.restore(state)
                self._report_rollback(state.rollback)
                self._stale = False
            commit, outcomes, *garbage = prepare(self._clock())  # no other reference to the garbage
            many = len(outcomes) >= _MIN_BATCH_TO_ENCODE_AHEAD
            overlap = partial(self._encode_ahead, batch, outcomes, garbage) if many else None
            applied = await self._worker.run(commit, overlap)
        except StoreUnavailableError as exc:
            self._stale = True
            if isinstance(exc, StoreLostError):
                self.lose_store(exc)
            raise
        finally:
            self._busy_since = None
        self._metrics.show(applied)
        self._warn_of_overflow(applied)
        self._report_rollback(applied.rollback)
        self._unlogged += applied.counted
        if not many:
            self._flush_log()
        elif self._log_timer is None:
            self._log_timer = asyncio.get_running_loop().call_later(
                _MAX_LOG_DELAY_SECONDS, self._flush_log_on_timer
            )
        return applied

    def _encode_ahead(
        self, batch: Sequence[Submission], outcomes: Sequence[Outcome], garbage: list[object]
    ) -> None:
        """Do the work that can overlap with the commit: free, log, and encode the answers."""
        garbage.clear()
        self._previous_batch = ()
        self._flush_log()
        for submission, outcome in zip(batch, outcomes, strict=True):
            submission.prepare_answer(outcome)

    def _flush_log(self) -> None:
        """Log the counted interruptions. After a large batch, that is during the next commit or soon."""
        counted, self._unlogged = self._unlogged, []
        if counted:
            _log.info(
                "interruption counted", extra={"each": [_line(interruption) for interruption in counted]}
            )

    def _flush_log_on_timer(self) -> None:
        self._log_timer = None
        self._flush_log()

    def _warn_of_overflow(self, applied: Applied) -> None:
        if applied.overflowed and not self._overflowed:
            self._overflowed = True  # the metric counts them; one line is enough for the log
            _log.warning("events are counted under `other`: there are prometheus.max_label_sets label sets")

    def _report_rollback(self, rollback: Rollback | None) -> None:
        if rollback is not None:
            self._metrics.count_store_reset()
            _log.warning(
                "the store has gone back to older data; no counter was lowered, but events that were recorded"
                " in the lost time are counted again if they are delivered again",
                extra={
                    "lost_since": None if rollback.since is None else rfc3339(rollback.since),
                    "lost_until": None if rollback.until is None else rfc3339(rollback.until),
                },
            )

    async def _refuse_late_commits(self) -> None:
        """Answer requests whose commit takes too long. The commit may still succeed."""
        while True:
            await asyncio.sleep(self._commit_timeout_seconds / 20)
            oldest = time.monotonic() - self._commit_timeout_seconds
            late = [
                submission
                for submission in (*self._batch, *self._queue.submissions)
                if submission.submitted_at < oldest
            ]
            _fail(late, StoreSlowError(f"the commit was not done in {self._commit_timeout_seconds:g} s"))


def _fail(batch: Sequence[Submission], exc: UnavailableError | InternalError) -> None:
    for submission in batch:
        submission.answer(exc)


@dataclass(slots=True, eq=False)
class _AwaitedSubmission(Submission):
    """A submission whose caller awaits a future."""

    future: asyncio.Future[Outcome]

    def respond(self, result: Result) -> None:
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
        "found_by": counted.found_by,
    }
