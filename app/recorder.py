"""The single writer: commits the events that callers submit, in batches, and does the periodic work.

The store is used by one worker thread, so a slow disk or server does not stop the event loop. Everything
else here runs in the event loop.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Final, TypeAlias

from app.documents import interruption_document
from app.domain.batch import Applied, Rollback
from app.domain.events import Event
from app.domain.outcomes import Outcome
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
from app.store.port import Store, StoredState
from app.worker_thread import WorkerThread

_MAX_QUEUE: Final = 10_000
_MAX_BATCH: Final = 128
_MIN_CALLERS_TO_WAIT_FOR: Final = 3
"""Fewer callers than these do not share a commit often enough to wait for them."""
BATCH_LINGER_SECONDS: Final = 0.0003
COMMIT_TIMEOUT_SECONDS: Final = 20.0
_PAUSE_SHARE: Final = 4.0
"""The pause after periodic work for which events have waited, as a multiple of that work's duration."""
_UNHURRIED_PAUSE_SHARE: Final = 99.0
"""The same of work without hurry: it delays one event of a hundred."""
_MAX_PAUSE_SECONDS: Final = 0.25
"""Long enough for a slow disk, and short beside the lease of a replica."""

_log = logging.getLogger(__name__)

Work: TypeAlias = Callable[[Store, float], Applied]
"""Calls the store with the current time."""
Result: TypeAlias = Outcome | UnavailableError | InternalError
Respond: TypeAlias = Callable[[Result], None]
"""Gets the outcome, which is durable, or the error. Called once, in the event loop."""


@dataclass(slots=True, eq=False)
class _Submission:
    """An event that was submitted, until it is answered."""

    event: Event
    respond: Respond
    submitted_at: float
    """By the monotonic clock."""
    answered: bool = False

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
    """Work of the store, and the function that gets its result or its exception in the event loop."""

    work: Work
    done: Callable[["_Done"], None]


@dataclass(slots=True)
class _Done:
    """The end of a job."""

    result: Applied | BaseException
    seconds: float
    state: StoredState | None
    """The stored state before the job, if the metrics have to be read again."""


def _pause_after(seconds: float, share: float) -> float:
    return min(share * seconds, _MAX_PAUSE_SECONDS)


