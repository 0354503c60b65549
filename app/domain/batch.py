"""A batch of events: it decides them in order, over rows that the store has read, and collects the changes.

Each store reads the rows for `names_of` and `keys_of`, decides the events, writes the changes, and commits.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from app.domain import attribution, fleet
from app.domain.attribution import (
    AddPending,
    Change,
    Decision,
    EnsureSeries,
    Explain,
    Known,
    MarkSeen,
    ReleasePending,
    RemoveInstance,
    Rules,
    StoreInstance,
)
from app.domain.events import CreationFailed, Event, InstanceName, Listed
from app.domain.instances import OTHER_LABELS, Instance, Labels, Parked
from app.domain.outcomes import Counted, Outcome
from app.domain.totals import Tally, Totals


@dataclass(frozen=True, slots=True)
class Shared:
    """The state that several replicas of the exporter share, as it was last read."""

    leads_until: float
    """End of this replica's lease, by the monotonic clock. The leader does the periodic work."""
    asked: Collection[str] = ()
    """Projects for which a replica has asked the leader for a listing."""
    listed: Mapping[str, float] = field(default_factory=dict)
    """The time when each project's last complete listing began."""


@dataclass(slots=True)
class Applied:
    """The effects of a commit, for the callers, the log and the metrics."""

    outcomes: Sequence[Outcome] = ()
    """One outcome per event, in the order of the events."""
    counted: Sequence[Counted] = ()
    """All counted interruptions, including those that were pending before."""
    changed: Totals = field(default_factory=Totals)
    """The new values of all totals that changed."""
    dropped: Totals = field(default_factory=Totals)
    """Totals that were removed."""
    released: Mapping[str, int] = field(default_factory=dict)
    """Number of pending interruptions that were released, by the cause of the release."""
    overflowed: int = 0
    """Number of events that were committed under `other`."""
    pending: int = 0
    """Number of pending interruptions after the commit."""
    shared: Shared | None = None
    """The state that replicas share; None if it was not read."""
    more: bool = False
    """The periodic work is not complete: call again."""


def keys_of(events: Iterable[Event]) -> list[str]:
    """Return the event keys that the store must look up for these events."""
    return [event.key for event in events if not isinstance(event, CreationFailed)]


def names_of(events: Iterable[Event]) -> list[InstanceName]:
    """Return the instance names whose rows the store must read for these events."""
    return list({event.name: None for event in events})


def in_project_ids(event: Event, projects: Mapping[str, str]) -> Event:
    """Return the event with the project's id in its instance name, if `projects` has an id for the number."""
    project = projects.get(event.name.project)
    return event if project is None else replace(event, name=event.name._replace(project=project))


