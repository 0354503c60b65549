"""The rules: what becomes of an event, given what is known of its instance. `fleet` has those of a listing.

Pure and total: no I/O, no clock. Changes are values; a store makes them durable and knows no rule.
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
    instance_of,
    unexplained,
)
from app.domain.outcomes import Counted, Duplicate, Outcome, Pending, ReleasedBy, Tracked
from app.domain.values import value

NOT_A_NODE: Final = Ignored("not_a_node")
NO_CLUSTER_LABEL: Final = Ignored("no_cluster_label")
FAILED_INSERT: Final = Ignored("failed_insert")
_FAILED_KEPT: Final = 20


@value
class Rules:
    """What the configuration decides."""

    grace_seconds: float = 1800.0
    """How long an interruption waits for its instance."""
    retention_seconds: float = 31 * 86400.0
    """How long what has ended is remembered."""
    max_label_sets: int = 10_000
    """Beyond it, new label sets are committed under `other`."""


@value
class Known:
    """What the store knows of an event: whether it was seen, and everything under its instance name."""

    seen: bool = False
    incarnations: Mapping[str, Instance] = field(default_factory=dict)
    """By identity."""
    parked: Sequence[Parked] = ()


@value
class See:
    """The event with this key is recorded."""

    key: str


@value
class Keep:
    """The incarnation is now this, and enters the totals with what is told of it."""

    instance: Instance
    created: bool = False
    """Its creation was announced, and it is Spot."""
    failed: bool = False
    """That creation has failed."""
    counted: Counted | None = None
    """It was interrupted: this enters the ledger too."""


@value
class Forget:
    """The incarnation goes on under another identity."""

    name: InstanceName
    identity: str


@value
class Show:
    """The label set's series exist from now on, at 0 if nothing has happened; or its cluster's alone."""

    labels: Labels
    cluster_alone: bool = False


@value
class Park:
    """The interruption waits."""

    parked: Parked


@value
class Release:
    """The interruption waits no more."""

    key: str
    name: InstanceName
    by: ReleasedBy


@value
class Explain:
    """Ledger rows of the incarnation get its node; their `counted_as` stays, and so do the totals."""

    name: InstanceName
    identity: str
    node: Node


Change: TypeAlias = See | Keep | Forget | Show | Park | Release | Explain


@value
class Decision:
    """An outcome, and the changes that make it true."""

    outcome: Outcome
    changes: Sequence[Change] = ()


def decide(event: Event, known: Known, rules: Rules, now: float) -> Decision:
    """What becomes of an event, given what is known of it. `now` is by the exporter's clock."""
    draft = Draft(known.incarnations, now)
    if isinstance(event, InstanceInterrupted):
        outcome = _interrupted(event, known, rules, draft)
    elif isinstance(event, InstanceCreated):
        outcome = _created(event, known, draft)
    elif isinstance(event, CreationFailed):
        outcome = _failed(event, draft)
    else:
        assert_never(event)
    return Decision(outcome, draft.changes)


def expire(parked: Parked, known: Known, now: float) -> Decision:
    """What becomes of an interruption that nothing has explained while it waited.

    It takes the node of the incarnation of its name nearest before it, else of the newest, else `unknown`;
    it ends nothing else, and leaves an ended incarnation behind for a creation that comes late.
    """
    event = parked.event
    draft = Draft(known.incarnations, now)
    draft.changes.append(Release(event.key, event.name, "expiry"))
    incarnation = _belongs_to(event, draft.incarnations)
    if incarnation is None:
        neighbour = _nearest_before(event.at, draft.incarnations.values())
        if neighbour is not None and neighbour.kind is NO_NODE:
            return Decision(NOT_A_NODE, draft.changes)
        identity = event.id or f"~{event.key}"
        stub = draft.incarnations.get(identity) or unexplained(event.name, identity, now)
        incarnation = stub._replace(node=UNKNOWN_NODE if neighbour is None else neighbour.node)
    return Decision(_settle(event, incarnation, draft, "expiry"), draft.changes)


