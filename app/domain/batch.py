"""A batch of events, decided one after the other over rows that were read ahead; then what must be written.

Every store works so: read what `names_of` and `keys_of` ask for, decide, write the batch's changes, commit.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import assert_never

from app.domain import attribution, fleet
from app.domain.attribution import (
    Change,
    Decision,
    Explain,
    Forget,
    Keep,
    Known,
    Park,
    Release,
    Rules,
    See,
    Show,
)
from app.domain.events import CreationFailed, Event, InstanceName, Listed
from app.domain.instances import OTHER_LABELS, Instance, Labels, Parked
from app.domain.outcomes import Counted, Outcome
from app.domain.totals import Tally, Totals


@dataclass(frozen=True, slots=True)
class Shared:
    """What several replicas of the exporter share, as it was a moment ago."""

    leads_until: float
    """Until when, by the monotonic clock, this one does the periodic work and shows what is shared."""
    asked: Collection[str] = ()
    """Projects whose listing some replica asks the leading one for."""
    listed: Mapping[str, float] = field(default_factory=dict)
    """The moment for which each project's last complete listing spoke."""


@dataclass(slots=True)
class Applied:
    """What a commit has done: for the callers, the log and the metrics."""

    outcomes: Sequence[Outcome] = ()
    """One an event, in their order."""
    counted: Sequence[Counted] = ()
    """Every interruption counted, released and expired ones too."""
    changed: Totals = field(default_factory=Totals)
    """The new value of each total that was touched."""
    dropped: Totals = field(default_factory=Totals)
    """Totals that are no more."""
    released: Mapping[str, int] = field(default_factory=dict)
    """How many waiting interruptions were released, by what."""
    overflowed: int = 0
    """How many events were committed under `other`."""
    pending: int = 0
    """How many interruptions wait now, in all."""
    shared: Shared | None = None
    """What was read of what replicas share; None: nothing was."""
    more: bool = False
    """The periodic work has not come to its end: call again."""


def keys_of(events: Iterable[Event]) -> list[str]:
    """The event keys of which a batch must know whether they were seen."""
    return [event.key for event in events if not isinstance(event, CreationFailed)]


def names_of(events: Iterable[Event]) -> list[InstanceName]:
    """The instance names under which a batch must know everything."""
    return list({event.name: None for event in events})


def in_project_ids(event: Event, projects: Mapping[str, str]) -> Event:
    """The event, its instance named by the project's id where the entry gave a known project's number."""
    project = projects.get(event.name.project)
    return event if project is None else replace(event, name=event.name._replace(project=project))


