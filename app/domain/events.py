"""What happened in the cloud, as values: the decoders make them, `attribution.decide` gives them meaning.

Times are seconds since the epoch, UTC, as floats.
"""

from typing import Final, NamedTuple, TypeAlias

from app.domain.values import maker, value

UNKNOWN: Final = "unknown"
BELIEVED_AHEAD_SECONDS: Final = 86400.0
"""An event's time may lie so far after the time to which it is compared, because clocks differ."""


class InstanceName(NamedTuple):
    """A Compute Engine VM's name; recreated VMs share it, so it names a row of incarnations.

    A named tuple, not a dataclass: it is a dictionary key on the hot path, and hashes in C.
    """

    project: str
    """The project's id; its number where only that is known."""
    zone: str
    instance: str

    def __str__(self) -> str:
        return f"projects/{self.project}/zones/{self.zone}/instances/{self.instance}"


instance_name_of: Final = maker(InstanceName)


class Node(NamedTuple):
    """What makes an instance a GKE node; a missing value is `unknown`, never empty."""

    cluster: str
    cluster_location: str
    node_pool: str
    machine_type: str


node_of: Final = maker(Node)
UNKNOWN_NODE: Final = Node(UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN)


@value
class InstanceCreated:
    """An instance's creation was accepted; it may still fail."""

    key: str
    """What makes the event the same event when it is delivered or exported again."""
    at: float
    name: InstanceName
    id: str
    """The instance id; "" where the entry has none."""
    operation: str
    """The insert's operation id; "" where the entry has none."""
    node: Node | None
    """None: the instance is no GKE node."""
    spot: bool | None
    """None: the entry does not say."""
    project_number: str = ""
    """The number that the entry gives for the project besides its id; "" where it gives none."""


@value
class CreationFailed:
    """A creation announced before (or still to be delivered) has failed, as in a stock-out."""

    at: float
    name: InstanceName
    id: str
    operation: str
    project_number: str = ""


@value
class InstanceInterrupted:
    """Compute Engine took a Spot instance back."""

    key: str
    at: float
    name: InstanceName
    id: str
    project_number: str = ""


@value
class Ignored:
    """Authentic, well formed, and none of this service's business: an event and an outcome at once."""

    reason: str


Event: TypeAlias = InstanceCreated | CreationFailed | InstanceInterrupted
"""What is recorded; an `Ignored` never reaches the store."""


@value
class Listed:
    """An instance as a listing of its project's fleet shows it."""

    name: InstanceName
    id: str
    node: Node | None
    """None: the instance is no GKE node."""
    spot: bool
    alive: bool
    """It is being started, runs, or is being repaired."""
    created_at: float | None
    started_at: float | None
    """When it was started last."""
