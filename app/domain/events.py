"""Events in the cloud, as values. The decoders create them; `attribution.decide` decides them.

Times are seconds since the epoch, UTC, as floats.
"""

from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, Self, TypeAlias, TypeVar, dataclass_transform

_T = TypeVar("_T")

FoundBy: TypeAlias = Literal["push", "operation"]
"""The source of an interruption: its log entry, or its operation in a list of Compute Engine."""
UNKNOWN: Final = "unknown"
BELIEVED_AHEAD_SECONDS: Final = 86400.0
"""Longest time by which an event may be ahead of another clock, because clocks differ."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[_T]) -> type[_T]:
    """Make a slotted dataclass that only the type checker treats as frozen.

    A really frozen dataclass takes three times as long to create, and each event creates a dozen values.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


class InstanceName(NamedTuple):
    """The name of a Compute Engine instance. A recreated instance has the same name, as another incarnation.

    A named tuple, because it is a dictionary key on the hot path, and a tuple is hashed in C.
    """

    project: str
    """The project's id, or its number if only the number is known."""
    zone: str
    instance: str

    def __str__(self) -> str:
        return f"projects/{self.project}/zones/{self.zone}/instances/{self.instance}"

    @property
    def path(self) -> str:
        """The name as the stores keep it: project, zone and instance with slashes between them."""
        return f"{self.project}/{self.zone}/{self.instance}"

    @classmethod
    def from_path(cls, path: str) -> Self:
        """Return the name that a path stands for. A project's id may have a slash in it."""
        return cls(*path.rsplit("/", 2))


class Node(NamedTuple):
    """The labels of a GKE node. A missing value is `unknown`, never empty."""

    cluster: str
    cluster_location: str
    node_pool: str
    machine_type: str


UNKNOWN_NODE: Final = Node(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)


@frozen
class InstanceCreated:
    """An accepted creation of an instance. It may still fail."""

    key: str
    """The key that is the same each time the event is delivered or exported."""
    at: float
    name: InstanceName
    id: str
    """The instance id; "" if the entry has none."""
    operation: str
    """The operation id of the insert; "" if the entry has none."""
    node: Node | None
    """None: the instance is not a GKE node."""
    spot: bool | None
    """None: the entry does not have this information."""
    project_number: str = ""
    """The project's number, if the entry has it in addition to the id; otherwise ""."""


@frozen
class CreationFailed:
    """A failed creation, for example in a stock-out. It may be delivered before the creation itself."""

    at: float
    name: InstanceName
    id: str
    operation: str
    project_number: str = ""


@frozen
class InstanceDeleted:
    """A successful deletion of an instance."""

    at: float
    name: InstanceName
    id: str
    project_number: str = ""


class InterruptionDetails(NamedTuple):
    """Facts about an interruption that no rule depends on.

    Both stores keep them, and log lines and `/interruptions` show each under its name. The default of a field
    is its value in rows that are older than the field.
    """

    found_by: FoundBy = "push"


@frozen
class InstanceInterrupted:
    """A preemption of a Spot instance."""

    key: str
    at: float
    name: InstanceName
    id: str
    project_number: str = ""
    details: InterruptionDetails = InterruptionDetails()


@frozen
class Ignored:
    """An authentic, well-formed message that does not concern this service: an event and an outcome."""

    reason: str


Event: TypeAlias = InstanceCreated | CreationFailed | InstanceInterrupted | InstanceDeleted
"""The events that a store records. It never gets an `Ignored`."""


@frozen
class Listed:
    """An instance in a listing of its project's fleet."""

    name: InstanceName
    id: str
    node: Node | None
    """None: the instance is not a GKE node."""
    spot: bool
    alive: bool
    """The instance is starting, running, or under repair."""
    created_at: float | None
    started_at: float | None
    """The time of its last start."""