def move(incarnations: Iterable[Instance], there: Known, name: InstanceName, now: float) -> Sequence[Change]:
    """Have incarnations go on under the name in the project's other spelling, beside what is known there.

    `there` has what waits under both.
    """
    draft = Draft(there.incarnations, now)
    failures: list[CreationFailed] = []
    for incarnation in there.incarnations.values():
        _part_from_failure(incarnation, draft, failures)
    for incarnation in incarnations:
        draft.changes.append(Forget(incarnation.name, incarnation.identity))
        moved = _without_failure(incarnation._replace(name=name), failures)
        if moved is not None:
            _place(moved, draft)
    for failure in failures:
        _failed(failure, draft)
    release(there.parked, draft, "creation")
    return draft.changes


class Draft:
    """The incarnations of a name while a decision changes them, and the changes so far."""

    __slots__ = ("changes", "incarnations", "now")

    def __init__(self, incarnations: Mapping[str, Instance], now: float) -> None:
        self.incarnations = dict(incarnations)
        self.changes: list[Change] = []
        self.now = now

    def keep(self, instance: Instance, counted: Counted | None = None) -> None:
        """Keep the incarnation; a creation (or its failure) counts when it first is both announced and Spot.

        An interruption may prove an announced instance to be Spot, so the order of the two does not matter.
        """
        before = self.incarnations.get(instance.identity)
        self.incarnations[instance.identity] = instance
        counts = instance.announced and instance.spot
        told = before if before is not None and before.announced and before.spot else None
        created = counts and told is None
        failed = counts and instance.failed and not (told is not None and told.failed)
        self.changes.append(Keep(instance, created, failed, counted))

    def forget(self, instance: Instance) -> None:
        """Forget the incarnation."""
        del self.incarnations[instance.identity]
        self.changes.append(Forget(instance.name, instance.identity))

    def rename(self, instance: Instance, identity: str) -> Instance:
        """Return the same incarnation under another identity."""
        if instance.identity == identity:
            return instance
        self.forget(instance)
        renamed = instance._replace(identity=identity)
        self.incarnations[identity] = renamed
        return renamed


def _interrupted(event: InstanceInterrupted, known: Known, rules: Rules, draft: Draft) -> Outcome:
    if known.seen:
        draft.changes.append(See(event.key))
        return Duplicate()
    incarnation = _belongs_to(event, draft.incarnations)
    if incarnation is None:
        draft.changes += (
            See(event.key),
            Park(Parked(event, draft.now + rules.grace_seconds)),
            Show(unexplained(event.name, event.id, draft.now).labels),
        )
        return Pending(event.name.project)
    outcome = _settle(event, incarnation, draft, None)
    if outcome is not NOT_A_NODE:
        draft.changes.append(See(event.key))
    return outcome


def _settle(
    event: InstanceInterrupted, incarnation: Instance, draft: Draft, released_by: ReleasedBy | None
) -> Counted | Ignored:
    """Count an interruption of the incarnation, and end it unless it has been started since."""
    if incarnation.kind is NO_NODE:
        return NOT_A_NODE
    start = incarnation.created_at if incarnation.started_at is None else incarnation.started_at
    ends = _ends(event, incarnation)
    age = event.at - start if start is not None and not incarnation.timed and event.at >= start else None
    node, explained = incarnation.node, incarnation.kind is NODE
    counted = Counted(
        event.key, event.at, event.name, event.id, node, node.cluster, age, explained, released_by
    )
    draft.keep(_after(event, incarnation, draft.now, ends=ends), counted)
    return counted


def _after(event: InstanceInterrupted, before: Instance, now: float, *, ends: bool) -> Instance:
    """The incarnation once it was interrupted."""
    # By position: every interruption comes here, and `_replace` looks for each field by its name.
    name, identity, kind, node, _, _, alive, announced, failed, timed, overflowed, operation = before[:12]
    created_at, started_at, interrupted_at, ended_at = before[12:]
    return instance_of(
        (
            name,
            identity,
            kind,
            node,
            now,
            True,  # that it was interrupted proves it to be Spot
            alive and not ends,
            announced,
            failed,
            timed or ends,
            overflowed,
            operation,
            created_at,
            started_at,
            _latest(interrupted_at, event.at),
            _earliest(ended_at, event.at) if ends else ended_at,
        )
    )


