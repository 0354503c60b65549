"""A simulated fleet: the messages that Google Cloud would send about it, and the ground truth.

Each node name is a slot of a managed instance group, independent of the others, with one incarnation after
the other: an interrupted VM comes back under the same name with a new id. Some insertions fail because the
zone has no capacity, and are retried. Each machine type and zone has a known rate of interruptions per hour,
which a storm multiplies for some time.

The pools change their sizes only at `Fleet.rescalings`. Each VM that is removed then, and each VM that was
interrupted, is deleted by its group. Some interruptions are not pushed in time, or never: then only Compute
Engine's operations, `Fleet.operations`, report them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from string import ascii_lowercase, digits
from typing import Final, Literal, NamedTuple, TypeAlias

from tests.simulation.truth import HOUR, Incarnation, Truth
from tests.support.compute_api import FakeInstance, FakeOperation
from tests.support.entries import (
    JsonObject,
    deletion,
    gke_labels,
    insert,
    made_id,
    made_operation,
    preempted,
)

Endpoint: TypeAlias = Literal["creation", "interruption"]

DAY: Final = 86400.0

_NUMBERS: Final = {"shop-prod": "408213775019", "shop-staging": "771920046583"}

_HAZARDS: Final[Mapping[str, float]] = {
    "e2-standard-8": 0.025,
    "n2-standard-8": 0.045,
    "t2d-standard-16": 0.035,
    "g2-standard-12": 0.12,
}
_ZONE_FACTORS: Final[Mapping[str, float]] = {
    "europe-west1-b": 0.6,
    "europe-west1-c": 1.0,
    "europe-west1-d": 1.6,
    "us-central1-a": 1.2,
    "us-central1-f": 0.8,
}
_STOCK_OUTS: Final[Mapping[str, float]] = {
    "e2-standard-8": 0.02,
    "n2-standard-8": 0.05,
    "t2d-standard-16": 0.04,
    "g2-standard-12": 0.25,
}

_NO_RESTART_SECONDS: Final = 1800.0
"""An interrupted node does not come back within this time before its removal."""
_YOUNG_SECONDS: Final = 900.0
_LATE_CREATION_SHARE: Final = 0.5
"""The share of instances interrupted younger than this whose creation is pushed after the interruption."""
_LAST_ENTRY_SHARE: Final = 0.25
"""The share of successful creations whose last log entry is pushed too. The exporter ignores it."""
LATE, _REDELIVERED, _EXPORTED_TWICE = 0.02, 0.03, 0.01
"""Shares of messages pushed minutes late, pushed twice, and pushed twice with different message ids."""
LOST, LATER_THAN_OPERATION = 0.1, 0.05
"""Shares of interruptions that are never pushed, and that are pushed after their operation was read."""
SETTLE_SECONDS: Final = 300.0
"""The exporter's default time for which an operation is left to its push."""
_LOGGED_SECONDS: Final = 0.7
"""The time from an interruption, which is the time of its operation, to its log entry."""
_UNKNOWN_INSTANCES, _OTHER_VMS = 20, 12
"""Numbers of interruptions of VMs without any other event, and of Spot VMs that are not nodes."""
_FORGED_SECONDS: Final = 2 * HOUR
"""The interval of pushes with an invalid token."""
GRACE_SECONDS: Final = 1800.0
"""The exporter's default time for which an interruption may be pending."""


def hazard(machine_type: str, zone: str) -> float:
    """Return the interruptions per instance-hour outside of storms."""
    return _HAZARDS[machine_type] * _ZONE_FACTORS[zone]


def stock_out(machine_type: str, zone: str) -> float:
    """Return the probability that an insertion fails because there is no capacity."""
    return min(0.6, _STOCK_OUTS[machine_type] * _ZONE_FACTORS[zone])


@dataclass(frozen=True, slots=True)
class Pool:
    """A node pool. `sizes` has the number of nodes per zone for each period between two rescalings."""

    project: str
    cluster: str
    location: str
    name: str
    machine_type: str
    zones: Sequence[str]
    sizes: Sequence[int]
    spot: bool = True


