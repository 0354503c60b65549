"""The rules for an event: its outcome and its changes, from the rows of its instance name.

`fleet` has the rules for a listing. The rules are pure and total: no I/O, no clock. Changes are values.
A store makes them durable, and does not contain rules.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import Final, TypeAlias, assert_never

from app.domain.events import (
    UNKNOWN_NODE,
    CreationFailed,
    Event,
    Ignored,
    InstanceCreated,
    InstanceInterrupted,
    InstanceName,
    Node,
)
from app.domain.instances import (
    NO_NODE,
    NODE,
    UNEXPLAINED,
    Instance,
    Labels,
    Parked,
    unexplained,
)
from app.domain.outcomes import Counted, Duplicate, Outcome, Pending, ReleasedBy, Tracked
from app.domain.values import value

NOT_A_NODE: Final = Ignored("not_a_node")
NO_CLUSTER_LABEL: Final = Ignored("no_cluster_label")
FAILED_INSERT: Final = Ignored("failed_insert")
_MAX_FAILED_CREATIONS: Final = 20


@value
class Rules:
    """Limits and times from the configuration."""

    grace_seconds: float = 1800.0
    """Longest time for which an interruption is pending."""
    retention_seconds: float = 31 * 86400.0
    """Time for which the store keeps an instance after its end."""
    max_label_sets: int = 10_000
    """Above this number, new label sets are committed under `other`."""


@value
class Known:
    """The stored state that an event meets: if its key was recorded, and all rows of its instance name."""

    seen: bool = False
    incarnations: Mapping[str, Instance] = field(default_factory=dict)
    """By identity."""
    pending: Sequence[Parked] = ()


@value
class MarkSeen:
    """Record the event's key: a later event with this key is a duplicate."""

    key: str


@value
class StoreInstance:
    """Store the incarnation, and add the given facts about it to the totals."""

    instance: Instance
    created: bool = False
    """Count a creation: the incarnation is Spot, and a creation event has announced it."""
    failed: bool = False
    """Count that this creation has failed."""
    counted: Counted | None = None
    """Count this interruption, and add it to the ledger."""


@value
class RemoveInstance:
    """Remove the incarnation with this identity from the store."""

    name: InstanceName
    identity: str


@value
class EnsureSeries:
    """Make sure that the series of the label set exist, at 0 if nothing was counted yet."""

    labels: Labels
    only_cluster: bool = False
    """Only the series of the cluster."""


@value
class AddPending:
    """Add a pending interruption."""

    pending: Parked


@value
class ReleasePending:
    """Remove a pending interruption."""

    key: str
    name: InstanceName
    by: ReleasedBy


@value
class Explain:
    """Write the incarnation's node into its ledger rows. Their `counted_as` and the totals do not change."""

    name: InstanceName
    identity: str
    node: Node


Change: TypeAlias = (
    MarkSeen | StoreInstance | RemoveInstance | EnsureSeries | AddPending | ReleasePending | Explain
)


@value
class Decision:
    """An outcome, and the changes that make it true."""

    outcome: Outcome
    changes: Sequence[Change] = ()


def decide(event: Event, known: Known, rules: Rules, now: float) -> Decision:
    """Return the outcome of an event, and its changes. `now` is the time of the exporter's clock."""
    draft = Draft(known.incarnations, now)
    if isinstance(event, InstanceInterrupted):
        outcome = _decide_interruption(event, known, rules, draft)
    elif isinstance(event, InstanceCreated):
        outcome = _decide_creation(event, known, draft)
    elif isinstance(event, CreationFailed):
        outcome = _decide_failure(event, draft)
    else:
        assert_never(event)
    return Decision(outcome, draft.changes)


