"""The rules for an event: its outcome and its changes, from the rows of its instance name.

`reconcile` has the rules for a listing. The rules are pure and total: no I/O, no clock. Changes are values.
"""

from dataclasses import replace
from typing import Final, assert_never

from app.domain.changes import Attribute, Decision, EnsureSeries, Known, Rules
from app.domain.deletions import decide_deletion
from app.domain.draft import Draft, order_among_incarnations, start_identity_of
from app.domain.events import (
    UNKNOWN_NODE,
    CreationFailed,
    Event,
    Ignored,
    InstanceCreated,
    InstanceDeleted,
    InstanceInterrupted,
)
from app.domain.failures import decide_failure, separate_failure, with_failure
from app.domain.instances import NODE, PLAIN_INSTANCE, UNDESCRIBED, Instance, undescribed_instance
from app.domain.interruptions import decide_interruption, release_pending
from app.domain.outcomes import Duplicate, Outcome, Tracked
from app.domain.reconcile import CLOCK_TOLERANCE_SECONDS
from app.domain.starts import is_another_operation, keep_older_start, merged_starts, start_order

IGNORED_NO_CLUSTER_LABEL: Final = Ignored("no_cluster_label")


def decide(event: Event, known: Known, rules: Rules, now: float, grace_until: float) -> Decision:
    """Return the outcome of an event, and its changes. `now` is the time of the exporter's clock.

    `grace_until`: the end of a grace period that begins now, by the clock of `PendingInterruption.until`.
    """
    draft = Draft(known.incarnations, now)
    if isinstance(event, InstanceInterrupted):
        outcome = decide_interruption(event, known, grace_until, draft)
    elif isinstance(event, InstanceCreated):
        outcome = _decide_creation(event, known, draft)
    elif isinstance(event, CreationFailed):
        outcome = decide_failure(event, draft)
    elif isinstance(event, InstanceDeleted):
        outcome = decide_deletion(event, rules, draft)
    else:
        assert_never(event)
    return Decision(outcome, draft.changes)


def _decide_creation(event: InstanceCreated, known: Known, draft: Draft) -> Outcome:
    if known.seen:
        return Duplicate()
    before = _find_created(event, draft)
    if event.node is None:
        if before is None or before.kind is UNDESCRIBED:
            _record_creation(event, before, known, draft)
            release_pending(known.pending, draft, "creation")
        return IGNORED_NO_CLUSTER_LABEL
    instance = _record_creation(event, before, known, draft)
    draft.changes.append(EnsureSeries(instance.labels, only_cluster=event.spot is False))
    release_pending(known.pending, draft, "creation")
    return Tracked(event.name, event.node)


def _record_creation(event: InstanceCreated, before: Instance | None, known: Known, draft: Draft) -> Instance:
    """Store the description of an instance that a creation gives. The instance may be known already."""
    if before is not None and is_another_operation(event.operation, before):
        return _record_another_start(event, before, draft)
    identity = event.id or (f"~{event.key}" if before is None else before.identity)
    if before is None:
        instance = _unknown_instance(event, identity, known, draft.now)
    else:
        instance = draft.rename(before, identity)
    instance = with_failure(_with_description(instance, event, draft), draft)
    instance = order_among_incarnations(instance, draft)
    draft.keep(instance)
    if event.node is not None and (before is None or before.kind is UNDESCRIBED):
        # Even without a stored incarnation: the ledger may have its interruption from before counting began.
        described = identity if before is None else before.identity
        draft.changes.append(Attribute(event.name, described, event.node))
    return instance


def _unknown_instance(event: InstanceCreated, identity: str, known: Known, now: float) -> Instance:
    """Return a new incarnation. It has ended if it is missing from a later listing."""
    listed_at = known.listed_at
    is_missing = listed_at is not None and event.at < listed_at - CLOCK_TOLERANCE_SECONDS
    ended_at = listed_at if is_missing else None
    return Instance(
        event.name, identity, UNDESCRIBED, UNKNOWN_NODE, now, alive=not is_missing, ended_at=ended_at
    )


def _record_another_start(event: InstanceCreated, known: Instance, draft: Draft) -> Instance:
    """Store another start of a known instance. The later of two starts has the instance's identity."""
    instance = undescribed_instance(event.name, known.identity, draft.now)._replace(
        alive=True, spot=known.spot
    )
    instance = with_failure(_with_description(instance, event, draft), draft)
    older, newer = sorted((known, instance), key=start_order)
    restarted = merged_starts(newer, older)
    if older is known:
        draft.remove(known)
        draft.incarnations[start_identity_of(known.operation)] = known  # its creation is already counted
    keep_older_start(older, newer, draft)
    draft.keep(order_among_incarnations(restarted, draft)._replace(recorded_at=draft.now))
    return instance


def _with_description(instance: Instance, event: InstanceCreated, draft: Draft) -> Instance:
    return instance._replace(
        kind=PLAIN_INSTANCE if event.node is None else NODE,
        node=event.node or UNKNOWN_NODE,
        spot=instance.spot or event.spot is True,
        announced=instance.announced or event.node is not None,
        operation=event.operation or instance.operation,
        # A listing gives the time of the first start. The creation event may be for a later start.
        created_at=instance.created_at if instance.announced else event.at,
        recorded_at=draft.now,
    )


def _find_created(event: InstanceCreated, draft: Draft) -> Instance | None:
    """Return the instance that a creation describes, without the failure of another operation."""
    before = _find_described(event, draft.incarnations)
    if before is None or not event.operation or event.operation == before.operation:
        return before
    failures: list[CreationFailed] = []
    rest = separate_failure(before, draft, failures)
    for failure in failures:
        if failure.operation:
            decide_failure(replace(failure, id=""), draft)  # the id belongs to this creation
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
        if incarnation.kind is UNDESCRIBED
        and not incarnation.id
        and incarnation.interrupted_at is not None
        and incarnation.interrupted_at >= event.at
    ]
    return incarnations[min(interrupted_since)[1]] if interrupted_since else None
