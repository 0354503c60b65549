"""A batch of events: it decides them in order, over rows that the store has read, and collects the changes.

Each store reads the rows of the events' names, and those that `event_keys_of` and `identities_of` name. It
decides the events, writes the changes, and commits.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, assert_never

from app.domain import attribution, interruptions, moves, reconcile
from app.domain.changes import (
    AddPending,
    Attribute,
    Change,
    Decision,
    EnsureSeries,
    Known,
    ReleasePending,
    RemoveInstance,
    Rules,
    StoreInstance,
)
from app.domain.draft import created_at_or_start_of_time, start_identity_of
from app.domain.events import (
    CreationFailed,
    Event,
    Ignored,
    InstanceCreated,
    InstanceDeleted,
    InstanceInterrupted,
    InstanceName,
    Listed,
)
from app.domain.failures import is_final_failure
from app.domain.instances import OTHER_LABELS, UNDESCRIBED, Instance, Labels, PendingInterruption
from app.domain.outcomes import Counted, Outcome
from app.domain.replicas import ReplicaSettings
from app.domain.totals import Totals, TotalsDelta

KEYLESS: Final = (CreationFailed, InstanceDeleted)
"""The events that change nothing the second time, so they need no key."""
_WITH_OPERATION: Final = (InstanceCreated, CreationFailed)


@dataclass(frozen=True, slots=True)
class Shared:
    """The state that several replicas of the exporter share, as it was last read."""

    lease_ends_at: float
    """End of this replica's lease, by the monotonic clock. The leader does the periodic work."""
    requested: Collection[str] = ()
    """Projects whose requested listing has not begun; empty unless this replica leads."""
    last_listed_at: Mapping[str, float] = field(default_factory=dict)
    """For each project that a living replica lists, the time when its last complete listing began."""
    replicas: Mapping[str, ReplicaSettings] = field(default_factory=dict)
    """The settings of the other living replicas, by name."""


@dataclass(frozen=True, slots=True)
class Rollback:
    """A store that has gone back to older data: restored, failed over, or flushed.

    Events that were recorded in the lost time are counted again if they are delivered again.
    """

    since: float | None
    """Time of the newest commit of this process that the store still has; None if it has none."""
    until: float | None
    """Time of the newest commit of this process; None if there is none."""


@dataclass(slots=True)
class Applied:
    """The effects of a commit, for the callers, the log and the metrics."""

    outcomes: Sequence[Outcome] = ()
    """One outcome per event, in the order of the events."""
    counted: Sequence[Counted] = ()
    """All counted interruptions, including those that were pending before."""
    changed: Totals = field(default_factory=Totals)
    """The new values of all totals that changed."""
    removed: Totals = field(default_factory=Totals)
    """Totals that were removed."""
    released: Mapping[str, int] = field(default_factory=dict)
    """Number of pending interruptions that were released, by the cause of the release."""
    overflowed: int = 0
    """Number of events that were committed under `other`."""
    pending: int = 0
    """Number of pending interruptions after the commit."""
    shared: Shared | None = None
    """The state that replicas share; None if it was not read."""
    rollback: Rollback | None = None
    """Reported once, by the first commit after it."""
    more: bool = False
    """The periodic work is not complete: call again."""


def event_keys_of(events: Iterable[Event]) -> list[str]:
    """Return the event keys that the store must look up for these events."""
    return [event.key for event in events if not isinstance(event, KEYLESS)]


def identities_of(events: Iterable[Event]) -> list[tuple[InstanceName, str]]:
    """Return names and identities by which the store must look up archived incarnations for these events."""
    return [(event.name, identity) for event in events for identity in _identities_of(event)]


def _identities_of(event: Event) -> Sequence[str]:
    identities = [event.id] if event.id else []
    if isinstance(event, _WITH_OPERATION) and event.operation:
        identities.append(start_identity_of(event.operation))
    return identities


def with_project_id(event: Event, projects: Mapping[str, str]) -> Event:
    """Return the event with the project's id in its instance name, if `projects` has an id for the number."""
    project = projects.get(event.name.project)
    return event if project is None else replace(event, name=event.name._replace(project=project))


MAX_INCARNATIONS: Final = 8
"""Largest number of incarnations of one name that every event of the name reads."""


