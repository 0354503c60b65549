"""The move of incarnations to another name: the name with the project's id instead of its number."""

from collections.abc import Iterable, Sequence

from app.domain.changes import Attribute, Change, EnsureSeries, Known, RemoveInstance
from app.domain.draft import Draft, order_among_incarnations, start_identity_of
from app.domain.events import CreationFailed, InstanceName
from app.domain.failures import decide_failure, separate_failure, take_out_failure
from app.domain.instances import NODE, UNDESCRIBED, Instance
from app.domain.interruptions import release_pending
from app.domain.starts import is_another_operation, keep_older_start, merged_starts, start_order


def move_incarnations(
    incarnations: Iterable[Instance], there: Known, name: InstanceName, now: float
) -> Sequence[Change]:
    """Move incarnations to another name: the name with the project's id instead of its number.

    `there` has the rows of the new name, and the pending interruptions of both names.
    """
    draft = Draft(there.incarnations, now)
    failures: list[CreationFailed] = []
    for incarnation in there.incarnations.values():
        separate_failure(incarnation, draft, failures)
    for incarnation in incarnations:
        draft.changes.append(RemoveInstance(incarnation.name, incarnation.identity))
        moved = take_out_failure(incarnation._replace(name=name), failures)
        if moved is not None:
            _add_renamed(moved, draft)
    for failure in failures:
        decide_failure(failure, draft)
    release_pending(there.pending, draft, "creation")
    return draft.changes


def _add_renamed(moved: Instance, draft: Draft) -> None:
    """Store an incarnation that had another name, merged with its duplicate under the new name."""
    duplicate = draft.incarnations.get(moved.identity)
    # The creations of both are already counted: `keep` compares with the row that it finds here.
    draft.incarnations[moved.identity] = moved
    if duplicate is None:
        merged = moved
    elif is_another_operation(moved.operation, duplicate):
        older, newer = sorted((moved, duplicate), key=start_order)
        merged = merged_starts(newer, older)
        draft.incarnations[start_identity_of(older.operation)] = older
        draft.incarnations[newer.identity] = newer
        keep_older_start(older, newer, draft)
    else:
        draft.incarnations[moved.identity] = duplicate if duplicate.announced else moved
        merged = _merged(moved, duplicate)
    draft.keep(order_among_incarnations(merged, draft))
    if moved.kind is NODE:
        draft.changes.append(EnsureSeries(moved.labels, only_cluster=not moved.spot))
        if duplicate is not None and duplicate.kind is UNDESCRIBED:
            draft.changes.append(Attribute(moved.name, moved.identity, moved.node))


def _merged(moved: Instance, duplicate: Instance) -> Instance:
    """Return one incarnation from the two that are stored under the project's number and id."""
    described, other = (duplicate, moved) if moved.kind is UNDESCRIBED else (moved, duplicate)
    return described._replace(
        spot=described.spot or other.spot,
        alive=described.alive and other.alive,
        announced=described.announced or other.announced,
        failed=described.failed or other.failed,
        deleted=described.deleted or other.deleted,
        lifetime_observed=described.lifetime_observed or other.lifetime_observed,
        operation=described.operation or other.operation,
        started_at=_first_known(described.started_at, other.started_at),
        interrupted_at=_first_known(described.interrupted_at, other.interrupted_at),
        ended_at=_first_known(described.ended_at, other.ended_at),
    )


def _first_known(first: float | None, second: float | None) -> float | None:
    return second if first is None else first