_EUROPE: Final = ("europe-west1-b", "europe-west1-c", "europe-west1-d")
_AMERICA: Final = ("us-central1-a", "us-central1-f")

POOLS: Final = (
    Pool("shop-prod", "shop", "europe-west1", "spot-e2", "e2-standard-8", _EUROPE, (22, 26, 20)),
    Pool("shop-prod", "shop", "europe-west1", "spot-n2", "n2-standard-8", _EUROPE, (16, 20, 18)),
    Pool("shop-prod", "shop", "europe-west1", "system", "e2-standard-8", _EUROPE, (2, 2, 2), spot=False),
    Pool("shop-prod", "search", "us-central1", "spot-t2d", "t2d-standard-16", _AMERICA, (20, 28, 24)),
    Pool("shop-prod", "training", "us-central1", "spot-gpu", "g2-standard-12", _AMERICA, (10, 14, 12)),
    Pool("shop-prod", "training", "us-central1", "spot-n2", "n2-standard-8", _AMERICA, (10, 10, 10)),
    # Same name as the regional cluster: only name and location together identify a cluster.
    Pool("shop-staging", "shop", "europe-west1-b", "spot-e2", "e2-standard-8", _EUROPE[:1], (12, 9, 12)),
    Pool("shop-staging", "search", "us-central1", "spot-n2", "n2-standard-8", _AMERICA, (12, 6, 8)),
)


@dataclass(frozen=True, slots=True)
class Storm:
    """A period in which the rate of a zone and machine type is multiplied by a factor.

    Storms of the same zone and machine type are in order and do not overlap.
    """

    machine_type: str
    zone: str
    begins: float
    ends: float
    factor: float


class Event(NamedTuple):
    """A message, and the time at which it is pushed."""

    at: float
    endpoint: Endpoint
    entry: JsonObject
    message_id: str | None = None
    """A different id if Cloud Logging exports the entry a second time; None: the id of the first export."""
    forged: bool = False
    """True if it is pushed with a token for another audience."""


class _Preemption(NamedTuple):
    """An operation of Compute Engine, and the time and the project of the interruption."""

    at: float
    project: str
    operation: FakeOperation


