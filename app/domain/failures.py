"""The rules for failed creations, for example in a stock-out. A failure may arrive before its creation."""

from collections.abc import Mapping
from typing import Final

from app.domain.draft import Draft, earliest, start_identity_of
from app.domain.events import CreationFailed, Ignored
from app.domain.instances import PLAIN_INSTANCE, UNDESCRIBED, Instance, undescribed_instance
from app.domain.outcomes import Outcome

IGNORED_FAILED_INSERT: Final = Ignored("failed_insert")


def decide_failure(event: CreationFailed, draft: Draft) -> Outcome:
    """End the incarnation that the failed insert announced; if it is not known yet, store the failure."""
    announced = _announced_by(event, draft.incarnations)
    if announced is None and (identity := _failure_identity(event, draft.incarnations)):
        announced = undescribed_instance(event.name, identity, draft.now)
    if announced is not None and not announced.failed:
        draft.keep(
            announced._replace(
                failed=True,
                alive=False,
                operation=announced.operation or event.operation,
                ended_at=earliest(announced.ended_at, event.at),
                recorded_at=draft.now,
            )
        )
    return IGNORED_FAILED_INSERT


def take_out_failure(instance: Instance, failures: list[CreationFailed]) -> Instance | None:
    """Move a failure that no creation has claimed from the instance to `failures`.

    Return the rest of the instance, or None if nothing else is known of it.
    """
    if not instance.failed or instance.announced or instance.kind is PLAIN_INSTANCE:
        return instance
    at = 0.0 if instance.ended_at is None else instance.ended_at
    failures.append(CreationFailed(at, instance.name, instance.id, instance.operation))
    if instance.kind is UNDESCRIBED and instance.interrupted_at is None:
        return None
    # The instance was listed, or it was interrupted.
    return instance._replace(
        failed=False, operation="", alive=instance.interrupted_at is None, ended_at=instance.interrupted_at
    )


def separate_failure(instance: Instance, draft: Draft, failures: list[CreationFailed]) -> Instance | None:
    """Take the failure out of the instance, and store the rest."""
    rest = take_out_failure(instance, failures)
    if rest is not instance:
        draft.remove(instance)
        if rest is not None:
            draft.keep(rest)
    return rest


def with_failure(instance: Instance, draft: Draft) -> Instance:
    """Return the instance, failed if the failure of its operation is stored."""
    failure = draft.incarnations.get(start_identity_of(instance.operation))
    if failure is None or not failure.failed or failure.kind is not UNDESCRIBED:
        return instance
    draft.remove(failure)
    ended_at = failure.ended_at if instance.ended_at is None else instance.ended_at
    return instance._replace(failed=True, alive=False, ended_at=ended_at)


def is_final_failure(instance: Instance) -> bool:
    """Return True if it is a creation that has failed, and whose other events have all arrived."""
    return instance.failed and (instance.announced or instance.kind is PLAIN_INSTANCE)


def _failure_identity(event: CreationFailed, incarnations: Mapping[str, Instance]) -> str:
    """Return the identity under which a failure is stored; "" if it has nothing to match its creation by."""
    if event.id and event.id not in incarnations:
        return event.id
    return event.operation and start_identity_of(event.operation)


def _announced_by(event: CreationFailed, incarnations: dict[str, Instance]) -> Instance | None:
    """Return the incarnation of the failed operation. The id counts only if its operation is not known."""
    if event.operation:
        for incarnation in incarnations.values():
            if incarnation.operation == event.operation:
                return incarnation
    named = incarnations.get(event.id) if event.id else None
    return None if named is None or named.operation else named
