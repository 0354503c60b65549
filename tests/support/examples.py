"""Example events, and a simulator of the rules, for the tests of the rules and of the stores."""

from dataclasses import dataclass, field, replace
from typing import Final

from app.domain.batch import Batch
from app.domain.changes import Rules
from app.domain.events import (
    CreationFailed,
    Event,
    InstanceCreated,
    InstanceDeleted,
    InstanceInterrupted,
    InstanceName,
    Listed,
    Node,
)
from app.domain.instances import Instance, Labels
from app.domain.outcomes import Counted, Outcome
from app.domain.totals import Totals, TotalsDelta

NOW: Final = 1_772_451_656.0
GRACE: Final = 1800.0
DAY: Final = 86400.0
NAME: Final = InstanceName("shop-prod", "europe-west1-b", "gke-tills-spot-1")
OTHER_NAME: Final = NAME._replace(instance="gke-tills-spot-2")
TILLS: Final = Node("tills", "europe-west1", "spot-pool", "e2-standard-8")
LAB: Final = Node("lab", "europe-west1", "lab-pool", "n2-standard-4")
LABELS: Final = Labels("shop-prod", "tills", "europe-west1", "spot-pool", "europe-west1-b", "e2-standard-8")


def created(
    instance_id: str = "1",
    at: float = 100.0,
    *,
    name: InstanceName = NAME,
    node: Node | None = TILLS,
    spot: bool | None = True,
    operation: str | None = None,
    number: str = "",
) -> InstanceCreated:
    key = f"created {name.instance} {instance_id or at}" + (f" {operation}" if operation else "")
    operation = f"insert-{instance_id}" if operation is None else operation
    return InstanceCreated(key, at, name, instance_id, operation, node, spot, number)


def failed(
    instance_id: str = "1", at: float = 110.0, *, name: InstanceName = NAME, operation: str | None = None
) -> CreationFailed:
    return CreationFailed(at, name, instance_id, f"insert-{instance_id}" if operation is None else operation)


def deleted(instance_id: str = "1", at: float = 2000.0, *, name: InstanceName = NAME) -> InstanceDeleted:
    return InstanceDeleted(at, name, instance_id)


def interrupted(
    instance_id: str = "1", at: float = 1000.0, *, name: InstanceName = NAME, number: str = ""
) -> InstanceInterrupted:
    key = f"interrupted {name.instance} {instance_id} {at}"
    return InstanceInterrupted(key, at, name, instance_id, number)


def listed(
    instance_id: str = "1",
    created_at: float = 100.0,
    *,
    name: InstanceName = NAME,
    node: Node | None = TILLS,
    spot: bool = True,
    alive: bool = True,
    started_at: float | None = None,
) -> Listed:
    """Return an instance as the Compute API lists it: the first start is the creation."""
    return Listed(name, instance_id, node, spot, alive, created_at, started_at or created_at)


@dataclass(frozen=True)
class Result:
    """The totals, live instances and pending interruptions at the end of a story."""

    interruptions: dict[str, int] = field(default_factory=dict)
    created: int = 0
    failed: int = 0
    living: frozenset[str] = frozenset()
    pending: int = 0


class Simulator:
    """The rules without a store: a long batch in memory."""

    def __init__(self, *, max_label_sets: int = 100, base: Totals | None = None, pending: int = 0) -> None:
        self.totals = TotalsDelta(base or Totals(), max_label_sets=max_label_sets, released=True, now=NOW)
        rules = Rules(grace_seconds=GRACE, max_label_sets=max_label_sets)
        self.batch = Batch(self.totals, rules, NOW, pending=pending)

    def apply(self, *events: Event) -> list[Outcome]:
        return [self.batch.decide(event) for event in events]

    def observe_listed(self, *listed: Listed, began: float) -> None:
        for instance in listed:
            self.batch.observe_listed(instance, began)

    def end_grace(self) -> list[Outcome]:
        return [
            self.batch.expire(pending)
            for pending in list(self.batch.pending_interruptions.values())
            if pending is not None
        ]

    def instance(self, identity: str = "1", name: InstanceName = NAME) -> Instance:
        instance = self.batch.instances[name, identity]
        assert instance is not None
        return instance

    @property
    def living(self) -> set[str]:
        return {
            instance.identity
            for instance in self.batch.instances.values()
            if instance is not None and instance.live_spot
        }

    @property
    def pending(self) -> int:
        return self.batch.pending

    @property
    def result(self) -> Result:
        return Result(self.interruptions, *self.creations, frozenset(self.living), self.pending)

    @property
    def interruptions(self) -> dict[str, int]:
        rows = self.totals.changed.clusters.values()
        return {row.cluster: row.interruptions for row in rows if row.interruptions}

    @property
    def creations(self) -> tuple[int, int]:
        rows = self.totals.changed.label_sets.values()
        return sum(row.created for row in rows), sum(row.failed for row in rows)

    @property
    def ages(self) -> dict[str, float]:
        rows = self.totals.changed.lifetimes.values()
        return {row.cluster: row.sum for row in rows if any(row.buckets)}

    @property
    def ledger(self) -> list[Counted]:
        """The ledger rows as a store would have them, with the nodes that were attributed later."""
        return [self._completed(counted, identity) for counted, identity in self.batch.counted]

    def _completed(self, counted: Counted, identity: str) -> Counted:
        for explain in self.batch.attributed:
            if not counted.attributed and (explain.name, explain.identity) == (counted.name, identity):
                counted = replace(counted, node=explain.node, attributed=True)
        return counted