@dataclass(slots=True)
class Fleet:
    """A fleet from `begins` for this many seconds. The same seed and times make the same fleet.

    `readings`: the times at which the exporter reads the operations, in order.
    """

    seed: int
    begins: float
    seconds: float
    readings: Sequence[float] = ()
    pools: Sequence[Pool] = POOLS
    rescalings: Sequence[float] = field(init=False)
    """The times at which the pools change their sizes."""
    storms: Sequence[Storm] = field(init=False)
    events: Sequence[Event] = field(init=False)
    """The messages in the order in which they are pushed."""
    _preemptions: Sequence[_Preemption] = field(init=False)
    truth: Truth = field(init=False)

    def __post_init__(self) -> None:
        self.rescalings = (self.begins + 0.45 * self.seconds, self.ends - 1500)
        storm = self.begins + 0.6 * self.seconds
        self.storms = (Storm("n2-standard-8", "europe-west1-d", storm, storm + 1.5 * HOUR, 12),)
        slots = [
            _Slot(self, pool, zone, number)
            for pool in self.pools
            for zone in pool.zones
            for number in range(max(pool.sizes))
        ]
        sources = (*slots, _OtherPushes(self))
        self.events = sorted(
            (event for source in sources for event in source.events), key=lambda event: event.at
        )
        self._preemptions = [preemption for source in sources for preemption in source.preemptions]
        incarnations = [incarnation for source in sources for incarnation in source.incarnations]
        self.truth = Truth(incarnations, self.expected_interruptions)

    @property
    def ends(self) -> float:
        """The end of the simulated time."""
        return self.begins + self.seconds

    @property
    def projects(self) -> Sequence[str]:
        """The ids of all projects."""
        return sorted({pool.project for pool in self.pools})

    def listed(self, at: float) -> dict[str, list[FakeInstance]]:
        """Return the instances of each project that a listing at this time returns."""
        found: dict[str, list[FakeInstance]] = {project: [] for project in self.projects}
        for incarnation in self.truth.incarnations:
            if incarnation.is_alive(at):
                found[incarnation.labels[0]].append(_as_listed(incarnation))
        return found

    def operations(self, at: float) -> dict[str, list[FakeOperation]]:
        """Return the operations of each project that a reading at this time returns."""
        found: dict[str, list[FakeOperation]] = {project: [] for project in self.projects}
        for preemption in self._preemptions:
            if preemption.at <= at:
                found[preemption.project].append(preemption.operation)
        return found

    def read_at(self, interrupted_at: float) -> float | None:
        """Return when an interruption is counted from the operations; None if no reading is late enough."""
        settled_at = interrupted_at + SETTLE_SECONDS
        return next((reading for reading in self.readings if reading > settled_at), None)

    def expected_interruptions(self, machine_type: str, zone: str, since: float, until: float) -> float:
        """Return the expected number of interruptions of one instance in the period."""
        hours = (until - since) / HOUR
        for storm in self._storms_of(machine_type, zone):
            shared = min(until, storm.ends) - max(since, storm.begins)
            hours += max(0.0, shared) / HOUR * (storm.factor - 1)
        return hours * hazard(machine_type, zone)

    def interrupted_at(self, machine_type: str, zone: str, since: float, expected: float) -> float:
        """Return the time at which the expected number of interruptions since `since` reaches `expected`."""
        at = since
        for storm in self._storms_of(machine_type, zone):
            for edge in (storm.begins, storm.ends):
                until_edge = self.expected_interruptions(machine_type, zone, at, edge) if at < edge else 0.0
                if at < edge and until_edge < expected:
                    at, expected = edge, expected - until_edge
        rate = self.expected_interruptions(machine_type, zone, at, at + 1)
        return at + expected / rate

    def _storms_of(self, machine_type: str, zone: str) -> Iterator[Storm]:
        return (storm for storm in self.storms if (storm.machine_type, storm.zone) == (machine_type, zone))


class _Source:
    """A source of incarnations and of events about them."""

    def __init__(self, fleet: Fleet, *seed: object) -> None:
        self.incarnations: list[Incarnation] = []
        self.events: list[Event] = []
        self.preemptions: list[_Preemption] = []
        self.fleet = fleet
        self.random = Random("/".join(map(str, (fleet.seed, *seed))))  # noqa: S311  # no secret

    def push(self, endpoint: Endpoint, entry: JsonObject, at: float) -> float:
        """Push an entry logged at this time, delayed and perhaps repeated; return its first push's time."""
        random = self.random
        at += random.uniform(0.6, 3)
        if random.random() < LATE:
            at += random.uniform(30, 240)
        self.events.append(Event(at, endpoint, entry))
        if random.random() < _REDELIVERED:
            self.events.append(Event(at + random.uniform(10, 600), endpoint, entry))
        if random.random() < _EXPORTED_TWICE:
            message_id = str(random.randrange(10**15, 10**16))
            self.events.append(Event(at + random.uniform(1, 600), endpoint, entry, message_id))
        return at

    def report_interruption(
        self, name: str, at: float, *, project: str, zone: str, instance_id: str
    ) -> float | None:
        """List the operation of an interruption, and push its entry perhaps; return when it is reported."""
        place = {"project": project, "zone": zone, "instance_id": instance_id}
        entry = preempted(name, **place, timestamp=stamp(at + _LOGGED_SECONDS))
        operation = FakeOperation(
            entry["operation"]["id"], name, target_id=instance_id, zone=zone, inserted=stamp(at)
        )
        self.preemptions.append(_Preemption(at, project, operation))
        fate = self.random.random()
        if fate >= LOST + LATER_THAN_OPERATION:
            return self.push("interruption", entry, at + _LOGGED_SECONDS)
        read_at = self.fleet.read_at(at)
        if fate >= LOST and read_at is not None:
            self.push("interruption", entry, read_at + self.random.uniform(60, 2 * HOUR))
        return read_at