def expire(pending: Parked, known: Known, now: float) -> Decision:
    """Return the outcome of a pending interruption at the end of its grace period, and its changes.

    The interruption takes the labels of the latest earlier incarnation of its name, otherwise those of the
    newest, otherwise `unknown`. No other incarnation ends. An ended incarnation is stored, so that a creation
    event that arrives later finds it.
    """
    event = pending.event
    draft = Draft(known.incarnations, now)
    draft.changes.append(ReleasePending(event.key, event.name, "expiry"))
    incarnation = _find_interrupted(event, draft.incarnations)
    if incarnation is None:
        nearest = _nearest_before(event.at, draft.incarnations.values())
        if nearest is not None and nearest.kind is NO_NODE:
            return Decision(NOT_A_NODE, draft.changes)
        identity = event.id or f"~{event.key}"
        undescribed = draft.incarnations.get(identity) or unexplained(event.name, identity, now)
        incarnation = undescribed._replace(node=UNKNOWN_NODE if nearest is None else nearest.node)
    return Decision(_count_interruption(event, incarnation, draft, "expiry"), draft.changes)


def move_incarnations(
    incarnations: Iterable[Instance], there: Known, name: InstanceName, now: float
) -> Sequence[Change]:
    """Move incarnations to another name: the name with the project's id instead of its number.

    `there` has the rows of the new name, and the pending interruptions of both names.
    """
    draft = Draft(there.incarnations, now)
    failures: list[CreationFailed] = []
    for incarnation in there.incarnations.values():
        _separate_failure(incarnation, draft, failures)
    for incarnation in incarnations:
        draft.changes.append(RemoveInstance(incarnation.name, incarnation.identity))
        moved = _take_out_failure(incarnation._replace(name=name), failures)
        if moved is not None:
            _add_renamed(moved, draft)
    for failure in failures:
        _decide_failure(failure, draft)
    release_pending(there.pending, draft, "creation")
    return draft.changes


class Draft:
    """The incarnations of a name while a decision changes them, and the changes so far."""

    __slots__ = ("changes", "incarnations", "now")

    def __init__(self, incarnations: Mapping[str, Instance], now: float) -> None:
        self.incarnations = dict(incarnations)
        self.changes: list[Change] = []
        self.now = now

    def keep(self, instance: Instance, counted: Counted | None = None) -> None:
        """Store the incarnation. Count its creation (or failure) once it is known to be announced and Spot.

        An interruption proves an announced instance to be Spot, so the order of the two does not matter.
        """
        before = self.incarnations.get(instance.identity)
        self.incarnations[instance.identity] = instance
        counts = instance.announced and instance.spot
        counted_before = before if before is not None and before.announced and before.spot else None
        created = counts and counted_before is None
        failed = counts and instance.failed and not (counted_before is not None and counted_before.failed)
        self.changes.append(StoreInstance(instance, created, failed, counted))

    def remove(self, instance: Instance) -> None:
        """Remove the incarnation."""
        del self.incarnations[instance.identity]
        self.changes.append(RemoveInstance(instance.name, instance.identity))

    def rename(self, instance: Instance, identity: str) -> Instance:
        """Move the incarnation to another identity, and return it."""
        if instance.identity == identity:
            return instance
        self.remove(instance)
        renamed = instance._replace(identity=identity)
        self.incarnations[identity] = renamed
        return renamed


def _decide_interruption(event: InstanceInterrupted, known: Known, rules: Rules, draft: Draft) -> Outcome:
    if known.seen:
        draft.changes.append(MarkSeen(event.key))
        return Duplicate()
    incarnation = _find_interrupted(event, draft.incarnations)
    if incarnation is None:
        draft.changes += (
            MarkSeen(event.key),
            AddPending(Parked(event, draft.now + rules.grace_seconds)),
            EnsureSeries(unexplained(event.name, event.id, draft.now).labels),
        )
        return Pending(event.name.project)
    outcome = _count_interruption(event, incarnation, draft, None)
    if outcome is not NOT_A_NODE:
        draft.changes.append(MarkSeen(event.key))
    return outcome


