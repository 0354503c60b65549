"""A plain model of the counts: sets and counters, without batches, files or clocks of its own."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from app.domain.events import (
    UNKNOWN_NODE,
    CreationFailed,
    Event,
    InstanceCreated,
    InstanceInterrupted,
    InstanceName,
    Node,
)
from app.domain.instances import Labels
from tests.chaos.cloud import labels_of

_UNNOTICED_SECONDS: Final = 400.0
"""The exporter may take a jump of its clock or an outage of 5 minutes for time in which it has run."""


@dataclass(slots=True)
class Waiting:
    """A pending interruption, and the longest time for which an exporter can have waited with it."""

    event: InstanceInterrupted
    seconds: float = 0.0


@dataclass(slots=True)
class Model:
    """The counts that are right after what was committed."""

    nodes: Mapping[InstanceName, Node]
    interruptions: Counter[Labels] = field(default_factory=Counter)
    created: Counter[Labels] = field(default_factory=Counter)
    failed: Counter[Labels] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)
    """The keys of all committed events."""
    waiting: dict[str, Waiting] = field(default_factory=dict)
    described: set[str] = field(default_factory=set)
    """The ids of the instances that a creation or a listing has described."""
    named: set[InstanceName] = field(default_factory=set)
    """The names of these instances."""
    announced: set[str] = field(default_factory=set)
    """The operations of the creations that are not known to have failed."""
    failures: set[str] = field(default_factory=set)
    """The operations whose failures came before their creations."""

    def commit(self, event: Event) -> None:
        """Apply an event, which may be committed already."""
        if isinstance(event, InstanceCreated):
            self._create(event)
        elif isinstance(event, CreationFailed):
            self._fail(event)
        elif isinstance(event, InstanceInterrupted) and event.key not in self.keys:
            self.keys.add(event.key)
            self.waiting[event.key] = Waiting(event)
        self.settle()

    def describe(self, instances: Iterable[tuple[str, InstanceName]]) -> None:
        """Apply that a listing names these instances."""
        for instance_id, name in instances:
            self.described.add(instance_id)
            self.named.add(name)
        self.settle()

    def pass_time(self, seconds: float) -> None:
        """Apply that an exporter has waited this long, perhaps."""
        for waiting in self.waiting.values():
            waiting.seconds += seconds

    def expire(self, key: str, grace_seconds: float) -> str | None:
        """Apply that a grace period has ended; return what is wrong with that."""
        waiting = self.waiting.pop(key)
        name = waiting.event.name
        self._count(name, self.nodes[name] if name in self.named else UNKNOWN_NODE)
        if waiting.seconds < grace_seconds - _UNNOTICED_SECONDS:
            return f"{key} was counted without its instance after {waiting.seconds:.0f} s"
        return None

    def settle(self) -> None:
        """Count what waits for an instance that is described now."""
        for key, waiting in list(self.waiting.items()):
            if waiting.event.id in self.described:
                del self.waiting[key]
                self._count(waiting.event.name, self.nodes[waiting.event.name])

    def _count(self, name: InstanceName, node: Node) -> None:
        self.interruptions[labels_of(name, node)] += 1

    def _create(self, event: InstanceCreated) -> None:
        if event.key in self.keys:
            return
        self.keys.add(event.key)
        labels = labels_of(event.name, self.nodes[event.name])
        self.created[labels] += 1
        self.described.add(event.id)
        self.named.add(event.name)
        if event.operation in self.failures:
            self.failures.discard(event.operation)
            self.failed[labels] += 1
        else:
            self.announced.add(event.operation)

    def _fail(self, event: CreationFailed) -> None:
        if event.operation in self.announced:
            self.announced.discard(event.operation)
            self.failed[labels_of(event.name, self.nodes[event.name])] += 1
        else:
            self.failures.add(event.operation)