class _Slot(_Source):
    """A node name of a pool, and the VMs that have this name one after the other."""

    def __init__(self, fleet: Fleet, pool: Pool, zone: str, number: int) -> None:
        super().__init__(fleet, pool.project, pool.cluster, pool.location, pool.name, zone, number)
        self._pool = pool
        self._zone = zone
        self._number = number
        group = f"{self.random.randrange(16**8):08x}"
        suffix = "".join(self.random.choices(ascii_lowercase + digits, k=4))
        self._name = f"gke-{pool.cluster}-{pool.name}-{group}-{suffix}"
        for since, until in self._periods():
            self._run(since, until)

    def _periods(self) -> Iterator[tuple[float, float]]:
        """Yield the periods in which the pool is large enough to have this node."""
        edges = (self.fleet.begins, *self.fleet.rescalings, float("inf"))
        since: float | None = None
        for edge, size in zip(edges, (*self._pool.sizes, 0), strict=True):
            if since is None and size > self._number:
                since = edge
            elif since is not None and size <= self._number:
                yield since, edge
                since = None

    def _run(self, since: float, until: float) -> None:
        """Add the incarnations of a period in which the pool has this node."""
        incarnation = self._existing(until) if since == self.fleet.begins else self._launch(since, until)
        while incarnation is not None and incarnation.interrupted:
            incarnation = self._launch(incarnation.ended_at, until)

    def _existing(self, until: float) -> Incarnation:
        """Add a VM that was created before the simulation began. Only listings report it."""
        created_at = self.fleet.begins - min(self.random.expovariate(1 / DAY), 5 * DAY)
        incarnation = self._new(created_at)
        self._end(incarnation, self.fleet.begins, until)
        return incarnation

    def _launch(self, since: float, until: float) -> Incarnation | None:
        """Insert the next VM, after some failures perhaps; return None if the node does not come back."""
        at = since + self.random.uniform(5, 120)
        while at < min(until - _NO_RESTART_SECONDS, self.fleet.ends):
            incarnation = self._new(at)
            if not self._pool.spot or self.random.random() >= stock_out(self._pool.machine_type, self._zone):
                self._end(incarnation, at, until)
                return incarnation
            incarnation.ended_at = at + 4
            incarnation.announced_at = self.push("creation", self._insert(incarnation, at), at)
            failed = self._insert(incarnation, incarnation.ended_at, last=True, failed=True)
            # A failure that is pushed before its creation counts when the creation comes.
            incarnation.failed_at = max(
                incarnation.announced_at, self.push("creation", failed, incarnation.ended_at)
            )
            at += self.random.uniform(60, 240)
        return None

    def _new(self, at: float) -> Incarnation:
        pool = self._pool
        instance_id = made_id(pool.project, self._zone, self._name, str(len(self.incarnations)))
        labels = (pool.project, pool.cluster, pool.location, pool.name, self._zone, pool.machine_type)
        self.incarnations.append(Incarnation(labels, self._name, instance_id, pool.spot, at))
        return self.incarnations[-1]

    def _end(self, incarnation: Incarnation, since: float, until: float) -> None:
        """Decide when a VM that runs since `since` ends, and push its events."""
        pool, random = self._pool, self.random
        interrupted_at = self.fleet.interrupted_at(
            pool.machine_type, self._zone, since, random.expovariate(1)
        )
        incarnation.ended_at = min(until, interrupted_at) if pool.spot else until
        incarnation.interrupted = incarnation.ended_at == interrupted_at < self.fleet.ends
        if incarnation.interrupted:
            incarnation.counted_at = self.report_interruption(
                incarnation.name,
                interrupted_at,
                project=pool.project,
                zone=self._zone,
                instance_id=incarnation.id,
            )
        if incarnation.ended_at < self.fleet.ends:
            self._delete(incarnation)
        if incarnation.created_at < self.fleet.begins:
            return
        announced = since
        is_young = interrupted_at - since < _YOUNG_SECONDS
        if incarnation.interrupted and is_young and random.random() < _LATE_CREATION_SHARE:
            announced = interrupted_at + random.uniform(10, 300)
        incarnation.announced_at = self.push("creation", self._insert(incarnation, since), announced)
        if random.random() < _LAST_ENTRY_SHARE:
            self.push("creation", self._insert(incarnation, since + 8, last=True), since + 8)
        if incarnation.counted_at is not None:
            incarnation.counted_at = max(incarnation.counted_at, incarnation.announced_at)

    def _delete(self, incarnation: Incarnation) -> None:
        """Push the deletion of a VM that was interrupted or removed."""
        pool, at = self._pool, stamp(incarnation.ended_at + self.random.uniform(2, 30))
        entry = deletion(
            incarnation.name,
            project=pool.project,
            project_number=_NUMBERS[pool.project],
            zone=self._zone,
            instance_id=incarnation.id,
            operation=made_operation("delete", at, incarnation.id),
            timestamp=at,
        )
        incarnation.end_reported_at = self.push("creation", entry, datetime.fromisoformat(at).timestamp())

    def _insert(
        self, incarnation: Incarnation, at: float, *, last: bool = False, failed: bool = False
    ) -> JsonObject:
        pool = self._pool
        return insert(
            incarnation.name,
            project=pool.project,
            project_number=_NUMBERS[pool.project],
            zone=self._zone,
            instance_id=incarnation.id,
            cluster=pool.cluster,
            cluster_location=pool.location,
            node_pool=pool.name,
            machine_type=pool.machine_type,
            spot=pool.spot,
            last=last,
            failed=failed,
            timestamp=stamp(at),
        )


