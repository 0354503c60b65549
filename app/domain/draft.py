"""The incarnations of one name while a decision changes them."""

from collections.abc import Mapping

from app.domain.changes import Change, RemoveInstance, StoreInstance
from app.domain.instances import Instance
from app.domain.outcomes import Counted


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


def order_among_incarnations(instance: Instance, draft: Draft) -> Instance:
    """Return the incarnation, ended if its name has a newer one; otherwise, end the older incarnations.

    Even an ended incarnation ends the older incarnations: an accepted insert proves that the name was
    free, even if the insert failed later.
    """
    if instance.created_at is None:
        return instance
    others = [other for other in draft.incarnations.values() if other.identity != instance.identity]
    newer = [
        created_at_or_start_of_time(other)
        for other in others
        if created_at_or_start_of_time(other) > instance.created_at
    ]
    if newer:
        return instance._replace(alive=False, ended_at=earliest(instance.ended_at, min(newer)))
    for other in others:
        if other.alive:
            draft.keep(other._replace(alive=False, ended_at=instance.created_at, recorded_at=draft.now))
    return instance


def start_identity_of(operation: str) -> str:
    """Return the identity of what is known only by the operation that announced it.

    That is an older start of an instance, or a failure without its creation.
    """
    return f"~{operation}"


def created_at_or_start_of_time(incarnation: Instance) -> float:
    """Return the time of the creation, as a key for sorting: an unknown one comes first."""
    return float("-inf") if incarnation.created_at is None else incarnation.created_at


def latest(known: float | None, at: float) -> float:
    """Return the later of a time that may be unknown and another."""
    return at if known is None or at > known else known


def earliest(known: float | None, at: float) -> float:
    """Return the earlier of a time that may be unknown and another."""
    return at if known is None or at < known else known