def _ends(event: InstanceInterrupted, incarnation: Instance) -> bool:
    # An id says which instance it was, whatever the clocks; only a later start outlives the interruption.
    # Without an id, an interruption from before the creation was another incarnation's.
    if incarnation.started_at is not None and incarnation.started_at > event.at:
        return False
    return bool(event.id) or incarnation.created_at is None or incarnation.created_at <= event.at


def _created(event: InstanceCreated, known: Known, draft: Draft) -> Outcome:
    if known.seen:
        draft.changes.append(See(event.key))
        return Duplicate()
    before = _known_before(event, draft)
    if event.node is None:
        if before is None or before.kind is UNEXPLAINED:
            _learn(event, before, draft)
            release(known.parked, draft, "creation")
        return NO_CLUSTER_LABEL
    instance = _learn(event, before, draft)
    draft.changes += (See(event.key), Show(instance.labels, cluster_alone=event.spot is False))
    release(known.parked, draft, "creation")
    _forget_failed(draft)
    return Tracked(event.name, event.node)


def _learn(event: InstanceCreated, before: Instance | None, draft: Draft) -> Instance:
    """Keep what a creation says of its instance, whether the instance is new or known already."""
    if before is not None and _is_another_operation(event.operation, before):
        return _learn_start(event, before, draft)
    identity = event.id or (f"~{event.key}" if before is None else before.identity)
    if before is None:
        instance = unexplained(event.name, identity, draft.now)
    else:
        instance = draft.rename(before, identity)
    instance = _described(instance, event, draft)
    instance = _with_failure(instance._replace(alive=instance.alive or before is None), draft)
    instance = succeed(instance, draft)
    draft.keep(instance)
    if before is not None and before.kind is UNEXPLAINED and event.node is not None:
        draft.changes.append(Explain(event.name, before.identity, event.node))
    return instance


def _learn_start(event: InstanceCreated, known: Instance, draft: Draft) -> Instance:
    """Keep another start of a known instance: of two starts, the later has the instance's identity."""
    instance = unexplained(event.name, known.identity, draft.now)._replace(alive=True, spot=known.spot)
    instance = _with_failure(_described(instance, event, draft), draft)
    older, newer = sorted((known, instance), key=_start_order)
    restarted = _started_again(newer, older)
    if older is known:
        draft.forget(known)
        draft.incarnations[_start_identity(known)] = known  # its creation has been counted
    _keep_older_start(older, newer, draft)
    draft.keep(succeed(restarted, draft)._replace(recorded_at=draft.now))
    return instance


def _described(instance: Instance, event: InstanceCreated, draft: Draft) -> Instance:
    return instance._replace(
        kind=NO_NODE if event.node is None else NODE,
        node=event.node or UNKNOWN_NODE,
        spot=instance.spot or event.spot is True,
        announced=instance.announced or event.node is not None,
        operation=event.operation or instance.operation,
        # A listing gives the first start; the creation may be of a later one.
        created_at=instance.created_at if instance.announced else event.at,
        recorded_at=draft.now,
    )


def _started_again(newer: Instance, older: Instance) -> Instance:
    """Return the newer of two starts of one instance, with what has happened to the instance since it."""
    start = _birth(newer)
    interrupted_at = max(
        (at for at in (newer.interrupted_at, older.interrupted_at) if at is not None), default=None
    )
    # A failure ends its own start alone.
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
    """Remember an earlier start of an instance by its operation: its failure may still come."""
    draft.keep(
        older._replace(
            identity=_start_identity(older),
            alive=False,
            ended_at=_earliest(older.ended_at, _birth(newer)),
            recorded_at=draft.now,
        )
    )


