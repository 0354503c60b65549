"""What Pub/Sub delivers to several replicas, in disorder and more than once; and what it adds up to."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from tests.support.entries import insert, made_id, preempted
from tests.support.program import body_of, endpoint_of

CLUSTERS: Final = ("tills", "ovens", "shelves", "ledgers", "scales")
ZONES: Final = ("europe-west1-b", "europe-west1-c")
MACHINE_TYPES: Final = ("e2-standard-8", "n2-standard-4")
_LIVES: Final = 5
"""Instances of one name, one after the other; their events come close together, to different replicas."""
_BEGAN: Final = datetime(2026, 3, 2, tzinfo=UTC)
_DISORDER: Final = 60
_REDELIVERED: Final = 0.125
_TWICE_AT_ONCE: Final = 0.1

Labels = frozenset[tuple[str, str]]


class Message(NamedTuple):
    """A delivery, to be repeated until it is acknowledged."""

    endpoint: str
    body: bytes
    twice: bool
    """It goes to two replicas at the same moment."""


@dataclass(slots=True)
class Traffic:
    """The deliveries in their order, and every event's effect, once."""

    messages: Sequence[Message] = ()
    interruptions: Counter[Labels] = field(default_factory=Counter)
    by_cluster: Counter[Labels] = field(default_factory=Counter)
    created: Counter[Labels] = field(default_factory=Counter)
    lifetimes: Counter[Labels] = field(default_factory=Counter)
    ledger: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Instance ids, and the moments of their interruptions."""


def traffic(chance: random.Random, interruptions: int) -> Traffic:
    """Two interruptions of each instance, its creation often between or behind them.

    One message in eight is redelivered later, one in ten comes to two replicas at once. Clusters appear one
    after the other, the last in the last fifth.
    """
    made = Traffic()
    placed: list[tuple[float, Message]] = []

    def place(entry: dict[str, object], number: int) -> None:
        message = Message(endpoint_of(entry), body_of(entry), chance.random() < _TWICE_AT_ONCE)
        placed.append((number + chance.uniform(0, _DISORDER), message))
        if chance.random() < _REDELIVERED:
            placed.append((number + chance.uniform(0, 20 * _DISORDER), message))

    lives = interruptions // 2
    names = -(-lives // _LIVES)
    for number in range(lives):
        name_number, life = divmod(number, _LIVES)
        name = f"gke-{name_number}"
        cluster = CLUSTERS[name_number % (1 + name_number * len(CLUSTERS) // names)]
        zone = ZONES[name_number % len(ZONES)]
        # A life's machine type is its own: an interruption that went to another life would show.
        machine_type = MACHINE_TYPES[life % len(MACHINE_TYPES)]
        instance_id = made_id(name, str(life))
        created_at = _BEGAN + timedelta(hours=6 * life, seconds=number)
        place(
            insert(
                name,
                zone=zone,
                instance_id=instance_id,
                cluster=cluster,
                machine_type=machine_type,
                timestamp=created_at.isoformat(),
                operation=f"insert-{number}",
            ),
            3 * number,
        )
        of_cluster, of_type = ("kubernetes_cluster", cluster), ("machine_type", machine_type)
        labels = frozenset(
            {
                ("project", "shop-prod"),
                of_cluster,
                ("cluster_location", "europe-west1"),
                ("node_pool", "spot"),
                ("zone", zone),
                of_type,
            }
        )
        for hours in (1, 2):
            at = (created_at + timedelta(hours=hours)).isoformat()
            place(preempted(name, zone=zone, instance_id=instance_id, timestamp=at), 3 * number + hours)
            made.interruptions[labels] += 1
            made.by_cluster[frozenset({of_cluster})] += 1
            made.ledger[instance_id, at] += 1
        made.created[labels] += 1
        made.lifetimes[frozenset({of_cluster, of_type})] += 1
    placed.sort(key=lambda one: one[0])
    made.messages = [message for _, message in placed]
    return made
