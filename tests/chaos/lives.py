"""Names that are used again and again, and what Pub/Sub delivers of them: early, late, and more than once."""

import random
from datetime import UTC, datetime, timedelta
from typing import Final

from tests.chaos.traffic import Message, Node, Traffic
from tests.support.entries import JsonObject, insert, made_id, preempted, push
from tests.support.program import SUBSCRIPTIONS, endpoint_of

AGE_SECONDS: Final = 3600
"""How old each instance gets."""
_BEGAN: Final = datetime(2026, 3, 2, tzinfo=UTC)
_MACHINE_TYPES: Final = tuple(f"n2-standard-{2 * number}" for number in range(1, 11))
_EARLY: Final = 0.3
_REDELIVERED: Final = 0.2
_EXPORTED_AGAIN: Final = 0.05
_APART: Final = 100
"""How many lives lie between a creation and its interruption, about."""


def lives(chance: random.Random, *, interruptions: int, names: int) -> Traffic:
    """One interruption of each instance, whose name is soon that of another instance.

    Three in ten come before their creation. One message in five is redelivered, one in twenty exported
    again under another message id. New clusters and machine types appear all the time.
    """
    made = Traffic()
    placed: list[tuple[float, Message]] = []

    def place(entry: JsonObject, position: float) -> None:
        at = position + chance.uniform(0, _APART)
        placed.append((at, _message(entry)))
        if chance.random() < _REDELIVERED:
            placed.append((at + chance.uniform(0, 20 * _APART), _message(entry)))
        if chance.random() < _EXPORTED_AGAIN:
            other = made_id("again", entry["insertId"])
            placed.append((at + chance.uniform(0, 20 * _APART), _message(entry, other)))

    for number in range(interruptions):
        life, name_number = divmod(number, names)
        name = f"gke-{name_number}"
        # A life's machine type is its own: an interruption that went to another life would show.
        node = Node.numbered(name_number, names, _MACHINE_TYPES[life % len(_MACHINE_TYPES)])
        instance_id = made_id(name, str(life))
        created_at = _BEGAN + timedelta(hours=6 * life, seconds=name_number)
        at = created_at + timedelta(seconds=AGE_SECONDS)
        creation = insert(
            name,
            instance_id=instance_id,
            **node._asdict(),
            timestamp=created_at.isoformat(),
            operation=f"insert-{number}",
        )
        place(creation, number + _APART)
        early = chance.random() < _EARLY
        interruption = preempted(name, zone=node.zone, instance_id=instance_id, timestamp=at.isoformat())
        place(interruption, number if early else number + 2 * _APART)
        made.expect(instance_id, node, [at])
    placed.sort(key=lambda one: one[0])
    made.messages = [message for _, message in placed]
    return made


def _message(entry: JsonObject, message_id: str | None = None) -> Message:
    endpoint = endpoint_of(entry)
    subscription = f"projects/shop-prod/subscriptions/{SUBSCRIPTIONS[endpoint]}"
    return Message(endpoint, push(entry, subscription=subscription, message_id=message_id), twice=False)
