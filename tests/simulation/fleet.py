"""A simulated fleet: what Google Cloud would tell of it, event by event, and what was true all along.

Each node name is a slot of a managed instance group, independent of the others. Its VMs live one after the
other: an interrupted one comes back under the same name with a new id, and some insertions fail for want of
capacity and are tried again. VMs are interrupted at a known rate for each hour that they live, by machine
type and zone, which a storm multiplies for a while.

The pools change their sizes at a few moments only, `Fleet.rescalings`. What is removed then is told by no
event: whoever plays the fleet shows it by a listing, `Fleet.listed`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from string import ascii_lowercase, digits
from typing import Final, Literal, NamedTuple, TypeAlias

from tests.support.compute_api import FakeInstance
from tests.support.entries import JsonObject, gke_labels, insert, made_id, preempted

Endpoint: TypeAlias = Literal["creation", "interruption"]
Key: TypeAlias = tuple[str, ...]

HOUR: Final = 3600.0
DAY: Final = 86400.0

LABELS: Final = ("project", "kubernetes_cluster", "cluster_location", "node_pool", "zone", "machine_type")

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

_QUIET_SECONDS: Final = 1800.0
"""So long before it is removed, a node is not brought back."""
_YOUNG_SECONDS: Final = 900.0
_UNTOLD: Final = 0.5
"""Of what is interrupted so young, this share has its creation told after its interruption."""
_LAST: Final = 0.25
"""Of the creations that succeed, such a share has its last entry told too: it means nothing."""
LATE, _REDELIVERED, _EXPORTED_TWICE = 0.02, 0.03, 0.01
"""Shares of the messages that are pushed minutes later, once more, and once more under another message id."""
_UNKNOWN, _NO_NODES = 20, 12
"""How many interruptions are told of VMs that nobody knows, and of Spot VMs that are no nodes."""
_FORGED_SECONDS: Final = 2 * HOUR
"""So often a stranger pushes."""
GRACE_SECONDS: Final = 1800.0
"""How long the exporter lets an unexplained interruption wait, unless configured otherwise."""


def hazard(machine_type: str, zone: str) -> float:
    """Interruptions per hour that an instance lives, outside of storms."""
    return _HAZARDS[machine_type] * _ZONE_FACTORS[zone]


def stock_out(machine_type: str, zone: str) -> float:
    """The probability that an insertion fails."""
    return min(0.6, _STOCK_OUTS[machine_type] * _ZONE_FACTORS[zone])


@dataclass(frozen=True, slots=True)
class Pool:
    """A node pool: in each zone as many nodes as `sizes` has for each stretch between two rescalings."""

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
    # The same name as the regional one's: a cluster is told only by its name and its location.
    Pool("shop-staging", "shop", "europe-west1-b", "spot-e2", "e2-standard-8", _EUROPE[:1], (12, 9, 12)),
    Pool("shop-staging", "search", "us-central1", "spot-n2", "n2-standard-8", _AMERICA, (12, 6, 8)),
)


@dataclass(frozen=True, slots=True)
class Storm:
    """For a while, the rate of a zone and machine type is so many times what it is else.

    Those of one zone and machine type do not overlap, and are in order.
    """

    machine_type: str
    zone: str
    begins: float
    ends: float
    factor: float


class Event(NamedTuple):
    """A message that is pushed at a time."""

    at: float
    endpoint: Endpoint
    entry: JsonObject
    message_id: str | None = None
    """Of its own, for what Cloud Logging exports a second time; None: as the entry's first delivery."""
    forged: bool = False
    """Pushed by a stranger, with a token that is not for this service."""


@dataclass(slots=True)
class Life:
    """One incarnation of an instance name; or, where nobody knows its pool, all that is known of it."""

    labels: Key
    """Values of `LABELS`."""
    name: str
    id: str
    spot: bool
    created_at: float
    announced_at: float | None = None
    """When its creation is pushed; None for one that lived when the fleet began."""
    ended_at: float = float("inf")
    failed_at: float | None = None
    """When it is pushed that its creation has failed."""
    interrupted: bool = False
    counted_at: float | None = None
    """When enough is pushed, or has waited long enough, for its interruption to be counted."""

    def lives(self, at: float) -> bool:
        """Whether it lives at that time, well."""
        return self.failed_at is None and self.created_at <= at < self.ended_at

    def lived(self, since: float, until: float) -> float:
        """For how many seconds of that time it lived."""
        if self.failed_at is not None:
            return 0.0
        return max(0.0, min(until, self.ended_at) - max(since, self.created_at))