def _count_interruption(
    event: InstanceInterrupted, incarnation: Instance, draft: Draft, released_by: ReleasedBy | None
) -> Counted | Ignored:
    """Count an interruption of the incarnation, and end the incarnation unless it was started later."""
    if incarnation.kind is NO_NODE:
        return NOT_A_NODE
    start = incarnation.created_at if incarnation.started_at is None else incarnation.started_at
    ends = _ends(event, incarnation)
    age = event.at - start if start is not None and not incarnation.timed and event.at >= start else None
    counted = Counted(
        key=event.key,
        at=event.at,
        name=event.name,
        id=event.id,
        node=incarnation.node,
        counted_as=incarnation.node.cluster,
        age=age,
        explained=incarnation.kind is NODE,
        released_by=released_by,
    )
    draft.keep(_with_interruption(event, incarnation, draft.now, ends=ends), counted)
    return counted


def _with_interruption(event: InstanceInterrupted, before: Instance, now: float, *, ends: bool) -> Instance:
    return before._replace(
        recorded_at=now,
        spot=True,  # only Spot instances are interrupted
        alive=before.alive and not ends,
        timed=before.timed or ends,
        interrupted_at=_latest(before.interrupted_at, event.at),
        ended_at=_earliest(before.ended_at, event.at) if ends else before.ended_at,
    )


def _ends(event: InstanceInterrupted, incarnation: Instance) -> bool:
    # The id identifies the instance even if clocks differ. Only an instance that was started later lives on.
    # Without an id, an interruption before the creation belongs to another incarnation.
    if incarnation.started_at is not None and incarnation.started_at > event.at:
        return False
    return bool(event.id) or incarnation.created_at is None or incarnation.created_at <= event.at


def _decide_creation(event: InstanceCreated, known: Known, draft: Draft) -> Outcome:
    if known.seen:
        draft.changes.append(MarkSeen(event.key))
        return Duplicate()
    before = _find_created(event, draft)
    if event.node is None:
        if before is None or before.kind is UNEXPLAINED:
            _record_creation(event, before, draft)
            release_pending(known.pending, draft, "creation")
        return NO_CLUSTER_LABEL
    instance = _record_creation(event, before, draft)
    draft.changes += (MarkSeen(event.key), EnsureSeries(instance.labels, only_cluster=event.spot is False))
    release_pending(known.pending, draft, "creation")
    _forget_failed(draft)
    return Tracked(event.name, event.node)


def _record_creation(event: InstanceCreated, before: Instance | None, draft: Draft) -> Instance:
    """Store the description of an instance that a creation gives. The instance may be known already."""
    if before is not None and _is_another_operation(event.operation, before):
        return _record_another_start(event, before, draft)
    identity = event.id or (f"~{event.key}" if before is None else before.identity)
    if before is None:
        instance = unexplained(event.name, identity, draft.now)
    else:
        instance = draft.rename(before, identity)
    instance = _with_description(instance, event, draft)
    instance = _with_failure(instance._replace(alive=instance.alive or before is None), draft)
    instance = order_among_incarnations(instance, draft)
    draft.keep(instance)
    if before is not None and before.kind is UNEXPLAINED and event.node is not None:
        draft.changes.append(Explain(event.name, before.identity, event.node))
    return instance


def _record_another_start(event: InstanceCreated, known: Instance, draft: Draft) -> Instance:
    """Store another start of a known instance. The later of two starts has the instance's identity."""
    instance = unexplained(event.name, known.identity, draft.now)._replace(alive=True, spot=known.spot)
    instance = _with_failure(_with_description(instance, event, draft), draft)
    older, newer = sorted((known, instance), key=_start_order)
    restarted = _merged_starts(newer, older)
    if older is known:
        draft.remove(known)
        draft.incarnations[_start_identity(known)] = known  # its creation is already counted
    _keep_older_start(older, newer, draft)
    draft.keep(order_among_incarnations(restarted, draft)._replace(recorded_at=draft.now))
    return instance


