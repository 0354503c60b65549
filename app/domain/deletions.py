"""The rules for deletions, which can arrive before or after any other event of their instances."""

from typing import Final

from app.domain.changes import Rules
from app.domain.draft import Draft, earliest
from app.domain.events import Ignored, InstanceDeleted
from app.domain.instances import Instance, undescribed_instance
from app.domain.outcomes import Ended, Outcome

IGNORED_UNKNOWN_INSTANCE: Final = Ignored("unknown_instance")
_UNKNOWN_SECONDS: Final = 86400.0
"""The time for which the deletion of an unknown instance is stored, because its creation may be late."""


def decide_deletion(event: InstanceDeleted, rules: Rules, draft: Draft) -> Outcome:
    """End the deleted incarnation, which never lives again; if it is not known, store the deletion."""
    known = _find_deleted(event, draft)
    if known is None or known.is_only_deleted:
        if event.id and known is None:
            # Set back, so that pruning removes it after `_UNKNOWN_SECONDS` and not after the retention.
            recorded_at = draft.now - max(rules.retention_seconds - _UNKNOWN_SECONDS, 0.0)
            unknown = undescribed_instance(event.name, event.id, recorded_at)
            draft.keep(unknown._replace(deleted=True, ended_at=event.at))
        return IGNORED_UNKNOWN_INSTANCE
    if not known.deleted:
        draft.keep(
            known._replace(
                deleted=True,
                alive=False,
                ended_at=event.at if known.alive else earliest(known.ended_at, event.at),
                recorded_at=draft.now,
            )
        )
    return Ended()


def _find_deleted(event: InstanceDeleted, draft: Draft) -> Instance | None:
    """Return the incarnation with the event's id; without an id, the living one that is older."""
    if event.id:
        return draft.incarnations.get(event.id)
    living = (
        incarnation
        for incarnation in draft.incarnations.values()
        if incarnation.alive and incarnation.created_at is not None and incarnation.created_at < event.at
    )
    return next(living, None)