class Truth:
    """The numbers that a perfect observer would have. Times are `since` < t ≤ `until`; `by` names labels."""

    def __init__(self, lives: Sequence[Life], exposure: Callable[[str, str, float, float], float]) -> None:
        self.lives = lives
        self._exposure = exposure

    def interruptions(self, since: float, until: float, *by: str) -> Counter[Key]:
        """How many interruptions are counted in that time."""
        return self._count(by, lambda life: _within(life.counted_at, since, until))

    def created(self, since: float, until: float, *by: str) -> Counter[Key]:
        """How many Spot instances' creations are announced in that time, failed ones too."""
        return self._count(by, lambda life: life.spot and _within(life.announced_at, since, until))

    def failed(self, since: float, until: float, *by: str) -> Counter[Key]:
        """How many of those are told to have failed in that time."""
        return self._count(by, lambda life: life.spot and _within(life.failed_at, since, until))

    def instance_hours(self, since: float, until: float, *by: str) -> dict[Key, float]:
        """How long Spot instances lived in that time."""
        return self._sum(by, lambda life: life.lived(since, until) / HOUR)

    def expected(self, since: float, until: float, *by: str) -> dict[Key, float]:
        """How many interruptions the lives of that time had to expect, by the rates and storms."""

        def exposed(life: Life) -> float:
            if not life.lived(since, until):
                return 0.0
            *_, zone, machine_type = life.labels
            return self._exposure(machine_type, zone, max(since, life.created_at), min(until, life.ended_at))

        return self._sum(by, exposed)

    def ages(self, since: float, until: float, *by: str) -> dict[Key, list[float]]:
        """The ages, in seconds, at the interruptions counted in that time; youngest first."""
        ages: dict[Key, list[float]] = {}
        for life in self.lives:
            if life.id and _within(life.counted_at, since, until):
                ages.setdefault(_key(life, by), []).append(life.ended_at - life.created_at)
        return {key: sorted(values) for key, values in ages.items()}

    def alive(self, at: float, *by: str) -> Counter[Key]:
        """How many Spot instances live at that time."""
        return self._count(by, lambda life: life.spot and life.lives(at))

    def _count(self, by: Key, counts: Callable[[Life], bool]) -> Counter[Key]:
        return Counter(_key(life, by) for life in self.lives if counts(life))

    def _sum(self, by: Key, amount: Callable[[Life], float]) -> dict[Key, float]:
        sums: dict[Key, float] = {}
        for life in self.lives:
            if life.spot and (value := amount(life)):
                key = _key(life, by)
                sums[key] = sums.get(key, 0.0) + value
        return sums


@dataclass(slots=True)
class Fleet:
    """The fleet from `begins` for so many seconds; the same seed and times make the same fleet."""

    seed: int
    begins: float
    seconds: float
    pools: Sequence[Pool] = POOLS
    rescalings: Sequence[float] = field(init=False)
    """When the pools change their sizes."""
    storms: Sequence[Storm] = field(init=False)
    events: Sequence[Event] = field(init=False)
    """What is pushed, in this order."""
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
        strangers = _Strangers(self)
        self.events = sorted(
            (event for source in (*slots, strangers) for event in source.events), key=lambda event: event.at
        )
        lives = [life for source in (*slots, strangers) for life in source.lives]
        self.truth = Truth(lives, self.exposure)

    @property
    def ends(self) -> float:
        """When it is over."""
        return self.begins + self.seconds

    @property
    def projects(self) -> Sequence[str]:
        """Their ids."""
        return sorted({pool.project for pool in self.pools})

    def listed(self, at: float) -> dict[str, list[FakeInstance]]:
        """The instances of each project, as a listing finds them at that time."""
        found: dict[str, list[FakeInstance]] = {project: [] for project in self.projects}
        for life in self.truth.lives:
            if life.lives(at):
                found[life.labels[0]].append(_as_listed(life))
        return found

    def exposure(self, machine_type: str, zone: str, since: float, until: float) -> float:
        """How many interruptions an instance has to expect in that time."""
        hours = (until - since) / HOUR
        for storm in self._storms_of(machine_type, zone):
            shared = min(until, storm.ends) - max(since, storm.begins)
            hours += max(0.0, shared) / HOUR * (storm.factor - 1)
        return hours * hazard(machine_type, zone)

    def interrupted_at(self, machine_type: str, zone: str, since: float, expected: float) -> float:
        """When an instance that lives since then has had to expect so many interruptions."""
        at = since
        for storm in self._storms_of(machine_type, zone):
            for edge in (storm.begins, storm.ends):
                exposed = self.exposure(machine_type, zone, at, edge) if at < edge else 0.0
                if at < edge and exposed < expected:
                    at, expected = edge, expected - exposed
        rate = self.exposure(machine_type, zone, at, at + 1)
        return at + expected / rate

    def _storms_of(self, machine_type: str, zone: str) -> Iterator[Storm]:
        return (storm for storm in self.storms if (storm.machine_type, storm.zone) == (machine_type, zone))


