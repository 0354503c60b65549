"""The rules for a listing: they compare the known instances with the listed instances, and reconcile them.

The rules are pure, as those of `attribution` are. A listing shows the fleet as it was when the listing
began, and does not undo a later event.
"""

from collections.abc import Sequence
from typing import Final

from app.domain.changes import Attribute, Change, EnsureSeries, Known, StoreInstance
from app.domain.draft import Draft, order_among_incarnations
from app.domain.events import UNKNOWN, UNKNOWN_NODE, Listed, Node
from app.domain.instances import NODE, PLAIN_INSTANCE, UNDESCRIBED, Instance, Kind
from app.domain.interruptions import release_pending

_REWRITE_SECONDS: Final = 43200.0
"""Time after which an unchanged instance is written again. Most of a fleet is the same in each listing.

Half of the shortest retention, so that the store never removes an instance that is still listed.
"""
CLOCK_TOLERANCE_SECONDS: Final = 60.0
"""An instance that was announced at most this long before a listing began may be missing from it.

Also the largest difference between the creation times in a log entry and in the Compute API.
"""


def observe_listed(listed: Listed, known: Known, began: float, now: float) -> Sequence[Change]:
    """Return the changes for an instance in a listing that began at `began`."""
    draft = Draft(known.incarnations, now)
    before = _find_listed(listed, draft)
    if before is None:
        instance = _discovered(listed, began, now)
    else:
        instance = _updated(draft.rename(before, listed.id), listed, began, now)
    instance = order_among_incarnations(instance, draft)
    if instance != before or not 0 <= now - instance.recorded_at <= _REWRITE_SECONDS:
        draft.keep(instance._replace(recorded_at=now))
    if instance.kind is NODE:
        draft.changes.append(EnsureSeries(instance.labels, only_cluster=not instance.spot))
        if before is None or before.kind is UNDESCRIBED:
            described = listed.id if before is None else before.identity
            draft.changes.append(Attribute(instance.name, described, instance.node))
    release_pending(known.pending, draft, "inventory")
    return draft.changes


def may_end_unlisted(began: float, previous: float | None) -> bool:
    """Return True if a complete listing may end instances that are missing from it.

    Unchanged instances are not written, so their last confirmation can be as recent as `previous`, the start
    of the last listing that ended instances.
    """
    # `previous` is far ahead if the exporter's clock was ahead then. Such a time protects nothing.
    return previous is None or abs(began - previous) >= CLOCK_TOLERANCE_SECONDS


def observe_missing(instance: Instance, began: float, now: float) -> Sequence[Change]:
    """Return the changes for an instance that is missing from a complete listing that began at `began`."""
    if not instance.alive:
        return ()
    if instance.recorded_at > now:
        # Recorded while the exporter's clock was ahead. The next listing may end it.
        return (StoreInstance(instance._replace(recorded_at=now)),)
    if instance.recorded_at >= began - CLOCK_TOLERANCE_SECONDS:
        return ()
    return (StoreInstance(instance._replace(alive=False, ended_at=began, recorded_at=now)),)


def _find_listed(listed: Listed, draft: Draft) -> Instance | None:
    """Return the incarnation with the listed id, otherwise the live one of its name that has no id yet."""
    by_id = draft.incarnations.get(listed.id)
    if by_id is not None or not listed.alive:
        return by_id
    without_id = (known for known in draft.incarnations.values() if known.alive and not known.id)
    return next((known for known in without_id if not _is_newer(listed, known)), None)


def _is_newer(listed: Listed, known: Instance) -> bool:
    if listed.created_at is None or known.created_at is None:
        return False
    return listed.created_at > known.created_at + CLOCK_TOLERANCE_SECONDS


def _discovered(listed: Listed, began: float, now: float) -> Instance:
    return Instance(
        listed.name,
        listed.id,
        PLAIN_INSTANCE if listed.node is None else NODE,
        listed.node or UNKNOWN_NODE,
        now,
        spot=listed.spot,
        alive=listed.alive,
        created_at=listed.created_at,
        started_at=listed.started_at,
        ended_at=None if listed.alive else began,
    )


def _updated(before: Instance, listed: Listed, began: float, now: float) -> Instance:
    started_at = max((at for at in (before.started_at, listed.started_at) if at is not None), default=None)
    interrupted_at = before.interrupted_at
    restarted = interrupted_at is not None and started_at is not None and started_at > interrupted_at
    alive = not before.deleted and _lives(before, listed, began, now, restarted=restarted)
    return before._replace(
        kind=_kind(before, listed),
        node=_node(before, listed),
        spot=before.spot or listed.spot,
        alive=alive,
        lifetime_observed=before.lifetime_observed and not (restarted and started_at != before.started_at),
        created_at=listed.created_at if before.created_at is None else before.created_at,
        started_at=started_at,
        ended_at=None if alive else began if before.ended_at is None else before.ended_at,
    )


def _lives(before: Instance, listed: Listed, began: float, now: float, *, restarted: bool) -> bool:
    if not listed.alive or before.alive:
        return listed.alive
    # An interrupted instance can be listed as running for minutes. Only a later start proves that it lives.
    if before.interrupted_at is not None:
        return restarted
    # An end after now is the time of a listing that began while the exporter's clock was ahead.
    return before.ended_at is None or not began < before.ended_at <= now


def _kind(before: Instance, listed: Listed) -> Kind:
    if listed.node is not None:
        return NODE
    return PLAIN_INSTANCE if before.kind is UNDESCRIBED else before.kind


def _node(before: Instance, listed: Listed) -> Node:
    if listed.node is None:
        return before.node
    if before.kind is not NODE:
        return listed.node  # the known node may be a guess from another incarnation
    pairs = zip(listed.node, before.node, strict=True)
    return Node(*(known if value == UNKNOWN else value for value, known in pairs))