def _with_description(instance: Instance, event: InstanceCreated, draft: Draft) -> Instance:
    return instance._replace(
        kind=NO_NODE if event.node is None else NODE,
        node=event.node or UNKNOWN_NODE,
        spot=instance.spot or event.spot is True,
        announced=instance.announced or event.node is not None,
        operation=event.operation or instance.operation,
        # A listing gives the time of the first start. The creation event may be for a later start.
        created_at=instance.created_at if instance.announced else event.at,
        recorded_at=draft.now,
    )


def _merged_starts(newer: Instance, older: Instance) -> Instance:
    """Return the newer of two starts of one instance, with all later events of the instance."""
    start = _created_at_or_start_of_time(newer)
    interrupted_at = max(
        (at for at in (newer.interrupted_at, older.interrupted_at) if at is not None), default=None
    )
    # A failure ends only its own start.
    ends = (newer.ended_at, None if older.failed else older.ended_at, interrupted_at)
    ended_at = min((at for at in ends if at is not None and at >= start), default=None)
    return newer._replace(
        spot=newer.spot or older.spot,
        alive=ended_at is None and not newer.failed,
        timed=(newer.timed or older.timed) and interrupted_at is not None and interrupted_at >= start,
        started_at=max(at for at in (newer.started_at, older.started_at, start) if at is not None),
        interrupted_at=interrupted_at,
        ended_at=newer.ended_at if newer.failed else ended_at,
    )


def _keep_older_start(older: Instance, newer: Instance, draft: Draft) -> None:
    """Store an earlier start of an instance under its operation, because its failure may still arrive."""
    draft.keep(
        older._replace(
            identity=_start_identity(older),
            alive=False,
            ended_at=_earliest(older.ended_at, _created_at_or_start_of_time(newer)),
            recorded_at=draft.now,
        )
    )


def _start_identity(instance: Instance) -> str:
    return f"~{instance.operation}"


def _start_order(instance: Instance) -> tuple[float, str]:
    return _created_at_or_start_of_time(instance), instance.operation


def order_among_incarnations(instance: Instance, draft: Draft) -> Instance:
    """Return the incarnation, ended if its name has a newer one; otherwise, end the older incarnations.

    Even an ended incarnation ends the older incarnations: an accepted insert proves that the name was
    free, even if the insert failed later.
    """
    if instance.created_at is None:
        return instance
    others = [other for other in draft.incarnations.values() if other.identity != instance.identity]
    newer = [
        _created_at_or_start_of_time(other)
        for other in others
        if _created_at_or_start_of_time(other) > instance.created_at
    ]
    if newer:
        return instance._replace(alive=False, ended_at=_earliest(instance.ended_at, min(newer)))
    for other in others:
        if other.alive:
            draft.keep(other._replace(alive=False, ended_at=instance.created_at, recorded_at=draft.now))
    return instance


def _add_renamed(moved: Instance, draft: Draft) -> None:
    """Store an incarnation that had another name, merged with its duplicate under the new name."""
    duplicate = draft.incarnations.get(moved.identity)
    # The creations of both are already counted: `keep` compares with the row that it finds here.
    draft.incarnations[moved.identity] = moved
    if duplicate is None:
        merged = moved
    elif _is_another_operation(moved.operation, duplicate):
        older, newer = sorted((moved, duplicate), key=_start_order)
        merged = _merged_starts(newer, older)
        draft.incarnations[_start_identity(older)] = older
        draft.incarnations[newer.identity] = newer
        _keep_older_start(older, newer, draft)
    else:
        draft.incarnations[moved.identity] = duplicate if duplicate.announced else moved
        merged = _merged(moved, duplicate)
    draft.keep(order_among_incarnations(merged, draft))
    if moved.kind is NODE:
        draft.changes.append(EnsureSeries(moved.labels, only_cluster=not moved.spot))
        if duplicate is not None and duplicate.kind is UNEXPLAINED:
            draft.changes.append(Explain(moved.name, moved.identity, moved.node))


