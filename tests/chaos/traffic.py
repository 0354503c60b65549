"""Messages as Pub/Sub delivers them, out of order and more than once, and their expected totals."""

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
_INCARNATIONS: Final = 5
"""Instances per name, one after the other. Their events come close together, to different replicas."""
_STARTED_AT: Final = datetime(2026, 3, 2, tzinfo=UTC)
_DISORDER: Final = 60
_REDELIVERED_SHARE: Final = 0.125
_TO_TWO_REPLICAS_SHARE: Final = 0.1

Labels = frozenset[tuple[str, str]]


class Node(NamedTuple):
    """The cluster, the zone and the machine type of an instance."""

    cluster: str
    zone: str
    machine_type: str

    @classmethod
    def numbered(cls, number: int, names: int, machine_type: str) -> Self:
        """Return the node of the numbered name. Clusters appear one after the other."""
        clusters = 1 + number * len(CLUSTERS) // names
        return cls(CLUSTERS[number % clusters], ZONES[number % len(ZONES)], machine_type)


class Message(NamedTuple):
    """A delivery, to be repeated until it is acknowledged."""

    endpoint: str
    body: bytes
    to_two_replicas: bool
    """True if it goes to two replicas at the same time."""


@dataclass(slots=True)
class Traffic:
    """The deliveries in order, and the totals if every event counts once."""

    messages: Sequence[Message] = ()
    interruptions: Counter[Labels] = field(default_factory=Counter)
    by_cluster: Counter[Labels] = field(default_factory=Counter)
    created: Counter[Labels] = field(default_factory=Counter)
    lifetimes: Counter[Labels] = field(default_factory=Counter)
    newest: dict[Labels, float] = field(default_factory=dict)
    """The time of each cluster's newest interruption."""
    ledger: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Instance ids, and the times of their interruptions."""

    def expect(self, instance_id: str, node: Node, interrupted_at: Sequence[datetime]) -> None:
        """Add an instance to the totals: its creation, a lifetime, and its interruptions."""
        cluster_label, type_label = ("kubernetes_cluster", node.cluster), ("machine_type", node.machine_type)
        cluster = frozenset({cluster_label})
        others = (("project", "shop-prod"), ("cluster_location", "europe-west1"), ("node_pool", "spot"))
        labels = frozenset({cluster_label, type_label, ("zone", node.zone), *others})
        self.created[labels] += 1
        self.lifetimes[frozenset({cluster_label, type_label})] += 1
        for at in interrupted_at:
            self.interruptions[labels] += 1
            self.by_cluster[cluster] += 1
            self.newest[cluster] = max(self.newest.get(cluster, 0), at.timestamp())
            self.ledger[instance_id, at.isoformat()] += 1


def sum_of(*parts: Traffic) -> Traffic:
    """Return the totals if every event of every part counts once. It has no messages."""
    total = Traffic()
    for part in parts:
        for counts in ("interruptions", "by_cluster", "created", "lifetimes", "ledger"):
            getattr(total, counts).update(getattr(part, counts))
        for cluster, at in part.newest.items():
            total.newest[cluster] = max(total.newest.get(cluster, 0), at)
    return total


def disordered_traffic(rng: random.Random, interruptions: int) -> Traffic:
    """Return traffic with two interruptions per instance, whose creation often comes between or after them.

    One message in eight is redelivered later, one in ten goes to two replicas at once. Clusters appear one
    after the other, the last in the last fifth.
    """
    traffic = Traffic()
    placed: list[tuple[float, Message]] = []

    def place(entry: dict[str, object], number: int) -> None:
        message = Message(endpoint_of(entry), body_of(entry), rng.random() < _TO_TWO_REPLICAS_SHARE)
        placed.append((number + rng.uniform(0, _DISORDER), message))
        if rng.random() < _REDELIVERED_SHARE:
            placed.append((number + rng.uniform(0, 20 * _DISORDER), message))

    instances = interruptions // 2
    names = -(-instances // _INCARNATIONS)
    for number in range(instances):
        name_number, incarnation = divmod(number, _INCARNATIONS)
        name = f"gke-{name_number}"
        # Incarnations of a name differ in machine type, which shows an interruption of the wrong incarnation.
        node = Node.numbered(name_number, names, MACHINE_TYPES[incarnation % len(MACHINE_TYPES)])
        instance_id = made_id(name, str(incarnation))
        created_at = _STARTED_AT + timedelta(hours=6 * incarnation, seconds=number)
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
        traffic.expect(instance_id, node, interrupted_at)
    placed.sort(key=lambda item: item[0])
    traffic.messages = [message for _, message in placed]
    return traffic
