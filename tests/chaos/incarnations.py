"""Traffic of instance names with many incarnations: messages early, late, and more than once."""

import random
from datetime import UTC, datetime, timedelta
from typing import Final

from tests.chaos.traffic import Message, Node, Traffic
from tests.support.entries import JsonObject, insert, made_id, preempted, push
from tests.support.program import SUBSCRIPTIONS, endpoint_of

AGE_SECONDS: Final = 3600
"""The age of each instance at its interruption."""
_STARTED_AT: Final = datetime(2026, 3, 2, tzinfo=UTC)
_MACHINE_TYPES: Final = tuple(f"n2-standard-{2 * number}" for number in range(1, 11))
_EARLY_SHARE: Final = 0.3
_REDELIVERED_SHARE: Final = 0.2
_EXPORTED_AGAIN_SHARE: Final = 0.05
_DISTANCE: Final = 100
"""The approximate number of incarnations between a creation and its interruption."""


def traffic_of_incarnations(
    rng: random.Random, *, interruptions: int, names: int, prefix: str = "gke"
) -> Traffic:
    """Return traffic with one interruption per instance; each name is used by several instances in turn.

    Three in ten interruptions come before their creation. One message in five is redelivered, one in twenty
    is exported again under another message id. New clusters and machine types appear throughout. `prefix` is
    the beginning of the names.
    """
    traffic = Traffic()
    placed: list[tuple[float, Message]] = []

    def place(entry: JsonObject, position: float) -> None:
        at = position + rng.uniform(0, _DISTANCE)
        placed.append((at, _message(entry)))
        if rng.random() < _REDELIVERED_SHARE:
            placed.append((at + rng.uniform(0, 20 * _DISTANCE), _message(entry)))
        if rng.random() < _EXPORTED_AGAIN_SHARE:
            other = made_id("again", entry["insertId"])
            placed.append((at + rng.uniform(0, 20 * _DISTANCE), _message(entry, other)))

    for number in range(interruptions):
        incarnation, name_number = divmod(number, names)
        name = f"{prefix}-{name_number}"
        # Incarnations of a name differ in machine type, which shows an interruption of the wrong incarnation.
        node = Node.numbered(name_number, names, _MACHINE_TYPES[incarnation % len(_MACHINE_TYPES)])
        instance_id = made_id(name, str(incarnation))
        created_at = _STARTED_AT + timedelta(hours=6 * incarnation, seconds=name_number)
        at = created_at + timedelta(seconds=AGE_SECONDS)
        creation = insert(
            name,
            instance_id=instance_id,
            **node._asdict(),
            timestamp=created_at.isoformat(),
            operation=f"insert-{prefix}-{number}",
        )
        place(creation, number + _DISTANCE)
        early = rng.random() < _EARLY_SHARE
        interruption = preempted(name, zone=node.zone, instance_id=instance_id, timestamp=at.isoformat())
        place(interruption, number if early else number + 2 * _DISTANCE)
        traffic.expect(instance_id, node, [at])
    placed.sort(key=lambda item: item[0])
    traffic.messages = [message for _, message in placed]
    return traffic


def _message(entry: JsonObject, message_id: str | None = None) -> Message:
    endpoint = endpoint_of(entry)
    subscription = f"projects/shop-prod/subscriptions/{SUBSCRIPTIONS[endpoint]}"
    return Message(
        endpoint, push(entry, subscription=subscription, message_id=message_id), to_two_replicas=False
    )