def _start_identity(instance: Instance) -> str:
    return f"~{instance.operation}"


def _start_order(instance: Instance) -> tuple[float, str]:
    return _birth(instance), instance.operation


def succeed(instance: Instance, draft: Draft) -> Instance:
    """The incarnation in its place among those of its name: it ends older ones, a newer one has ended it.

    Dead ones too: an accepted insert tells that the name was free, even if it failed afterwards.
    """
    if instance.created_at is None:
        return instance
    others = [other for other in draft.incarnations.values() if other.identity != instance.identity]
    newer = [_birth(other) for other in others if _birth(other) > instance.created_at]
    if newer:
        return instance._replace(alive=False, ended_at=_earliest(instance.ended_at, min(newer)))
    for other in others:
        if other.alive:
            draft.keep(other._replace(alive=False, ended_at=instance.created_at, recorded_at=draft.now))
    return instance


def _place(moved: Instance, draft: Draft) -> None:
    """Keep an incarnation that had another name, together with what is known of it under its new name."""
    twin = draft.incarnations.get(moved.identity)
    # What it and its twin announced has been counted: `keep` compares with what it finds here.
    draft.incarnations[moved.identity] = moved
    if twin is None:
        joined = moved
    elif _is_another_operation(moved.operation, twin):
        older, newer = sorted((moved, twin), key=_start_order)
        joined = _started_again(newer, older)
        draft.incarnations[_start_identity(older)] = older
        draft.incarnations[newer.identity] = newer
        _keep_older_start(older, newer, draft)
    else:
        draft.incarnations[moved.identity] = twin if twin.announced else moved
        joined = _joined(moved, twin)
    draft.keep(succeed(joined, draft))
    if moved.kind is NODE:
        draft.changes.append(Show(moved.labels, cluster_alone=not moved.spot))
        if twin is not None and twin.kind is UNEXPLAINED:
            draft.changes.append(Explain(moved.name, moved.identity, moved.node))


def _joined(moved: Instance, twin: Instance) -> Instance:
    """One incarnation, of which the project's two spellings told different things."""
    told, end = (twin, moved) if moved.kind is UNEXPLAINED else (moved, twin)
    return told._replace(
        spot=told.spot or end.spot,
        alive=told.alive and end.alive,
        announced=told.announced or end.announced,
        failed=told.failed or end.failed,
        timed=told.timed or end.timed,
        operation=told.operation or end.operation,
        started_at=end.started_at if told.started_at is None else told.started_at,
        interrupted_at=end.interrupted_at if told.interrupted_at is None else told.interrupted_at,
        ended_at=end.ended_at if told.ended_at is None else told.ended_at,
    )


def release(waiting: Sequence[Parked], draft: Draft, by: ReleasedBy) -> None:
    """Settle the waiting interruptions that what is known now explains."""
    for parked in sorted(waiting, key=lambda parked: parked.event.at):
        event = parked.event
        incarnation = _belongs_to(event, draft.incarnations)
        if incarnation is not None:
            draft.changes.append(Release(event.key, event.name, by))
            _settle(event, incarnation, draft, by)


def _failed(event: CreationFailed, draft: Draft) -> Outcome:
    """End what the failed insert's first entry announced, or remember that it will have ended."""
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
    """Return the identity under which a failure waits for its creation; "" if nothing can match the two."""
    if event.id and event.id not in incarnations:
        return event.id
    return event.operation and f"~{event.operation}"


def _is_another_operation(operation: str, instance: Instance) -> bool:
    return bool(operation and instance.operation and operation != instance.operation)


def _without_failure(instance: Instance, failures: list[CreationFailed]) -> Instance | None:
    """Return what is known of an instance besides a failure that no creation has claimed; None if nothing is.

    Add the failure to `failures`.
    """
    if not instance.failed or instance.announced or instance.kind is NO_NODE:
        return instance
    at = 0.0 if instance.ended_at is None else instance.ended_at
    failures.append(CreationFailed(at, instance.name, instance.id, instance.operation))
    if instance.kind is UNEXPLAINED and instance.interrupted_at is None:
        return None
    # A listing has described it, or it was interrupted.
    return instance._replace(
        failed=False, operation="", alive=instance.interrupted_at is None, ended_at=instance.interrupted_at
    )


