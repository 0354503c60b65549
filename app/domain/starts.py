"""Several starts of one instance: the newest has the instance's identity, the older ones have their own."""

from app.domain.draft import Draft, created_at_or_start_of_time, earliest, start_identity_of
from app.domain.instances import Instance


def is_another_operation(operation: str, instance: Instance) -> bool:
    """Return True if the instance was announced by another operation than this one."""
    return bool(operation and instance.operation and operation != instance.operation)


def start_order(instance: Instance) -> tuple[float, str]:
    """Return the key that sorts the starts of an instance."""
    return created_at_or_start_of_time(instance), instance.operation


def merged_starts(newer: Instance, older: Instance) -> Instance:
    """Return the newer of two starts of one instance, with all later events of the instance."""
    # The last start that is known: a listing can have seen one that nothing has announced.
    start = max(
        at
        for at in (newer.started_at, older.started_at, created_at_or_start_of_time(newer))
        if at is not None
    )
    interrupted_at = max(
        (at for at in (newer.interrupted_at, older.interrupted_at) if at is not None), default=None
    )
    # A failure ends only its own start.
    ends = (newer.ended_at, None if older.failed else older.ended_at, interrupted_at)
    ended_at = min((at for at in ends if at is not None and at >= start), default=None)
    return newer._replace(
        spot=newer.spot or older.spot,
        alive=ended_at is None and not newer.failed and not (newer.deleted or older.deleted),
        deleted=newer.deleted or older.deleted,
        lifetime_observed=(newer.lifetime_observed or older.lifetime_observed)
        and interrupted_at is not None
        and interrupted_at >= start,
        started_at=start,
        interrupted_at=interrupted_at,
        ended_at=newer.ended_at if newer.failed else ended_at,
    )


def keep_older_start(older: Instance, newer: Instance, draft: Draft) -> None:
    """Store an earlier start of an instance under its operation, because its failure may still arrive."""
    draft.keep(
        older._replace(
            identity=start_identity_of(older.operation),
            alive=False,
            ended_at=earliest(older.ended_at, created_at_or_start_of_time(newer)),
            recorded_at=draft.now,
        )
    )
