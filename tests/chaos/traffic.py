"""What Pub/Sub delivers to several replicas, in disorder and more than once; and what it adds up to."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple, Self

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


class Node(NamedTuple):
    """Where an instance is, and what."""

    cluster: str
    zone: str
    machine_type: str

    @classmethod
    def numbered(cls, number: int, names: int, machine_type: str) -> Self:
        """The node of one of the names; clusters appear one after the other."""
        clusters = 1 + number * len(CLUSTERS) // names
        return cls(CLUSTERS[number % clusters], ZONES[number % len(ZONES)], machine_type)


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
    newest: dict[Labels, float] = field(default_factory=dict)
    """When each cluster had its newest interruption."""
    ledger: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Instance ids, and the moments of their interruptions."""

    def expect(self, instance_id: str, node: Node, interrupted_at: Sequence[datetime]) -> None:
        """Add the effect of an instance: its creation, a lifetime, and its interruptions."""
        of_cluster, of_type = ("kubernetes_cluster", node.cluster), ("machine_type", node.machine_type)
        cluster = frozenset({of_cluster})
        others = (("project", "shop-prod"), ("cluster_location", "europe-west1"), ("node_pool", "spot"))
        labels = frozenset({of_cluster, of_type, ("zone", node.zone), *others})
        self.created[labels] += 1
        self.lifetimes[frozenset({of_cluster, of_type})] += 1
        for at in interrupted_at:
            self.interruptions[labels] += 1
            self.by_cluster[cluster] += 1
            self.newest[cluster] = max(self.newest.get(cluster, 0), at.timestamp())
            self.ledger[instance_id, at.isoformat()] += 1


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
        # A life's machine type is its own: an interruption that went to another life would show.
        node = Node.numbered(name_number, names, MACHINE_TYPES[life % len(MACHINE_TYPES)])
        instance_id = made_id(name, str(life))
        created_at = _BEGAN + timedelta(hours=6 * life, seconds=number)
        place(
            insert(
                name,
                instance_id=instance_id,
                **node._asdict(),
                timestamp=created_at.isoformat(),
                operation=f"insert-{number}",
            ),
            3 * number,
        )
        interrupted_at = [created_at + timedelta(hours=hours) for hours in (1, 2)]
        for order, at in enumerate(interrupted_at, 1):
            entry = preempted(name, zone=node.zone, instance_id=instance_id, timestamp=at.isoformat())
            place(entry, 3 * number + order)
        made.expect(instance_id, node, interrupted_at)
    placed.sort(key=lambda one: one[0])
    made.messages = [message for _, message in placed]
    return made