class Batch:
    """Rows that the store has read, changed in memory by one decision after the other."""

    def __init__(self, tally: Tally, rules: Rules, now: float) -> None:
        self.tally = tally
        self.seen: dict[str, bool] = {}
        """Recorded event keys. True: an event of this batch had the key, and the store must write it."""
        self.kept: dict[tuple[InstanceName, str], Instance | None] = {}
        """Incarnations to write; None: remove the row."""
        self.parked: dict[str, Parked | None] = {}
        """Pending interruptions to write, by event key; None: remove the row."""
        self.counted: list[tuple[Counted, str]] = []
        """Ledger rows to add, each with the identity of its incarnation."""
        self.explained: list[Explain] = []
        """Nodes to write into ledger rows that exist."""
        self.released: Counter[str] = Counter()
        self.pending = 0
        """Change of the number of pending interruptions by this batch."""
        self.overflowed = 0
        self._rules = rules
        self._now = now
        self._read: set[InstanceName] = set()
        self._incarnations: defaultdict[InstanceName, dict[str, Instance]] = defaultdict(dict)
        self._pending: defaultdict[InstanceName, dict[str, Parked]] = defaultdict(dict)

    def unread(self, names: Iterable[InstanceName]) -> list[InstanceName]:
        """Return the names whose rows the store must read, and mark them as read."""
        names = [name for name in names if name not in self._read]
        self._read.update(names)
        return names

    def load(self, seen: Iterable[str], incarnations: Iterable[Instance], parked: Iterable[Parked]) -> None:
        """Add rows that the store has read."""
        for key in seen:
            self.seen[key] = False
        for instance in incarnations:
            self._incarnations[instance.name][instance.identity] = instance
        for interruption in parked:
            self._pending[interruption.event.name][interruption.event.key] = interruption

    def decide(self, event: Event) -> Outcome:
        """Decide an event, and apply its changes in memory."""
        seen = not isinstance(event, CreationFailed) and event.key in self.seen
        return self._apply_decision(
            attribution.decide(event, self._known_under(event.name, seen=seen), self._rules, self._now)
        )

    def expire(self, parked: Parked) -> Outcome:
        """Decide a pending interruption at the end of its grace period."""
        return self._apply_decision(
            attribution.expire(parked, self._known_under(parked.event.name), self._now)
        )

    def hear(self, listed: Listed, began: float) -> None:
        """Apply that a listing contains the instance. `began` is the start of the listing."""
        self._apply(fleet.observe_listed(listed, self._known_under(listed.name), began, self._now))

    def miss(self, name: InstanceName, identity: str, began: float) -> None:
        """Apply that a complete listing does not contain the incarnation."""
        self._apply(fleet.observe_missing(self._incarnations[name][identity], began, self._now))

    def rename(self, name: InstanceName, project: str) -> None:
        """Move all rows of a name to the same name in `project`."""
        renamed = name._replace(project=project)
        moving = self._known_under(name).incarnations.values()
        for pending in self._pending.pop(name, {}).values():
            self._add_pending(replace(pending, event=replace(pending.event, name=renamed)))
        self._apply(attribution.move_incarnations(moving, self._known_under(renamed), renamed, self._now))

    def forget(self, name: InstanceName, identity: str) -> None:
        """Remove an incarnation."""
        forgotten = self._incarnations[name].pop(identity)
        self._move_gauge(_series_of(forgotten) if forgotten.live_spot else None, None)
        self.kept[name, identity] = None

    def applied(self, outcomes: Sequence[Outcome], pending: int) -> Applied:
        """Return the effects of the batch once it is committed. `pending` is the number before the batch."""
        return Applied(
            outcomes,
            [counted for counted, _ in self.counted],
            self.tally.changed,
            released=self.released,
            overflowed=self.overflowed,
            pending=pending + self.pending,
        )

    def _known_under(self, name: InstanceName, *, seen: bool = False) -> Known:
        pending = self._pending.get(name)
        return Known(seen, self._incarnations[name], tuple(pending.values()) if pending else ())

    def _apply_decision(self, decision: Decision) -> Outcome:
        self._apply(decision.changes)
        if isinstance(decision.outcome, Counted):
            return self.counted[-1][0]  # `counted_as` may be `other`
        return decision.outcome

    def _apply(self, changes: Iterable[Change]) -> None:
        # `match` would allocate a set and a list for each class pattern that matches.
        for change in changes:
            if isinstance(change, MarkSeen):
                self.seen[change.key] = True
            elif isinstance(change, StoreInstance):
                self._store_instance(change)
            elif isinstance(change, EnsureSeries):
                self._ensure_series(change)
            elif isinstance(change, AddPending):
                self.pending += 1
                self._add_pending(change.pending)
            elif isinstance(change, ReleasePending):
                self.pending -= 1
                self.released[change.by] += 1
                self.parked[change.key] = None
                self._pending[change.name].pop(change.key, None)
            elif isinstance(change, RemoveInstance):
                self.forget(change.name, change.identity)
            elif isinstance(change, Explain):
                self.explained.append(change)
            else:
                assert_never(change)

    def _store_instance(self, change: StoreInstance) -> None:
        incarnations = self._incarnations[change.instance.name]
        before = incarnations.get(change.instance.identity)
        instance, series = self._with_series(change.instance, before)
        incarnations[instance.identity] = instance
        self.kept[instance.name, instance.identity] = instance
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
            overflowed = not self.tally.admits(labels)
        if overflowed != instance.overflowed:
            instance = instance._replace(overflowed=overflowed)
        return instance, OTHER_LABELS if overflowed else labels

    def _move_gauge(self, before: Labels | None, after: Labels | None) -> None:
        if before == after:
            return
        if before is not None:
            self.tally.label_set(before).instances -= 1
        if after is not None:
            self.tally.label_set(after).instances += 1

    def _count(self, counted: Counted, instance: Instance, series: Labels) -> None:
        self.overflowed += instance.overflowed
        if counted.counted_as != series.cluster:
            counted = replace(counted, counted_as=series.cluster)
        self.tally.count(series, counted.at, counted.age)
        self.counted.append((counted, instance.identity))

    def _count_creation(self, change: StoreInstance, instance: Instance, series: Labels) -> None:
        self.overflowed += (change.created + change.failed) * instance.overflowed
        row = self.tally.label_set(series)
        row.created += change.created
        row.failed += change.failed

    def _add_pending(self, pending: Parked) -> None:
        self.parked[pending.event.key] = pending
        self._pending[pending.event.name][pending.event.key] = pending

    def _ensure_series(self, change: EnsureSeries) -> None:
        labels = change.labels
        if change.only_cluster:
            self.tally.show_cluster(
                labels.cluster if self.tally.admits_cluster(labels.cluster) else OTHER_LABELS.cluster
            )
        else:
            self.tally.show(labels if self.tally.admits(labels) else OTHER_LABELS)


def _series_of(instance: Instance) -> Labels:
    return OTHER_LABELS if instance.overflowed else instance.labels