class Batch:
    """Rows read ahead, changed in memory by one decision after the other."""

    def __init__(self, tally: Tally, rules: Rules, now: float) -> None:
        self.tally = tally
        self.seen: dict[str, bool] = {}
        """Key to whether this batch has seen it (and must write it)."""
        self.kept: dict[tuple[InstanceName, str], Instance | None] = {}
        """Incarnations to write; None: to remove."""
        self.parked: dict[str, Parked | None] = {}
        """Waiting interruptions to write, by event key; None: to remove."""
        self.counted: list[tuple[Counted, str]] = []
        """Ledger rows to add, each with the incarnation's identity."""
        self.explained: list[Explain] = []
        """Ledger rows to complete."""
        self.released: Counter[str] = Counter()
        self.pending = 0
        """How many more interruptions wait after the batch than before it."""
        self.overflowed = 0
        self._rules = rules
        self._now = now
        self._read: set[InstanceName] = set()
        self._incarnations: defaultdict[InstanceName, dict[str, Instance]] = defaultdict(dict)
        self._waiting: defaultdict[InstanceName, dict[str, Parked]] = defaultdict(dict)

    def unread(self, names: Iterable[InstanceName]) -> list[InstanceName]:
        """Those of the names whose rows must still be read; they count as read from now on."""
        names = [name for name in names if name not in self._read]
        self._read.update(names)
        return names

    def load(self, seen: Iterable[str], incarnations: Iterable[Instance], parked: Iterable[Parked]) -> None:
        """Take in what the store has read."""
        for key in seen:
            self.seen[key] = False
        for instance in incarnations:
            self._incarnations[instance.name][instance.identity] = instance
        for waiting in parked:
            self._waiting[waiting.event.name][waiting.event.key] = waiting

    def decide(self, event: Event) -> Outcome:
        """Decide an event, and make its changes in memory."""
        seen = not isinstance(event, CreationFailed) and event.key in self.seen
        return self._enact(
            attribution.decide(event, self._known(event.name, seen=seen), self._rules, self._now)
        )

    def expire(self, parked: Parked) -> Outcome:
        """Decide an interruption whose grace has ended."""
        return self._enact(attribution.expire(parked, self._known(parked.event.name), self._now))

    def hear(self, listed: Listed, began: float) -> None:
        """Take in that a listing names the instance."""
        self._make(fleet.hear(listed, self._known(listed.name), began, self._now))

    def miss(self, name: InstanceName, identity: str, began: float) -> None:
        """Take in that a complete listing does not name the incarnation."""
        self._make(fleet.miss(self._incarnations[name][identity], began, self._now))

    def rename(self, name: InstanceName, project: str) -> None:
        """Move everything under a name to the same name in the project's other spelling."""
        renamed = name._replace(project=project)
        moving = self._known(name).incarnations.values()
        for waiting in self._waiting.pop(name, {}).values():
            self._park(replace(waiting, event=replace(waiting.event, name=renamed)))
        self._make(attribution.move(moving, self._known(renamed), renamed, self._now))

    def forget(self, name: InstanceName, identity: str) -> None:
        """Have an incarnation remembered no longer."""
        self._forget(name, identity)

    def applied(self, outcomes: Sequence[Outcome], pending: int) -> Applied:
        """What the batch will have done once it is committed; `pending` is how many waited before."""
        return Applied(
            outcomes,
            [counted for counted, _ in self.counted],
            self.tally.changed,
            released=self.released,
            overflowed=self.overflowed,
            pending=pending + self.pending,
        )

    def _known(self, name: InstanceName, *, seen: bool = False) -> Known:
        waiting = self._waiting.get(name)
        return Known(seen, self._incarnations[name], tuple(waiting.values()) if waiting else ())

    def _enact(self, decision: Decision) -> Outcome:
        self._make(decision.changes)
        if isinstance(decision.outcome, Counted):
            return self.counted[-1][0]  # it may have been counted under `other`
        return decision.outcome

    def _make(self, changes: Iterable[Change]) -> None:
        # Not `match`: for each class that fits, it makes a set and a list to put what it captures in.
        for change in changes:
            if isinstance(change, See):
                self.seen[change.key] = True
            elif isinstance(change, Keep):
                self._keep(change)
            elif isinstance(change, Show):
                self._show(change)
            elif isinstance(change, Park):
                self.pending += 1
                self._park(change.parked)
            elif isinstance(change, Release):
                self.pending -= 1
                self.released[change.by] += 1
                self.parked[change.key] = None
                self._waiting[change.name].pop(change.key, None)
            elif isinstance(change, Forget):
                self._forget(change.name, change.identity)
            elif isinstance(change, Explain):
                self.explained.append(change)
            else:
                assert_never(change)

    def _keep(self, keep: Keep) -> None:
        incarnations = self._incarnations[keep.instance.name]
        before = incarnations.get(keep.instance.identity)
        instance, series = self._in_series(keep.instance, before)
        incarnations[instance.identity] = instance
        self.kept[instance.name, instance.identity] = instance
        was = None
        if before is not None and before.live_spot:
            # The series of what lives stay where they are, unless its node is another.
            was = series if before.node == instance.node else _series(before)
        self._move_gauge(was, series if instance.live_spot else None)
        if keep.counted is not None:
            self._count(keep.counted, instance, series)
        if keep.created or keep.failed:
            self._count_creation(keep, instance, series)

    def _in_series(self, instance: Instance, before: Instance | None) -> tuple[Instance, Labels]:
        """The incarnation and the label set of its series: `other`'s, where there is no room for its own."""
        labels = instance.labels
        overflowed = instance.overflowed if before is None else before.overflowed
        if instance.spot and not overflowed:
            overflowed = not self.tally.admits(labels)
        if overflowed != instance.overflowed:
            instance = instance._replace(overflowed=overflowed)
        return instance, OTHER_LABELS if overflowed else labels

    def _forget(self, name: InstanceName, identity: str) -> None:
        forgotten = self._incarnations[name].pop(identity)
        self._move_gauge(_series(forgotten) if forgotten.live_spot else None, None)
        self.kept[name, identity] = None

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

    def _count_creation(self, keep: Keep, instance: Instance, series: Labels) -> None:
        self.overflowed += (keep.created + keep.failed) * instance.overflowed
        row = self.tally.label_set(series)
        row.created += keep.created
        row.failed += keep.failed

    def _park(self, parked: Parked) -> None:
        self.parked[parked.event.key] = parked
        self._waiting[parked.event.name][parked.event.key] = parked

    def _show(self, show: Show) -> None:
        labels = show.labels
        if show.cluster_alone:
            self.tally.show_cluster(
                labels.cluster if self.tally.admits_cluster(labels.cluster) else OTHER_LABELS.cluster
            )
        else:
            self.tally.show(labels if self.tally.admits(labels) else OTHER_LABELS)


def _series(instance: Instance) -> Labels:
    return OTHER_LABELS if instance.overflowed else instance.labels
