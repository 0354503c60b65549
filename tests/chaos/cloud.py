"""A cloud whose instances come and go, and whose messages are delivered late, again, or never."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from app.domain.events import (
    CreationFailed,
    Event,
    InstanceCreated,
    InstanceDeleted,
    InstanceInterrupted,
    InstanceName,
    InterruptionDetails,
    Listed,
    Node,
)
from app.domain.instances import Labels

PROJECT: Final = "shop-prod"
_ZONES: Final = ("europe-west1-b", "europe-west1-c")
_NODES: Final = (
    Node("tills", "europe-west1", "spot", "e2-standard-8"),
    Node("tills", "europe-west1", "spot-gpu", "g2-standard-12"),
    Node("lab", "europe-west1-b", "spot", "n2-standard-4"),
)
_NAMES: Final = 24
_FAILED, _LOST, _LATE, _AGAIN = 0.15, 0.1, 0.15, 0.1
"""Shares of creations that fail, and of messages that are lost (interruptions), late, and delivered again."""
_LATEST_SECONDS: Final = 6 * 3600.0
_DELETED: Final = 0.4


@dataclass(frozen=True, slots=True)
class Message:
    """An event, and the time of its next delivery."""

    event: Event
    due_at: float


@dataclass(slots=True)
class _Slot:
    """An instance name, and its newest instance."""

    name: InstanceName
    node: Node
    id: str = ""
    operation: str = ""
    created_at: float = 0.0
    alive: bool = False

    @property
    def labels(self) -> Labels:
        return labels_of(self.name, self.node)


def labels_of(name: InstanceName, node: Node) -> Labels:
    """Return the labels of the series of an instance."""
    return Labels(
        name.project, node.cluster, node.cluster_location, node.node_pool, name.zone, node.machine_type
    )


@dataclass(slots=True)
class Cloud:
    """The instances, the messages that are not delivered yet, and the operations."""

    random: Random
    messages: list[Message] = field(default_factory=list)
    operations: list[InstanceInterrupted] = field(default_factory=list)
    _slots: Sequence[_Slot] = ()
    _serial: int = 0

    def __post_init__(self) -> None:
        self._slots = [
            _Slot(
                InstanceName(PROJECT, _ZONES[number % len(_ZONES)], f"node-{number}"),
                _NODES[number % len(_NODES)],
            )
            for number in range(_NAMES)
        ]

    def nodes(self) -> dict[InstanceName, Node]:
        """Return the node of each name, which never changes."""
        return {slot.name: slot.node for slot in self._slots}

    def act(self, now: float) -> None:
        """Create the next instance of a name, or end it."""
        slot = self.random.choice(self._slots)
        if not slot.alive:
            self._create(slot, now)
        elif self.random.random() < _DELETED:
            self._end(slot)
            self._send(InstanceDeleted(now, slot.name, slot.id), now)
        else:
            self._interrupt(slot, now)

    def listed(self) -> list[Listed]:
        """Return the instances that a listing returns now."""
        return [
            Listed(
                slot.name,
                slot.id,
                slot.node,
                spot=True,
                alive=True,
                created_at=slot.created_at,
                started_at=slot.created_at,
            )
            for slot in self._slots
            if slot.alive
        ]

    def take_due(self, now: float, most: int) -> list[Event]:
        """Remove and return some of the events whose delivery is due."""
        due = [message for message in self.messages if message.due_at <= now]
        self.random.shuffle(due)
        taken = due[:most]
        chosen = set(map(id, taken))
        self.messages = [message for message in self.messages if id(message) not in chosen]
        return [message.event for message in taken]

    def make_due(self, now: float) -> bool:
        """Let the delivery of every message be due, and return False if there are none."""
        self.messages = [replace(message, due_at=now) for message in self.messages]
        return bool(self.messages)

    def refuse(self, events: Sequence[Event], now: float) -> None:
        """Deliver the events again, because they were not acknowledged."""
        self.messages += [Message(event, now + self.random.uniform(1, 120)) for event in events]

    def repeat(self, events: Sequence[Event], now: float) -> None:
        """Deliver some of the acknowledged events again."""
        for event in events:
            if self.random.random() < _AGAIN:
                self.messages.append(Message(event, now + self.random.uniform(1, _LATEST_SECONDS)))

    def labels_alive(self) -> Iterator[tuple[Labels, str]]:
        """Yield the labels and the id of each living instance."""
        for slot in self._slots:
            if slot.alive:
                yield slot.labels, slot.id

    def forget_operations(self, before: float) -> None:
        """Forget old operations, as Compute Engine does."""
        self.operations = [operation for operation in self.operations if operation.at >= before]

    def _create(self, slot: _Slot, now: float) -> None:
        self._serial += 1
        slot.id, slot.operation = str(self._serial), f"insert-{self._serial}"
        slot.created_at, slot.alive = now, True
        created = InstanceCreated(
            f"created {slot.id}", now, slot.name, slot.id, slot.operation, slot.node, spot=True
        )
        self._send(created, now)
        if self.random.random() < _FAILED:
            self._end(slot)
            self._send(CreationFailed(now + 2, slot.name, slot.id, slot.operation), now + 2)

    def _interrupt(self, slot: _Slot, now: float) -> None:
        self._end(slot)
        event = InstanceInterrupted(f"interrupted {slot.id}", now, slot.name, slot.id)
        self.operations.append(replace(event, at=now - 0.7, details=InterruptionDetails("operation")))
        if self.random.random() >= _LOST:
            self._send(event, now)

    def _end(self, slot: _Slot) -> None:
        slot.alive = False

    def _send(self, event: Event, now: float) -> None:
        late = self.random.random() < _LATE
        self.messages.append(
            Message(
                event, now + (self.random.uniform(60, _LATEST_SECONDS) if late else self.random.uniform(0, 5))
            )
        )