def _merged(moved: Instance, duplicate: Instance) -> Instance:
    """Return one incarnation from the two that are stored under the project's number and id."""
    described, other = (duplicate, moved) if moved.kind is UNEXPLAINED else (moved, duplicate)
    return described._replace(
        spot=described.spot or other.spot,
        alive=described.alive and other.alive,
        announced=described.announced or other.announced,
        failed=described.failed or other.failed,
        timed=described.timed or other.timed,
        operation=described.operation or other.operation,
        started_at=_first_known(described.started_at, other.started_at),
        interrupted_at=_first_known(described.interrupted_at, other.interrupted_at),
        ended_at=_first_known(described.ended_at, other.ended_at),
    )


def release_pending(pending: Sequence[Parked], draft: Draft, by: ReleasedBy) -> None:
    """Count the pending interruptions whose instances are known now, in the order of their times."""
    for event in sorted((one.event for one in pending), key=lambda event: event.at):
        incarnation = _find_interrupted(event, draft.incarnations)
        if incarnation is not None:
            draft.changes.append(ReleasePending(event.key, event.name, by))
            _count_interruption(event, incarnation, draft, by)


def _decide_failure(event: CreationFailed, draft: Draft) -> Outcome:
    """End the incarnation that the failed insert announced; if it is not known yet, store the failure."""
    announced = _announced_by(event, draft.incarnations)
    if announced is None and (identity := _failure_identity(event, draft.incarnations)):
        announced = unexplained(event.name, identity, draft.now)
    if announced is not None and not announced.failed:
        draft.keep(
            announced._replace(
                failed=True,
                alive=False,
                operation=announced.operation or event.operation,
                ended_at=_earliest(announced.ended_at, event.at),
                recorded_at=draft.now,
            )
        )
    _forget_failed(draft)
    return FAILED_INSERT


def _failure_identity(event: CreationFailed, incarnations: Mapping[str, Instance]) -> str:
    """Return the identity under which a failure is stored; "" if it has nothing to match its creation by."""
    if event.id and event.id not in incarnations:
        return event.id
    return event.operation and f"~{event.operation}"


def _is_another_operation(operation: str, instance: Instance) -> bool:
    return bool(operation and instance.operation and operation != instance.operation)


def _take_out_failure(instance: Instance, failures: list[CreationFailed]) -> Instance | None:
    """Move a failure that no creation has claimed from the instance to `failures`.

    Return the rest of the instance, or None if nothing else is known of it.
    """
    if not instance.failed or instance.announced or instance.kind is NO_NODE:
        return instance
    at = 0.0 if instance.ended_at is None else instance.ended_at
    failures.append(CreationFailed(at, instance.name, instance.id, instance.operation))
    if instance.kind is UNEXPLAINED and instance.interrupted_at is None:
        return None
    # The instance was listed, or it was interrupted.
    return instance._replace(
        failed=False, operation="", alive=instance.interrupted_at is None, ended_at=instance.interrupted_at
    )


def _separate_failure(instance: Instance, draft: Draft, failures: list[CreationFailed]) -> Instance | None:
    """Take the failure out of the instance, and store the rest."""
    rest = _take_out_failure(instance, failures)
    if rest is not instance:
        draft.remove(instance)
        if rest is not None:
            draft.keep(rest)
    return rest


def _with_failure(instance: Instance, draft: Draft) -> Instance:
    """Return the instance, failed if the failure of its operation is stored."""
    failure = draft.incarnations.get(_start_identity(instance))
    if failure is None or not failure.failed or failure.kind is not UNEXPLAINED:
        return instance
    draft.remove(failure)
    ended_at = failure.ended_at if instance.ended_at is None else instance.ended_at
    return instance._replace(failed=True, alive=False, ended_at=ended_at)