class Batch:
    """Rows that the store has read, changed in memory by one decision after the other."""

    def __init__(
        self,
        totals: TotalsDelta,
        rules: Rules,
        now: float,
        *,
        pending: int = 0,
        downtime: float = 0.0,
        listed: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """`pending`: the number of pending interruptions before the batch.

        `downtime`: the seconds for which no grace period ran.

        `listed`: for each project, when its last complete listing of all zones began.
        """
        self.totals = totals
        self.event_keys: dict[str, bool] = {}
        """Recorded event keys. True: an event of this batch had the key, and the store must write it."""
        self.instances: dict[tuple[InstanceName, str], Instance | None] = {}
        """Incarnations to write; None: remove the row."""
        self.archived: dict[tuple[InstanceName, str], Instance | None] = {}
        """Archived incarnations to write; None: remove the row."""
        self.pending_interruptions: dict[str, PendingInterruption | None] = {}
        """Pending interruptions to write, by event key; None: remove the row."""
        self.counted: list[tuple[Counted, str]] = []
        """Ledger rows to add, each with the identity of its incarnation."""
        self.past: dict[str, tuple[Counted, str]] = {}
        """Ledger rows to add of interruptions that no total includes, by event key; see `counted`."""
        self.attributed: list[Attribute] = []
        """Nodes to write into ledger rows that exist."""
        self.released: Counter[str] = Counter()
        self.pending = pending
        """The number of pending interruptions, with the changes of this batch."""
        self.overflowed = 0
        self._rules = rules
        self.grace_clock = now - downtime
        """The clock of grace periods: it stands still while no exporter runs."""
        self.latest_end = self.grace_clock + rules.grace_seconds
        """The end of a grace period that begins now."""
        self._now = now
        self._listed = listed
        self._read: set[InstanceName] = set()
        self._incarnations: defaultdict[InstanceName, dict[str, Instance]] = defaultdict(dict)
        self._archive: defaultdict[InstanceName, dict[str, Instance]] = defaultdict(dict)
        """The archived incarnations that were read, or were archived by this batch."""
        self._pending: defaultdict[InstanceName, dict[str, PendingInterruption]] = defaultdict(dict)

    def mark_read(self, names: Iterable[InstanceName]) -> list[InstanceName]:
        """Return the names whose rows the store must read, each once, and mark them as read."""
        unread = [name for name in dict.fromkeys(names) if name not in self._read]
        self._read.update(unread)
        return unread

    def load(
        self,
        seen: Iterable[str],
        incarnations: Iterable[Instance],
        pending: Iterable[PendingInterruption],
    ) -> None:
        """Add rows that the store has read."""
        for key in seen:
            self.event_keys[key] = False
        for instance in incarnations:
            self._incarnations[instance.name][instance.identity] = instance
        for interruption in pending:
            self._pending[interruption.event.name][interruption.event.key] = interruption

    def without_known(self, identities: Iterable[tuple[InstanceName, str]]) -> list[tuple[InstanceName, str]]:
        """Return the incarnations that have not been read yet, and that the batch has not changed."""
        return [
            (name, identity)
            for name, identity in identities
            if identity not in self._incarnations[name]
            and (name, identity) not in self.instances
            and (name, identity) not in self.archived
        ]

    def load_archived(self, incarnations: Iterable[Instance]) -> None:
        """Add archived incarnations that the store has read."""
        for instance in incarnations:
            self._archive[instance.name][instance.identity] = instance

    def decide(self, event: Event) -> Outcome:
        """Decide an event, and apply its changes in memory. Record its key, unless the event is ignored."""
        key = None if isinstance(event, KEYLESS) else event.key
        outcome = self._apply_decision(
            event.name,
            attribution.decide(
                event,
                self._known_under(event.name, _identities_of(event), seen=key in self.event_keys),
                self._rules,
                self._now,
                self.latest_end,
            ),
        )
        if key is not None and not isinstance(outcome, Ignored):
            self.event_keys[key] = True
        return outcome

    def expire(self, pending: PendingInterruption) -> Outcome:
        """Decide a pending interruption at the end of its grace period."""
        return self._apply_decision(
            pending.event.name,
            interruptions.expire(
                pending, self._known_under(pending.event.name, _identities_of(pending.event)), self._now
            ),
        )

    def end_grace(self, pending: PendingInterruption) -> Outcome | None:
        """Expire a pending interruption. If its end is later than an end can be, correct it and return None.

        Such an end was computed while the exporter's clock was ahead.
        """
        if pending.until > self.latest_end:
            self.put_off(pending)
            return None
        return self.expire(pending)

    def put_off(self, pending: PendingInterruption) -> None:
        """Give a pending interruption the latest end that a grace period can have."""
        self._add_pending(replace(pending, until=self.latest_end))

    def add_past(self, event: InstanceInterrupted) -> None:
        """Add an interruption to the ledger that happened before the store counted."""
        known = self._known_under(event.name, _identities_of(event))
        row = interruptions.past_row(event, known, self._now)
        if row is not None:
            self.past[event.key] = row

    def observe_listed(self, listed: Listed, began: float) -> None:
        """Apply the changes for an instance in a listing. `began` is the start of the listing."""
        known = self._known_under(listed.name, [listed.id])
        self._apply(listed.name, reconcile.observe_listed(listed, known, began, self._now))

    def observe_missing(self, name: InstanceName, identity: str, began: float) -> None:
        """Apply the changes for an incarnation that is missing from a complete listing."""
        self._apply(name, reconcile.observe_missing(self._incarnations[name][identity], began, self._now))

    def move(self, name: InstanceName, project: str) -> None:
        """Move all rows of a name to the same name in `project`."""
        renamed = name._replace(project=project)
        moving = list(self._incarnations[name].values())
        for identity, instance in self._archive.pop(name, {}).items():
            self.archived[name, identity] = None
            self._put_into_archive(instance._replace(name=renamed))
        for pending in self._pending.pop(name, {}).values():
            self._add_pending(replace(pending, event=replace(pending.event, name=renamed)))
        known = self._known_under(renamed, [instance.identity for instance in moving])
        self._apply(renamed, moves.move_incarnations(moving, known, renamed, self._now))

    def remove(self, name: InstanceName, identity: str) -> bool:
        """Remove an incarnation. Return False if there is none."""
        if self._archive[name].pop(identity, None) is not None:
            self.archived[name, identity] = None
            return True
        removed = self._incarnations[name].pop(identity, None)
        if removed is None:
            return False
        self._move_gauge(_series_of(removed) if removed.live_spot else None, None)
        self.instances[name, identity] = None
        return True

    def applied(self, outcomes: Sequence[Outcome] = ()) -> Applied:
        """Return the effects of the batch once it is committed."""
        return Applied(
            outcomes,
            [counted for counted, _ in self.counted],
            self.totals.changed,
            released=self.released,
            overflowed=self.overflowed,
            pending=self.pending,
        )

    def _known_under(self, name: InstanceName, identities: Iterable[str], *, seen: bool = False) -> Known:
        pending = self._pending.get(name)
        incarnations = self._incarnations[name]
        archive = self._archive.get(name)
        if archive:
            found = {identity: archive[identity] for identity in identities if identity in archive}
            incarnations = {**found, **incarnations}
        listed_at = self._listed.get(name.project)
        if listed_at is not None and listed_at > self._now:
            listed_at = self._now  # the exporter's clock was ahead when that listing began
        return Known(seen, incarnations, tuple(pending.values()) if pending else (), listed_at)

    def _apply_decision(self, name: InstanceName, decision: Decision) -> Outcome:
        self._apply(name, decision.changes)
        if isinstance(decision.outcome, Counted):
            return self.counted[-1][0]  # `counted_as` may be `other`
        return decision.outcome

    def _apply(self, name: InstanceName, changes: Iterable[Change]) -> None:
        """Apply changes to the rows of a name, and archive what is too much for it."""
        # `match` would allocate a set and a list for each class pattern that matches.
        for change in changes:
            if isinstance(change, StoreInstance):
                self._store_instance(change)
            elif isinstance(change, EnsureSeries):
                self._ensure_series(change)
            elif isinstance(change, AddPending):
                self.pending += 1
                self._add_pending(change.pending)
            elif isinstance(change, ReleasePending):
                self.pending -= 1
                self.released[change.by] += 1
                self.pending_interruptions[change.key] = None
                self._pending[change.name].pop(change.key, None)
            elif isinstance(change, RemoveInstance):
                self.remove(change.name, change.identity)
            elif isinstance(change, Attribute):
                self.attributed.append(change)
            else:
                assert_never(change)
        if len(self._incarnations[name]) > MAX_INCARNATIONS:
            self._archive_oldest(name)

    def _archive_oldest(self, name: InstanceName) -> None:
        """Archive the ended incarnations of a name that were changed longest ago.

        So an event takes the same time for the first life of a name and for the thousandth. A later event
        finds an archived incarnation by its identity. A failed creation is removed: no event will follow it,
        and a stock-out can repeat it for weeks.
        """
        incarnations = self._incarnations[name]
        described = [instance for instance in incarnations.values() if instance.kind is not UNDESCRIBED]
        # An interruption of an unknown incarnation takes its labels.
        newest = max(described, key=created_at_or_start_of_time, default=None)
        ended = [
            instance for instance in incarnations.values() if not instance.alive and instance is not newest
        ]
        ended.sort(key=lambda instance: (instance.recorded_at, created_at_or_start_of_time(instance)))
        for instance in ended[: len(incarnations) - MAX_INCARNATIONS]:
            del incarnations[instance.identity]
            self.instances[name, instance.identity] = None
            if not is_final_failure(instance):
                self._put_into_archive(instance)

    def _put_into_archive(self, instance: Instance) -> None:
        self.archived[instance.name, instance.identity] = instance
        self._archive[instance.name][instance.identity] = instance

    def _store_instance(self, change: StoreInstance) -> None:
        incarnations = self._incarnations[change.instance.name]
        before = incarnations.get(change.instance.identity)
        if before is None:
            before = self._archive[change.instance.name].pop(change.instance.identity, None)
            if before is not None:
                self.archived[before.name, before.identity] = None
        instance, series = self._with_series(change.instance, before)
        incarnations[instance.identity] = instance
        self.instances[instance.name, instance.identity] = instance
        series_before = None
        if before is not None and before.live_spot:
            # A live instance keeps its series unless its node has changed.
            series_before = series if before.node == instance.node else _series_of(before)
        self._move_gauge(series_before, series if instance.live_spot else None)
        if change.counted is not None:
            self._count(change.counted, instance, series)
        if change.created or change.failed:
            self._count_creation(change, instance, series)

    def _with_series(self, instance: Instance, before: Instance | None) -> tuple[Instance, Labels]:
        """Return the incarnation and the labels of its series: those of `other` if the limit is reached."""
        labels = instance.labels
        overflowed = instance.overflowed if before is None else before.overflowed
        if instance.spot and not overflowed:
            overflowed = not self.totals.admits(labels)
        if overflowed != instance.overflowed:
            instance = instance._replace(overflowed=overflowed)
        return instance, OTHER_LABELS if overflowed else labels

    def _move_gauge(self, before: Labels | None, after: Labels | None) -> None:
        if before == after:
            return
        if before is not None:
            self.totals.label_set(before).instances -= 1
        if after is not None:
            self.totals.label_set(after).instances += 1

    def _count(self, counted: Counted, instance: Instance, series: Labels) -> None:
        self.overflowed += instance.overflowed
        if counted.counted_as != series.cluster:
            counted = replace(counted, counted_as=series.cluster)
        self.totals.count(series, counted.at, counted.age)
        self.counted.append((counted, instance.identity))

    def _count_creation(self, change: StoreInstance, instance: Instance, series: Labels) -> None:
        self.overflowed += (change.created + change.failed) * instance.overflowed
        row = self.totals.label_set(series)
        row.created += change.created
        row.failed += change.failed

    def _add_pending(self, pending: PendingInterruption) -> None:
        self.pending_interruptions[pending.event.key] = pending
        self._pending[pending.event.name][pending.event.key] = pending

    def _ensure_series(self, change: EnsureSeries) -> None:
        labels = change.labels
        if change.only_cluster:
            self.totals.ensure_cluster(
                labels.cluster if self.totals.admits_cluster(labels.cluster) else OTHER_LABELS.cluster
            )
        else:
            self.totals.ensure_series(labels if self.totals.admits(labels) else OTHER_LABELS)


def _series_of(instance: Instance) -> Labels:
    return OTHER_LABELS if instance.overflowed else instance.labels
