"""The store's operations. Each is written once, over a transaction of any backend."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from math import inf
from typing import Final, TypeVar
from uuid import uuid4

from app.domain.batch import Applied, event_keys_of, identities_of, with_project_id
from app.domain.events import Event, InstanceInterrupted, Listed
from app.domain.instances import PendingInterruption
from app.domain.reconcile import may_end_unlisted
from app.domain.times import rfc3339
from app.domain.totals import Totals
from app.errors import StoreUnavailableError
from app.store.memory import Outage, downtime_at, has_jumped
from app.store.port import (
    Backend,
    Listing,
    NotLeadingError,
    SharedBackend,
    StoredState,
    Transaction,
    Unlisted,
)

_log = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_ACCRUED_SECONDS: Final = 3600.0
"""The most that one call adds per instance. The exporter knows nothing about a longer gap."""
_MAX_TRIES: Final = 3
"""Attempts to end the grace period of an interruption that meets a bug."""
_DAY_SECONDS: Final = 86400.0
_NOTHING_UNLISTED: Final = Unlisted((), None)


class Engine:
    """See `app.store.port.Store`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._memory = backend.memory
        self._listings: dict[str, Listing] = {}
        """The listings that have begun, by project."""
        self._bugs: Counter[str] = Counter()
        """The number of times that a pending interruption has met a bug, by event key."""

    def state(self) -> StoredState:
        self._backend.connect()
        memory = self._memory
        lease_ends_at = inf if memory.lease_ends_at is None else memory.lease_ends_at
        return StoredState(
            memory.snapshot(), memory.pending, dict(memory.listed), lease_ends_at, memory.take_rollback()
        )

    def apply(self, events: Sequence[Event], now: float) -> Applied:
        applied, self._memory.projects = self._backend.transact(partial(self._decide, events), now)
        return self._memory.commit(applied)

    def recover(self, events: Sequence[InstanceInterrupted], settle_seconds: float, now: float) -> Applied:
        def work(transaction: Transaction) -> tuple[Applied, Mapping[str, str]]:
            batch = transaction.batch
            beat_at = transaction.read_clock("accrued_until")
            since, oldest = self._keys_complete_since(transaction, beat_at, now)
            outage = _outage(beat_at, now) or self._memory.outage
            transaction.load((), event_keys_of(events))
            unseen = [event for event in events if event.key not in batch.event_keys and event.at >= oldest]
            past = [event for event in unseen if event.at < since]
            if past:
                self._add_past(past, transaction)
            counted = [event for event in unseen if event.at >= since]
            return self._decide(
                [event for event in counted if outage.time_without(event.at, now) > settle_seconds],
                transaction,
            )

        applied, self._memory.projects = self._transact_as_leader(work, now)
        return self._memory.commit(applied)

    def expire(self, now: float) -> Applied:
        skipped: set[str] = set()
        while True:
            tried: list[PendingInterruption] = []
            try:
                work = partial(self._expire, skipped, tried)
                return self._if_leading(partial(self._backend.transact, work, now, leading=True))
            except StoreUnavailableError:
                raise
            except Exception:
                if not tried:
                    raise
                skipped.add(tried[-1].event.key)
                self._note_bug(tried[-1])

    def _expire(
        self, skipped: Collection[str], tried: list[PendingInterruption], transaction: Transaction
    ) -> Applied:
        """End the grace of a slice, without the skipped keys; add each interruption to `tried` before."""
        due, outcomes = transaction.load_due(), []
        for pending in due.pending:
            key = pending.event.key
            if key in skipped:
                if self._bugs[key] >= _MAX_TRIES:
                    transaction.batch.put_off(pending)
                continue
            tried.append(pending)
            outcome = transaction.batch.end_grace(pending)
            if outcome is not None:
                outcomes.append(outcome)
        applied = transaction.batch.applied(outcomes)
        applied.more = due.more
        return applied

    def _note_bug(self, pending: PendingInterruption) -> None:
        """Log the exception that a pending interruption has just met."""
        key = pending.event.key
        self._bugs[key] += 1
        if self._bugs[key] == _MAX_TRIES:
            _log.exception(
                "a pending interruption cannot be counted because of a bug; it gets another grace period",
                extra={"event": str(pending.event.name), "key": key},
            )

    def accrue_instance_seconds(self, now: float) -> Applied:
        return self._if_leading(partial(self._accrue, now))

    def _accrue(self, now: float) -> Applied:
        def work(transaction: Transaction) -> tuple[Applied, float, float | None]:
            since, changes = transaction.read_clock("accrued_until"), transaction.batch.totals
            self._keys_complete_since(transaction, since, now)
            elapsed = 0.0
            # The totals of a restored backup are reset: an earlier process has counted the time since then.
            if since is not None and not self._memory.counts_from_now:
                elapsed = min(max(now - since, 0.0), _MAX_ACCRUED_SECONDS)
            for row in self._memory.totals.label_sets.values() if elapsed else ():
                if row.instances:
                    changes.label_set(row.labels).instance_seconds += row.instances * elapsed
            transaction.set_clock("accrued_until", now)
            downtime = downtime_at(now, self._memory.downtime, since)
            if downtime != self._memory.downtime:
                transaction.set_clock("downtime", downtime)
            if has_jumped(since, now):
                transaction.set_clock("jumped_at", now)
            return transaction.batch.applied(), downtime, since

        applied, self._memory.downtime, since = self._backend.transact(work, now, leading=True)
        self._memory.outage = _outage(since, now) or self._memory.outage
        if since is not None and has_jumped(since, now):
            self._note_jump(since, now)
        self._memory.beat_at = now
        self._memory.counts_from_now = False
        return applied

    def _note_jump(self, since: float, now: float) -> None:
        _log.warning(
            "the clock is more than a day away from the last periodic work: no exporter ran, or the clock has"
            " jumped (check it); for a day, the store deletes nothing because of its age",
            extra={"last_work_at": rfc3339(since), "clock": rfc3339(now)},
        )
        self._memory.jumped_at = now

    def prune(self, now: float) -> Applied:
        return self._if_leading(partial(self._backend.prune, self._memory.kept_since(now), now))

    def begin_listing(self, project: str, now: float) -> Applied:
        unfinished, listing = self._listings.get(project), Listing(project, uuid4().hex)

        def work(transaction: Transaction) -> Applied:
            if unfinished is not None:
                transaction.drop_listing(unfinished)
            transaction.begin_listing(listing)
            return transaction.batch.applied()

        applied = self._transact_as_leader(work, now)
        self._listings[project] = listing
        return self._memory.commit(applied)

    def record_listed(self, project: str, began: float, listed: Sequence[Listed], now: float) -> Applied:
        def work(transaction: Transaction) -> Applied:
            listing = self._listing(project, transaction)
            transaction.add_listed(listing, [instance.id for instance in listed])
            identities = [(instance.name, instance.id) for instance in listed]
            transaction.load([name for name, _ in identities], archived=identities)
            for instance in listed:
                transaction.batch.observe_listed(instance, began)
            return transaction.batch.applied()

        return self._memory.commit(self._transact_as_leader(work, now))

    def end_listing(self, project: str, began: float, unread_zones: Collection[str], now: float) -> Applied:
        def work(transaction: Transaction) -> tuple[Applied, str | None]:
            listing = self._listing(project, transaction)
            sweeps = may_end_unlisted(began, transaction.last_sweep(project))
            unlisted = transaction.load_unlisted(listing) if sweeps else _NOTHING_UNLISTED
            for name, identity in unlisted.instances:
                if name.zone not in unread_zones:
                    transaction.batch.observe_missing(name, identity, began)
            if unlisted.position is None:
                transaction.complete_listing(listing, began, swept=sweeps, whole=not unread_zones)
            return transaction.batch.applied(), unlisted.position

        applied, position = self._transact_as_leader(work, now)
        if position is None:
            del self._listings[project]
            self._memory.listed[project] = began
            if not unread_zones:
                self._memory.whole[project] = began
        else:
            self._listings[project].position = position
            applied.more = True
        return self._memory.commit(applied)

    def release_held(self, rows: Totals, now: float) -> Applied:
        def work(transaction: Transaction) -> Applied:
            changes, known = transaction.batch.totals, self._memory.totals
            for labels in rows.label_sets.keys() & known.label_sets.keys():
                changes.label_set(labels).released = True
            for cluster in rows.clusters.keys() & known.clusters.keys():
                changes.cluster(cluster).released = True
            for cluster, machine_type in rows.lifetimes.keys() & known.lifetimes.keys():
                changes.lifetime(cluster, machine_type).released = True
            return transaction.batch.applied()

        return self._memory.commit(self._backend.transact(work, now))

    def close(self) -> None:
        self._backend.close()

    def _decide(self, events: Sequence[Event], transaction: Transaction) -> tuple[Applied, Mapping[str, str]]:
        """Decide the events in order; return also the id of each project whose number is known."""
        batch, projects = transaction.batch, self._memory.projects
        taught = {event.project_number: event.name.project for event in events if event.project_number}
        learnt = {number: project for number, project in taught.items() if projects.get(number) != project}
        for number, project in learnt.items():
            for name in transaction.learn(number, project):
                batch.move(name, project)
            projects = {**projects, number: project}
        events = [with_project_id(event, projects) for event in events]
        transaction.load([event.name for event in events], event_keys_of(events), identities_of(events))
        outcomes = [batch.decide(event) for event in events]
        return batch.applied(outcomes), projects

    def _keys_complete_since(
        self, transaction: Transaction, beat_at: float | None, now: float
    ) -> tuple[float, float]:
        """Return the time since when the keys are complete, and the time before which nothing is kept.

        `beat_at`: the time up to which instance-seconds were added.
        A new store has its keys since its first periodic work, which begins with the exporter.
        """
        stored = transaction.read_clock("keys_complete_since")
        since = now if stored is None else max(stored, self._keys_left_by_clock_ahead(beat_at, now))
        if since != stored:
            transaction.set_clock("keys_complete_since", since)
        oldest = now - self._memory.rules.retention_seconds
        return max(since, oldest + _DAY_SECONDS), oldest

    def _keys_left_by_clock_ahead(self, beat_at: float | None, now: float) -> float:
        """Return the time since when keys are left, if a clock that was ahead has pruned older ones.

        The clock was ahead at that beat, and was believed. Minus infinity: nothing was pruned too early.
        """
        if beat_at is None or beat_at <= now or not has_jumped(beat_at, now):
            return -inf
        if self._memory.doubts_clock(beat_at):
            return -inf
        return min(beat_at - self._memory.rules.retention_seconds + _DAY_SECONDS, now)

    def _add_past(self, events: Sequence[InstanceInterrupted], transaction: Transaction) -> None:
        known = transaction.find_past(event_keys_of(events))
        new = [event for event in events if event.key not in known]
        transaction.load([event.name for event in new], archived=identities_of(new))
        for event in new:
            transaction.batch.add_past(event)

    def _listing(self, project: str, transaction: Transaction) -> Listing:
        listing = self._listings.get(project)
        if listing is None or transaction.is_lost(listing):
            raise StoreUnavailableError(f"the store was unavailable during the listing of project {project}")
        return listing

    def _transact_as_leader(self, work: Callable[[Transaction], T], now: float) -> T:
        try:
            return self._backend.transact(work, now, leading=True)
        except NotLeadingError:
            raise StoreUnavailableError("another replica does the periodic work now") from None

    def _if_leading(self, work: Callable[[], Applied]) -> Applied:
        """Do periodic work, or nothing if another replica does it now."""
        try:
            applied = work()
        except NotLeadingError:
            applied = Applied(pending=self._memory.pending)
        return self._memory.commit(applied)


def _outage(since: float | None, now: float) -> Outage | None:
    """Return the time without an exporter since the last beat; None if there was none."""
    return Outage(since, now) if since is not None and downtime_at(now, 0.0, since) > 0 else None


class SharedEngine(Engine):
    """See `app.store.port.SharedStore`."""

    def __init__(self, backend: SharedBackend) -> None:
        super().__init__(backend)
        self._shared_backend = backend

    def sync(self, now: float) -> Applied:
        return self._memory.commit(self._shared_backend.sync(now))