def _forget_failed(draft: Draft) -> None:
    """Remove old failed creations, for which no other event will arrive. Keep the newest.

    A stock-out can last for weeks, and every event reads all rows of its name.
    """
    failed = [
        incarnation
        for incarnation in draft.incarnations.values()
        if incarnation.failed and (incarnation.announced or incarnation.kind is NO_NODE)
    ]
    for old in sorted(failed, key=_created_at_or_start_of_time)[:-_MAX_FAILED_CREATIONS]:
        del draft.incarnations[old.identity]
        draft.changes.append(RemoveInstance(old.name, old.identity))


def _announced_by(event: CreationFailed, incarnations: dict[str, Instance]) -> Instance | None:
    """Return the incarnation of the failed operation. The id counts only if its operation is not known."""
    if event.operation:
        for incarnation in incarnations.values():
            if incarnation.operation == event.operation:
                return incarnation
    named = incarnations.get(event.id) if event.id else None
    return None if named is None or named.operation else named


def _find_created(event: InstanceCreated, draft: Draft) -> Instance | None:
    """Return the instance that a creation describes, without the failure of another operation."""
    before = _find_described(event, draft.incarnations)
    if before is None or not event.operation or event.operation == before.operation:
        return before
    failures: list[CreationFailed] = []
    rest = _separate_failure(before, draft, failures)
    for failure in failures:
        if failure.operation:
            _decide_failure(replace(failure, id=""), draft)  # the id belongs to this creation
    return rest


def _find_described(event: InstanceCreated, incarnations: dict[str, Instance]) -> Instance | None:
    """Return the incarnation that a creation describes, if a listing or its interruption came first."""
    if event.id and event.id in incarnations:
        return incarnations[event.id]
    for incarnation in incarnations.values():
        if event.operation and incarnation.operation == event.operation and not (event.id and incarnation.id):
            return incarnation
    interrupted_since = [
        (incarnation.interrupted_at, incarnation.identity)
        for incarnation in incarnations.values()
        if incarnation.kind is UNEXPLAINED
        and not incarnation.id
        and incarnation.interrupted_at is not None
        and incarnation.interrupted_at >= event.at
    ]
    return incarnations[min(interrupted_since)[1]] if interrupted_since else None


def _find_interrupted(event: InstanceInterrupted, incarnations: Mapping[str, Instance]) -> Instance | None:
    """Return the described incarnation with the event's id; without an id, the one alive at that time."""
    if event.id:
        named = incarnations.get(event.id)
        return None if named is None or named.kind is UNEXPLAINED else named
    lived = [
        incarnation
        for incarnation in incarnations.values()
        if incarnation.kind is not UNEXPLAINED and not incarnation.failed
    ]
    then = [incarnation for incarnation in lived if _lived_at(event.at, incarnation)]
    return max(then or lived, key=_created_at_or_start_of_time, default=None)


def _nearest_before(at: float, incarnations: Iterable[Instance]) -> Instance | None:
    described = [incarnation for incarnation in incarnations if incarnation.kind is not UNEXPLAINED]
    before = [incarnation for incarnation in described if _created_at_or_start_of_time(incarnation) <= at]
    return max(before or described, key=_created_at_or_start_of_time, default=None)


def _lived_at(at: float, incarnation: Instance) -> bool:
    return _created_at_or_start_of_time(incarnation) <= at and (
        incarnation.ended_at is None or at <= incarnation.ended_at
    )


def _created_at_or_start_of_time(incarnation: Instance) -> float:
    return float("-inf") if incarnation.created_at is None else incarnation.created_at


def _first_known(first: float | None, second: float | None) -> float | None:
    return second if first is None else first


def _latest(known: float | None, at: float) -> float:
    return at if known is None or at > known else known


def _earliest(known: float | None, at: float) -> float:
    return at if known is None or at < known else known