class Recorder:
    """Commits events in the order of their arrival, all queued events at once (group commit)."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        *,
        commit_timeout_seconds: float = COMMIT_TIMEOUT_SECONDS,
        batch_linger_seconds: float = BATCH_LINGER_SECONDS,
        pause_after: Callable[[float, float], float] = _pause_after,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`commit_timeout_seconds`: the time after which a request whose commit is not done is refused.

        `batch_linger_seconds`: the time that a batch waits for callers who were answered to push again.
        `pause_after` returns the pause after a slice of periodic work for which events have waited: from its
        duration, and the usual multiple of that.
        """
        self._store = store
        self._metrics = metrics
        self._commit_timeout_seconds = commit_timeout_seconds
        self._batch_linger_seconds = batch_linger_seconds
        self._pause_after = pause_after
        self._clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        """None before `run`."""
        self._worker = WorkerThread("store")
        self._submissions: deque[_Submission] = deque()
        self._jobs: deque[_Job] = deque()
        """Periodic work, in slices."""
        self._jobs_wait_until = 0.0
        """The time before which no further slice starts, by the monotonic clock."""
        self._alarm: asyncio.TimerHandle | None = None
        """It starts the next slice if nothing else does."""
        self._batch: Sequence[_Submission] = ()
        """The events in the commit."""
        self._active_callers = 0
        """An estimate of the callers that push one event after the other."""
        self._answered_at = 0.0
        """The time of the newest answer to them."""
        self._lingering = False
        """A batch waits for more events; in the next turn of the loop it may start."""
        self._stopping = False
        self._drained = asyncio.Event()
        """Set when nothing is left to do after `close`."""
        self._busy_since: float | None = None
        """The start of the work that is in progress, by the monotonic clock."""
        self._bug: BaseException | None = None
        """The exception that has ended the writer."""
        self._stale = False
        self._overflowed = False
        self.fatal = asyncio.Event()
        """Set after an error that only a restart can correct."""
        self.fatal_error = ""
        """The message of that error."""

    @property
    def queue_length(self) -> int:
        """The number of events whose commit has not begun."""
        return len(self._submissions)

    @property
    def stuck_seconds(self) -> float:
        """The time for which the present work has been running; 0 without work."""
        return 0.0 if self._busy_since is None else time.monotonic() - self._busy_since

    @property
    def is_idle(self) -> bool:
        """True if no work of the store is in progress."""
        return self._busy_since is None

    def submit(self, event: Event, respond: Respond) -> None:
        """Queue an event for its commit, after which `respond` is called.

        Raises StoppingError or OverloadError; then there is no other answer.
        """
        if self._stopping:
            raise StoppingError("the exporter is stopping")
        if len(self._submissions) >= _MAX_QUEUE:
            raise OverloadError(f"{_MAX_QUEUE} events wait for their commit")
        self._submissions.append(_Submission(event, respond, time.monotonic()))
        if not self._lingering:
            self._start_next()

    async def perform(self, work: Work, *, hurries: bool = True) -> Applied:
        """Do a slice of periodic work between two batches.

        Raises an UnavailableError if the caller can try again, or InternalError for a bug.
        If events have waited for the slice before it, a pause leaves the store to events first: a long one
        if that slice did not hurry.
        """
        if self._stopping:
            raise StoppingError("the exporter is stopping")
        future: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        share = _PAUSE_SHARE if hurries else _UNHURRIED_PAUSE_SHARE
        self._jobs.append(_Job(work, partial(self._finish_periodic_work, future, share)))
        self._start_next()
        return await future

    async def run(self) -> None:
        """Commit until `close` is called and the queue is empty. Only a bug of its own ends it earlier."""
        self._loop = asyncio.get_running_loop()
        timeouts = asyncio.create_task(self._watch_commits())
        try:
            self._start_next()
            await self._drained.wait()
            if self._bug is not None:
                raise self._bug
        finally:
            timeouts.cancel()
            self._worker.close()

    def close(self, seconds: float = inf) -> None:
        """Refuse new events and work. `run` ends once everything that was accepted is answered.

        What is not committed after `seconds` is refused.
        """
        self._stopping = True
        if self._loop is not None and seconds < inf:
            self._loop.call_later(seconds, self._give_up)
        self._start_next()

    def _give_up(self) -> None:
        """Leave a commit that hangs. It may still succeed; its events are redelivered."""
        if not self._drained.is_set():
            _log.error(
                "the store did not finish its work; the exporter ends without it",
                extra={
                    "seconds": round(self.stuck_seconds, 1),
                    "events": len(self._batch) + self.queue_length,
                },
            )
            self._refuse_all(StoreSlowError("the exporter ends before the commit is done"))
            self._drained.set()

    def lose_store(self, exc: StoreLostError) -> None:
        """Note an error that only a restart can correct. The process ends then."""
        if not self.fatal.is_set():
            _log.error(
                "the store cannot be used until a restart; the exporter ends",
                extra={"error": str(exc)},
            )
            self.fatal_error = str(exc)
            self.fatal.set()

    def _start_next(self) -> None:
        """Start the next work, if there is some and none is in progress."""
        if self._busy_since is not None or self._loop is None:
            return
        pause = 0.0 if self._stopping else self._jobs_wait_until - time.monotonic()
        if self._jobs and pause <= 0:
            self._start(self._jobs.popleft())
        elif self._submissions:
            if not self._wait_for_more():
                size = min(len(self._submissions), _MAX_BATCH)
                self._start_batch([self._submissions.popleft() for _ in range(size)])
        elif self._jobs:
            if self._alarm is None:
                self._alarm = self._loop.call_later(pause, self._end_pause)
        elif self._stopping:
            self._drained.set()

    def _end_pause(self) -> None:
        self._alarm = None
        self._start_next()

    def _wait_for_more(self) -> bool:
        """Wait briefly, and return True, while fewer events are queued than there were active callers.

        Larger batches share the fixed cost of a commit. Waiting also keeps callers from splitting into two
        groups that take turns.
        """
        callers = min(self._active_callers, _MAX_BATCH)
        if callers < _MIN_CALLERS_TO_WAIT_FOR or len(self._submissions) >= callers or self._stopping:
            return False
        quiet_since = max(self._answered_at, self._submissions[-1].submitted_at)
        if time.monotonic() - quiet_since > self._batch_linger_seconds:
            return False
        if not self._lingering and self._loop is not None:
            self._lingering = True
            self._loop.call_soon(self._end_wait)
        return True

    def _end_wait(self) -> None:
        self._lingering = False
        self._start_next()

    def _start_batch(self, submissions: Sequence[_Submission]) -> None:
        batch = self._batch = [submission for submission in submissions if not submission.answered]
        if not batch:
            self._start_next()
            return
        events = [submission.event for submission in batch]
        self._start(_Job(lambda store, now: store.apply(events, now), partial(self._finish_batch, batch)))

    def _start(self, job: _Job) -> None:
        self._busy_since = time.monotonic()
        self._worker.start(partial(self._do, job))

    def _do(self, job: _Job) -> None:
        """Do the work. This runs in the worker thread."""
        began = time.perf_counter()
        state: StoredState | None = None
        result: Applied | BaseException
        try:
            if self._stale:
                state = self._store.state()
            result = job.work(self._store, self._clock())
        except BaseException as exc:  # noqa: BLE001 - whoever waits gets it
            result = exc
        done = _Done(result, time.perf_counter() - began, state)
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            self._loop.call_soon_threadsafe(self._finish, job, done)  # type: ignore[union-attr]

    def _finish(self, job: _Job, done: _Done) -> None:
        try:
            self._busy_since = None
            if done.state is not None:
                self._metrics.restore(done.state)
                self._report_rollback(done.state.rollback)
                self._stale = False
            if isinstance(done.result, StoreUnavailableError):
                self._stale = True
                if isinstance(done.result, StoreLostError):
                    self.lose_store(done.result)
            elif isinstance(done.result, Applied):
                self._show(done.result)
            job.done(done)
            self._start_next()
        except Exception as exc:  # noqa: BLE001 - `run` raises it
            self._bug = exc
            self._stopping = True
            # Nobody else would answer them.
            self._refuse_all(InternalError("the writer has ended; the log has the trace"))
            self._drained.set()

    def _refuse_all(self, exc: UnavailableError | InternalError) -> None:
        _fail([*self._batch, *self._submissions], exc)
        self._submissions.clear()
        while self._jobs:
            self._jobs.popleft().done(_Done(exc, 0.0, None))

    def _show(self, applied: Applied) -> None:
        self._metrics.show(applied)
        self._report_rollback(applied.rollback)
        if applied.overflowed and not self._overflowed:
            self._overflowed = True  # the metric counts them; one line is enough for the log
            _log.warning(
                "events of new label sets are counted under `other`; raise prometheus.max_label_sets"
            )
        if applied.counted:
            lines = [interruption_document(interruption) for interruption in applied.counted]
            _log.info("interruption counted", extra={"each": lines})

    def _finish_batch(self, batch: Sequence[_Submission], done: _Done) -> None:
        self._batch = ()
        if isinstance(done.result, Applied):
            self._metrics.commit_seconds.observe(done.seconds)
            for submission, outcome in zip(batch, done.result.outcomes, strict=True):
                submission.answer(outcome)
            self._active_callers = len(batch) + len(self._submissions)
            self._answered_at = time.monotonic()
        elif isinstance(done.result, StoreUnavailableError):
            _fail(batch, done.result)
        elif len(batch) == 1:
            name = str(batch[0].event.name)
            _log.error("an event could not be recorded", extra={"event": name}, exc_info=done.result)
            _fail(batch, InternalError("the event could not be recorded; the log has the trace"))
        else:
            # Halve it until the event that meets the bug is alone.
            middle = len(batch) // 2
            self._submissions.extendleft(reversed(batch[middle:]))
            self._start_batch(batch[:middle])

    def _finish_periodic_work(self, future: "asyncio.Future[Applied]", share: float, done: _Done) -> None:
        if self._submissions:
            self._jobs_wait_until = time.monotonic() + self._pause_after(done.seconds, share)
        if future.done():  # cancelled
            return
        if isinstance(done.result, Applied):
            future.set_result(done.result)
        elif isinstance(done.result, UnavailableError | InternalError):
            future.set_exception(done.result)
        else:
            _log.error("periodic work failed", exc_info=done.result)
            future.set_exception(InternalError("periodic work failed; the log has the trace"))

    def _report_rollback(self, rollback: Rollback | None) -> None:
        if rollback is not None:
            self._metrics.count_store_reset()
            _log.warning(
                "the store has gone back to older data; no counter was lowered, but events that were recorded"
                " in the lost time are counted again if they are delivered again, and interruptions that"
                " became pending in that time are lost",
                extra={
                    "lost_since": None if rollback.since is None else rfc3339(rollback.since),
                    "lost_until": None if rollback.until is None else rfc3339(rollback.until),
                },
            )

    async def _watch_commits(self) -> None:
        """Refuse events whose commit takes too long, and log that the store hangs.

        A refused event may still be committed.
        """
        limit, logged = self._commit_timeout_seconds, None
        while True:
            await asyncio.sleep(limit / 20)
            oldest = time.monotonic() - limit
            waiting = (*self._batch, *self._submissions)
            late = [submission for submission in waiting if submission.submitted_at < oldest]
            _fail(late, StoreSlowError(f"the commit was not done in {limit:g} s"))
            if self._busy_since != logged and self.stuck_seconds > limit:
                logged = self._busy_since
                _log.warning(
                    "the store hangs; pushes are refused until it continues",
                    extra={"seconds": round(self.stuck_seconds, 1), "events": len(waiting)},
                )


def _fail(batch: Sequence[_Submission], exc: UnavailableError | InternalError) -> None:
    for submission in batch:
        submission.answer(exc)