def _part_from_failure(instance: Instance, draft: Draft, failures: list[CreationFailed]) -> Instance | None:
    """Do as `_without_failure`, and keep what it returns."""
    rest = _without_failure(instance, failures)
    if rest is not instance:
        draft.forget(instance)
        if rest is not None:
            draft.keep(rest)
    return rest


def _with_failure(instance: Instance, draft: Draft) -> Instance:
    """Return the instance as failed if its operation's failure was remembered by the operation."""
    failure = draft.incarnations.get(_start_identity(instance))
    if failure is None or not failure.failed or failure.kind is not UNEXPLAINED:
        return instance
    draft.forget(failure)
    ended_at = failure.ended_at if instance.ended_at is None else instance.ended_at
    return instance._replace(failed=True, alive=False, ended_at=ended_at)


def _forget_failed(draft: Draft) -> None:
    """Forget failed creations that nothing is to come of, but the newest.

    A stock-out can go on for weeks, and every event reads all that is known under its name.
    """
    failed = [
        one for one in draft.incarnations.values() if one.failed and (one.announced or one.kind is NO_NODE)
    ]
    for old in sorted(failed, key=_birth)[:-_FAILED_KEPT]:
        del draft.incarnations[old.identity]
        draft.changes.append(Forget(old.name, old.identity))


def _announced_by(event: CreationFailed, incarnations: dict[str, Instance]) -> Instance | None:
    """Return what the failed operation announced; found by the id only if its own operation is not known."""
    if event.operation:
        for incarnation in incarnations.values():
            if incarnation.operation == event.operation:
                return incarnation
    named = incarnations.get(event.id) if event.id else None
    return None if named is None or named.operation else named


def _known_before(event: InstanceCreated, draft: Draft) -> Instance | None:
    """Return what is known of the instance, without a failure that belongs to another operation."""
    before = _described_by(event, draft.incarnations)
    if before is None or not event.operation or event.operation == before.operation:
        return before
    failures: list[CreationFailed] = []
    rest = _part_from_failure(before, draft, failures)
    for failure in failures:
        if failure.operation:
            _failed(replace(failure, id=""), draft)  # the id is this creation's
    return rest


def _described_by(event: InstanceCreated, incarnations: dict[str, Instance]) -> Instance | None:
    """The incarnation that a creation tells of, where it is known already (from a listing, or by its end)."""
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


def _belongs_to(event: InstanceInterrupted, incarnations: Mapping[str, Instance]) -> Instance | None:
    """The explained incarnation that was interrupted: by its id; without one, the incarnation alive then."""
    if event.id:
        named = incarnations.get(event.id)
        return None if named is None or named.kind is UNEXPLAINED else named
    lived = [
        incarnation
        for incarnation in incarnations.values()
        if incarnation.kind is not UNEXPLAINED and not incarnation.failed
    ]
    then = [incarnation for incarnation in lived if _lived_at(event.at, incarnation)]
    return max(then or lived, key=_birth, default=None)


def _nearest_before(at: float, incarnations: Iterable[Instance]) -> Instance | None:
    explained = [incarnation for incarnation in incarnations if incarnation.kind is not UNEXPLAINED]
    before = [incarnation for incarnation in explained if _birth(incarnation) <= at]
    return max(before or explained, key=_birth, default=None)


def _lived_at(at: float, incarnation: Instance) -> bool:
    return _birth(incarnation) <= at and (incarnation.ended_at is None or at <= incarnation.ended_at)


def _birth(incarnation: Instance) -> float:
    return float("-inf") if incarnation.created_at is None else incarnation.created_at


def _latest(known: float | None, at: float) -> float:
    return at if known is None or at > known else known


def _earliest(known: float | None, at: float) -> float:
    return at if known is None or at < known else known