class _OtherPushes(_Source):
    """Interruptions of unknown VMs, of Spot VMs that are not nodes, and forged interruptions."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet, "strangers")
        for number in range(_UNKNOWN_INSTANCES):
            # At even distances, so that neither start nor end of a week falls into a grace period.
            self._unknown(fleet.begins + (number + 0.4) / _UNKNOWN_INSTANCES * fleet.seconds)
        for number in range(_OTHER_VMS):
            self._other_vm(fleet.begins + (number + 0.7) / _OTHER_VMS * fleet.seconds)
        for number in range(int(fleet.seconds / _FORGED_SECONDS)):
            self._forged(fleet.ends - 100 - number * _FORGED_SECONDS)

    def _unknown(self, at: float) -> None:
        name, zone = f"stranger-{self.random.randrange(16**8):08x}", self.random.choice(_EUROPE)
        incarnation = Incarnation(
            ("shop-prod", "unknown", "unknown", "unknown", zone, "unknown"),
            name,
            "",
            spot=True,
            created_at=at,
        )
        incarnation.ended_at, incarnation.interrupted = at, True
        instance_id = made_id(name)
        reported = self.report_interruption(name, at, project="shop-prod", zone=zone, instance_id=instance_id)
        incarnation.counted_at = None if reported is None else reported + GRACE_SECONDS
        self.incarnations.append(incarnation)

    def _other_vm(self, at: float) -> None:
        name, zone = f"render-{self.random.randrange(16**8):08x}", _EUROPE[0]
        created = insert(name, project="shop-prod", zone=zone, cluster=None, timestamp=stamp(at))
        self.push("creation", created, at)
        instance_id = created["resource"]["labels"]["instance_id"]
        self.report_interruption(name, at + 1800, project="shop-prod", zone=zone, instance_id=instance_id)

    def _forged(self, at: float) -> None:
        entry = preempted("forged", project="shop-prod", zone=_EUROPE[0], timestamp=stamp(at))
        self.events.append(Event(at, "interruption", entry, forged=True))


def stamp(at: float) -> str:
    """Format a Unix time like the timestamps of log entries."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def _as_listed(incarnation: Incarnation) -> FakeInstance:
    _, cluster, location, node_pool, zone, machine_type = incarnation.labels
    return FakeInstance(
        incarnation.name,
        id=incarnation.id,
        zone=zone,
        labels=gke_labels(cluster, location, node_pool, spot=incarnation.spot),
        scheduling={
            "preemptible": incarnation.spot,
            "provisioningModel": "SPOT" if incarnation.spot else "STANDARD",
        },
        machine_type=machine_type,
        created=stamp(incarnation.created_at),
        started=None,
    )
