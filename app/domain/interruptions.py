"""The rules for interruptions: the incarnation that an interruption belongs to, and what it changes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from app.domain.changes import AddPending, Decision, EnsureSeries, Known, ReleasePending
from app.domain.draft import Draft, created_at_or_start_of_time, earliest, latest
from app.domain.events import UNKNOWN_NODE, Ignored, InstanceInterrupted
from app.domain.instances import (
    NODE,
    PLAIN_INSTANCE,
    UNDESCRIBED,
    Instance,
    PendingInterruption,
    undescribed_instance,
)
from app.domain.outcomes import Counted, Duplicate, Outcome, Pending, ReleasedBy

IGNORED_NOT_A_NODE: Final = Ignored("not_a_node")


def decide_interruption(
    event: InstanceInterrupted, known: Known, grace_until: float, draft: Draft
) -> Outcome:
    """Count an interruption if its instance is known; if not, keep it until it is known."""
    if known.seen:
        return Duplicate()
    incarnation = find_interrupted(event, draft.incarnations)
    if incarnation is None:
        draft.changes += (
            AddPending(PendingInterruption(event, grace_until)),
            EnsureSeries(undescribed_instance(event.name, event.id, draft.now).labels),
        )
        return Pending(event.name.project)
    return _count(event, incarnation, draft, None)


def expire(pending: PendingInterruption, known: Known, now: float) -> Decision:
    """Return the outcome of a pending interruption at the end of its grace period, and its changes.

    The interruption takes the labels of the latest earlier incarnation of its name, otherwise those of the
    newest, otherwise `unknown`. No other incarnation ends. An ended incarnation is stored, so that a creation
    event that arrives later finds it.
    """
    event = pending.event
    draft = Draft(known.incarnations, now)
    draft.changes.append(ReleasePending(event.key, event.name, "expiry"))
    incarnation = _find_or_guess(event, draft)
    return Decision(_count(event, incarnation, draft, "expiry"), draft.changes)


def past_row(event: InstanceInterrupted, known: Known, now: float) -> tuple[Counted, str] | None:
    """Return the ledger row of an interruption from before the store counted, and its incarnation's identity.

    Return None if the instance is not a GKE node.
    """
    incarnation = _find_or_guess(event, Draft(known.incarnations, now))
    if incarnation.kind is PLAIN_INSTANCE:
        return None
    return replace(_ledger_row(event, incarnation, None), counted_as=""), incarnation.identity


def release_pending(pending: Sequence[PendingInterruption], draft: Draft, by: ReleasedBy) -> None:
    """Count the pending interruptions whose instances are known now, in the order of their times."""
    for event in sorted((interruption.event for interruption in pending), key=lambda event: event.at):
        incarnation = find_interrupted(event, draft.incarnations)
        if incarnation is not None:
            draft.changes.append(ReleasePending(event.key, event.name, by))
            _count(event, incarnation, draft, by)


def _count(
    event: InstanceInterrupted, incarnation: Instance, draft: Draft, released_by: ReleasedBy | None
) -> Counted | Ignored:
    """Count an interruption of the incarnation, and end the incarnation unless it was started later."""
    if incarnation.kind is PLAIN_INSTANCE:
        return IGNORED_NOT_A_NODE
    counted = _ledger_row(event, incarnation, released_by)
    ends = _ends(event, incarnation)
    draft.keep(_with_interruption(event, incarnation, draft.now, ends=ends), counted)
    return counted


def _ledger_row(event: InstanceInterrupted, incarnation: Instance, released_by: ReleasedBy | None) -> Counted:
    start = incarnation.created_at if incarnation.started_at is None else incarnation.started_at
    has_age = not incarnation.lifetime_observed and start is not None and event.at >= start
    age = event.at - start if has_age and start is not None else None
    node, attributed = incarnation.node, incarnation.kind is NODE
    return Counted(
        event.key,
        event.at,
        event.name,
        event.id,
        node,
        node.cluster,
        age,
        attributed,
        released_by,
        event.details,
    )


def _with_interruption(event: InstanceInterrupted, before: Instance, now: float, *, ends: bool) -> Instance:
    spot = True  # only Spot instances are interrupted
    alive, lifetime_observed, ended_at = before.alive, before.lifetime_observed, before.ended_at
    if ends:
        alive, lifetime_observed, ended_at = False, True, earliest(ended_at, event.at)
    # In the order of the fields: `_replace`, or arguments by name, would take 2 % of a push more.
    return Instance(
        before.name,
        before.identity,
        before.kind,
        before.node,
        now,
        spot,
        alive,
        before.announced,
        before.failed,
        lifetime_observed,
        before.overflowed,
        before.deleted,
        before.operation,
        before.created_at,
        before.started_at,
        latest(before.interrupted_at, event.at),
        ended_at,
    )


def _ends(event: InstanceInterrupted, incarnation: Instance) -> bool:
    # The id identifies the instance even if clocks differ. Only an instance that was started later lives on.
    # Without an id, an interruption before the creation belongs to another incarnation.
    if incarnation.started_at is not None and incarnation.started_at > event.at:
        return False
    return bool(event.id) or incarnation.created_at is None or incarnation.created_at <= event.at


def find_interrupted(event: InstanceInterrupted, incarnations: Mapping[str, Instance]) -> Instance | None:
    """Return the described incarnation with the event's id; without an id, the one alive at that time."""
    if event.id:
        named = incarnations.get(event.id)
        return None if named is None or named.kind is UNDESCRIBED else named
    lived = [
        incarnation
        for incarnation in incarnations.values()
        if incarnation.kind is not UNDESCRIBED and not incarnation.failed
    ]
    then = [incarnation for incarnation in lived if _lived_at(event.at, incarnation)]
    return max(then or lived, key=created_at_or_start_of_time, default=None)


def _find_or_guess(event: InstanceInterrupted, draft: Draft) -> Instance:
    """Return the event's incarnation; if it is not known, a new one with the labels of the nearest."""
    incarnation = find_interrupted(event, draft.incarnations)
    if incarnation is not None:
        return incarnation
    nearest = _nearest_before(event.at, draft.incarnations.values())
    if nearest is not None and nearest.kind is PLAIN_INSTANCE:
        return nearest
    identity = event.id or f"~{event.key}"
    undescribed = draft.incarnations.get(identity) or undescribed_instance(event.name, identity, draft.now)
    return undescribed._replace(node=UNKNOWN_NODE if nearest is None else nearest.node)


def _nearest_before(at: float, incarnations: Iterable[Instance]) -> Instance | None:
    described = [incarnation for incarnation in incarnations if incarnation.kind is not UNDESCRIBED]
    before = [incarnation for incarnation in described if created_at_or_start_of_time(incarnation) <= at]
    return max(before or described, key=created_at_or_start_of_time, default=None)


def _lived_at(at: float, incarnation: Instance) -> bool:
    return created_at_or_start_of_time(incarnation) <= at and (
        incarnation.ended_at is None or at <= incarnation.ended_at
    )
