"""The rules of a listing: what a fleet, as it was when its listing began, changes of what is known.

Pure, as `attribution` is. A listing tells what lives; it undoes nothing that has happened since it began.
"""

from collections.abc import Sequence
from typing import Final

from app.domain.attribution import Change, Draft, Explain, Keep, Known, Show, release, succeed
from app.domain.events import UNKNOWN, UNKNOWN_NODE, Listed, Node
from app.domain.instances import NO_NODE, NODE, UNEXPLAINED, Instance, Kind

_RENEWAL_SECONDS: Final = 43200.0
"""What a listing merely confirms is written again so seldom: most of a fleet is the same each time.

Half of the shortest retention, so that nothing that is listed is ever forgotten.
"""
_SETTLING_SECONDS: Final = 60.0
"""What was announced so short a time before a listing began may be missing from it, and lives.

Times that a log entry and the Compute API tell of one creation are no further apart.
"""


def hear(listed: Listed, known: Known, began: float, now: float) -> Sequence[Change]:
    """What it changes that a listing, begun at that moment, names the instance."""
    draft = Draft(known.incarnations, now)
    before = _known_as(listed, draft)
    if before is None:
        instance = _discovered(listed, began, now)
    else:
        instance = _updated(draft.rename(before, listed.id), listed, began)
    instance = succeed(instance, draft)
    if instance != before or now - instance.recorded_at > _RENEWAL_SECONDS:
        draft.keep(instance._replace(recorded_at=now))
    if instance.kind is NODE:
        draft.changes.append(Show(instance.labels, cluster_alone=not instance.spot))
        if before is not None and before.kind is UNEXPLAINED:
            draft.changes.append(Explain(instance.name, before.identity, instance.node))
    release(known.parked, draft, "inventory")
    return draft.changes


def ends_what_it_misses(began: float, previous: float | None) -> bool:
    """Whether a complete listing ends what it does not name; `previous`: when the last one that did began.

    What a listing confirms without news is not written: the last confirmation may be as late as that one's.
    """
    return previous is None or began - previous >= _SETTLING_SECONDS


def miss(instance: Instance, began: float, now: float) -> Sequence[Change]:
    """What it changes that a complete listing, begun at that moment, does not name the instance."""
    if not instance.alive or instance.recorded_at >= began - _SETTLING_SECONDS:
        return ()
    return (Keep(instance._replace(alive=False, ended_at=began, recorded_at=now)),)


def _known_as(listed: Listed, draft: Draft) -> Instance | None:
    """The incarnation, by its id; or the living one of its name, if its id was never told."""
    by_id = draft.incarnations.get(listed.id)
    if by_id is not None or not listed.alive:
        return by_id
    living = (one for one in draft.incarnations.values() if one.alive and not one.id)
    return next((one for one in living if not _is_newer(listed, one)), None)


def _is_newer(listed: Listed, known: Instance) -> bool:
    if listed.created_at is None or known.created_at is None:
        return False
    return listed.created_at > known.created_at + _SETTLING_SECONDS


def _discovered(listed: Listed, began: float, now: float) -> Instance:
    return Instance(
        listed.name,
        listed.id,
        NO_NODE if listed.node is None else NODE,
        listed.node or UNKNOWN_NODE,
        now,
        spot=listed.spot,
        alive=listed.alive,
        created_at=listed.created_at,
        started_at=listed.started_at,
        ended_at=None if listed.alive else began,
    )


def _updated(before: Instance, listed: Listed, began: float) -> Instance:
    started_at = max((at for at in (before.started_at, listed.started_at) if at is not None), default=None)
    interrupted_at = before.interrupted_at
    restarted = interrupted_at is not None and started_at is not None and started_at > interrupted_at
    alive = _lives(before, listed, began, restarted=restarted)
    return before._replace(
        kind=_kind(before, listed),
        node=_node(before, listed),
        spot=before.spot or listed.spot,
        alive=alive,
        timed=before.timed and not (restarted and started_at != before.started_at),
        created_at=listed.created_at if before.created_at is None else before.created_at,
        started_at=started_at,
        ended_at=None if alive else began if before.ended_at is None else before.ended_at,
    )


def _lives(before: Instance, listed: Listed, began: float, *, restarted: bool) -> bool:
    if not listed.alive or before.alive:
        return listed.alive
    # It may be listed as running for minutes after it was taken: only a later start speaks for it.
    if before.interrupted_at is not None:
        return restarted
    return before.ended_at is None or before.ended_at <= began


def _kind(before: Instance, listed: Listed) -> Kind:
    if listed.node is not None:
        return NODE
    return NO_NODE if before.kind is UNEXPLAINED else before.kind


def _node(before: Instance, listed: Listed) -> Node:
    if listed.node is None:
        return before.node
    if before.kind is not NODE:
        return listed.node  # what was known may be a neighbour's
    pairs = zip(listed.node, before.node, strict=True)
    return Node(*(known if told == UNKNOWN else told for told, known in pairs))