class _Source:
    """What adds lives, and events that tell of them."""

    def __init__(self, fleet: Fleet, *seed: object) -> None:
        self.lives: list[Life] = []
        self.events: list[Event] = []
        self.fleet = fleet
        self.random = Random("/".join(map(str, (fleet.seed, *seed))))  # noqa: S311  # no secret

    def tell(self, endpoint: Endpoint, entry: JsonObject, at: float) -> float:
        """Have what was logged pushed, often soon after, sometimes again; the first time."""
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


class _Slot(_Source):
    """One node name of a pool, and the VMs that have it one after the other."""

    def __init__(self, fleet: Fleet, pool: Pool, zone: str, number: int) -> None:
        super().__init__(fleet, pool.project, pool.cluster, pool.location, pool.name, zone, number)
        self._pool = pool
        self._zone = zone
        self._number = number
        group = f"{self.random.randrange(16**8):08x}"
        suffix = "".join(self.random.choices(ascii_lowercase + digits, k=4))
        self._name = f"gke-{pool.cluster}-{pool.name}-{group}-{suffix}"
        for since, until in self._spans():
            self._play(since, until)

    def _spans(self) -> Iterator[tuple[float, float]]:
        """When the pool is large enough to have this node."""
        edges = (self.fleet.begins, *self.fleet.rescalings, float("inf"))
        since: float | None = None
        for edge, size in zip(edges, (*self._pool.sizes, 0), strict=True):
            if since is None and size > self._number:
                since = edge
            elif since is not None and size <= self._number:
                yield since, edge
                since = None

    def _play(self, since: float, until: float) -> None:
        """The lives of one span."""
        life = self._veteran(until) if since == self.fleet.begins else self._launch(since, until)
        while life is not None and life.interrupted:
            life = self._launch(life.ended_at, until)

    def _veteran(self, until: float) -> Life:
        """One of a fleet that has been there for long: only listings know it."""
        born = self.fleet.begins - min(self.random.expovariate(1 / DAY), 5 * DAY)
        life = self._born(born)
        self._end(life, self.fleet.begins, until)
        return life

    def _launch(self, since: float, until: float) -> Life | None:
        """The next VM, after as many failures as it takes; None if the node is not brought back."""
        at = since + self.random.uniform(5, 120)
        while at < min(until - _QUIET_SECONDS, self.fleet.ends):
            life = self._born(at)
            if not self._pool.spot or self.random.random() >= stock_out(self._pool.machine_type, self._zone):
                self._end(life, at, until)
                return life
            life.ended_at = at + 4
            life.announced_at = self.tell("creation", self._insert(life, at), at)
            failed = self._insert(life, life.ended_at, last=True, failed=True)
            # A failure that is told first counts with its announcement.
            life.failed_at = max(life.announced_at, self.tell("creation", failed, life.ended_at))
            at += self.random.uniform(60, 240)
        return None

    def _born(self, at: float) -> Life:
        pool = self._pool
        made = made_id(pool.project, self._zone, self._name, str(len(self.lives)))
        labels = (pool.project, pool.cluster, pool.location, pool.name, self._zone, pool.machine_type)
        self.lives.append(Life(labels, self._name, made, pool.spot, at))
        return self.lives[-1]

    def _end(self, life: Life, since: float, until: float) -> None:
        """Decide when a life that began well ends, and tell of both."""
        pool, random, told = self._pool, self.random, None
        fate = self.fleet.interrupted_at(pool.machine_type, self._zone, since, random.expovariate(1))
        life.ended_at = min(until, fate) if pool.spot else until
        life.interrupted = life.ended_at == fate < self.fleet.ends
        if life.interrupted:
            entry = preempted(
                life.name, project=pool.project, zone=self._zone, instance_id=life.id, timestamp=stamp(fate)
            )
            life.counted_at = told = self.tell("interruption", entry, fate)
        if life.created_at < self.fleet.begins:
            return
        announced = since
        if told is not None and fate - since < _YOUNG_SECONDS and random.random() < _UNTOLD:
            announced = told + random.uniform(5, 300)
        life.announced_at = self.tell("creation", self._insert(life, since), announced)
        if random.random() < _LAST:
            self.tell("creation", self._insert(life, since + 8, last=True), since + 8)
        if life.counted_at is not None:
            life.counted_at = max(life.counted_at, life.announced_at)

    def _insert(self, life: Life, at: float, *, last: bool = False, failed: bool = False) -> JsonObject:
        pool = self._pool
        return insert(
            life.name,
            project=pool.project,
            project_number=_NUMBERS[pool.project],
            zone=self._zone,
            instance_id=life.id,
            cluster=pool.cluster,
            cluster_location=pool.location,
            node_pool=pool.name,
            machine_type=pool.machine_type,
            spot=pool.spot,
            last=last,
            failed=failed,
            timestamp=stamp(at),
        )


class _Strangers(_Source):
    """Interruptions of VMs that nobody knows, of Spot VMs that are known to be no nodes, and forged ones."""

    def __init__(self, fleet: Fleet) -> None:
        super().__init__(fleet, "strangers")
        for number in range(_UNKNOWN):
            # Evenly, so that neither a week's beginning nor its end falls into a grace period.
            self._unknown(fleet.begins + (number + 0.4) / _UNKNOWN * fleet.seconds)
        for number in range(_NO_NODES):
            self._no_node(fleet.begins + (number + 0.7) / _NO_NODES * fleet.seconds)
        for number in range(int(fleet.seconds / _FORGED_SECONDS)):
            self._forged(fleet.ends - 100 - number * _FORGED_SECONDS)

    def _unknown(self, at: float) -> None:
        name, zone = f"stranger-{self.random.randrange(16**8):08x}", self.random.choice(_EUROPE)
        entry = preempted(name, project="shop-prod", zone=zone, timestamp=stamp(at))
        life = Life(
            ("shop-prod", "unknown", "unknown", "unknown", zone, "unknown"),
            name,
            "",
            spot=True,
            created_at=at,
        )
        life.ended_at, life.interrupted = at, True
        life.counted_at = self.tell("interruption", entry, at) + GRACE_SECONDS
        self.lives.append(life)

    def _no_node(self, at: float) -> None:
        name, zone = f"render-{self.random.randrange(16**8):08x}", _EUROPE[0]
        made = insert(name, project="shop-prod", zone=zone, cluster=None, timestamp=stamp(at))
        gone = preempted(name, project="shop-prod", zone=zone, timestamp=stamp(at + 1800))
        self.tell("interruption", gone, self.tell("creation", made, at) + 1800)

    def _forged(self, at: float) -> None:
        entry = preempted("forged", project="shop-prod", zone=_EUROPE[0], timestamp=stamp(at))
        self.events.append(Event(at, "interruption", entry, forged=True))


def stamp(at: float) -> str:
    """A Unix time as log entries have it."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def _key(life: Life, by: Key) -> Key:
    return tuple(life.labels[LABELS.index(label)] for label in by)


def _within(at: float | None, since: float, until: float) -> bool:
    return at is not None and since < at <= until


def _as_listed(life: Life) -> FakeInstance:
    _, cluster, location, node_pool, zone, machine_type = life.labels
    return FakeInstance(
        life.name,
        id=life.id,
        zone=zone,
        labels=gke_labels(cluster, location, node_pool, spot=life.spot),
        scheduling={"preemptible": life.spot, "provisioningModel": "SPOT" if life.spot else "STANDARD"},
        machine_type=machine_type,
        created=stamp(life.created_at),
        started=None,
    )
