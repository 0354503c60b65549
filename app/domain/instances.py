"""What is remembered of instances: incarnations of a name, and interruptions that wait for theirs.

Times are seconds since the epoch, UTC, as floats.
`recorded_at` and `until` are by the exporter's clock, the others are event times.
"""

from enum import IntEnum
from typing import Final, NamedTuple

from app.domain.events import UNKNOWN, UNKNOWN_NODE, InstanceInterrupted, InstanceName, Node
from app.domain.values import maker, value

OTHER: Final = "other"


class Labels(NamedTuple):
    """The six labels that the product's series carry, in the order in which they are rendered."""

    project: str
    cluster: str
    cluster_location: str
    node_pool: str
    zone: str
    machine_type: str


_labels_of: Final = maker(Labels)
UNKNOWN_LABELS: Final = Labels(*[UNKNOWN] * 6)
OTHER_LABELS: Final = Labels(*[OTHER] * 6)
_RESERVED: Final = frozenset((UNKNOWN, OTHER))


def shown_cluster(name: str) -> str:
    """Return the name of a real cluster as every series, log line and answer shows it.

    The exporter uses `unknown` and `other` itself. No name that GKE accepts has a colon.
    """
    return f"cluster:{name}" if name in _RESERVED else name


class Kind(IntEnum):
    """What is known of an incarnation."""

    UNEXPLAINED = 0
    """Only that it was: it was interrupted, or its creation failed, before anything described it."""
    NODE = 1
    NOT_A_NODE = 2


# To find a member by way of its class takes Python 3.11 ten times as long, and every event asks for some.
UNEXPLAINED: Final = Kind.UNEXPLAINED
NODE: Final = Kind.NODE
NO_NODE: Final = Kind.NOT_A_NODE


class Instance(NamedTuple):
    """One incarnation of an instance name.

    A named tuple, not a dataclass, because every event makes and changes some, and a tuple is made faster.
    """

    name: InstanceName
    identity: str
    """The instance id; where no entry has told it, "~" and a text of this incarnation's own."""
    kind: Kind
    node: Node
    recorded_at: float
    spot: bool = False
    alive: bool = False
    announced: bool = False
    """A creation event told of it (a listing alone does not)."""
    failed: bool = False
    """Its creation has failed."""
    timed: bool = False
    """Its lifetime since its last start was observed."""
    overflowed: bool = False
    """Its series are those of `other`: there were too many label sets when it came."""
    operation: str = ""
    """The id of the insert that announced it; "" where unknown."""
    created_at: float | None = None
    started_at: float | None = None
    """The last start that a listing told; None where it told none."""
    interrupted_at: float | None = None
    ended_at: float | None = None
    """When it ceased to live, as far as known; None while alive."""

    @property
    def id(self) -> str:
        """The instance id; "" where no entry has told it."""
        return id_of(self.identity)

    @property
    def labels(self) -> Labels:
        """The labels of its series, unless it overflowed."""
        project, zone, _ = self.name
        cluster, cluster_location, node_pool, machine_type = self.node
        return _labels_of((project, cluster, cluster_location, node_pool, zone, machine_type))

    @property
    def live_spot(self) -> bool:
        """Whether the gauge of Spot instances counts it."""
        return self.alive and self.spot and self.kind is NODE


instance_of: Final = maker(Instance)


@value
class Parked:
    """An interruption that waits for something to explain its instance."""

    event: InstanceInterrupted
    until: float
    """When the grace ends, by the exporter's clock."""


def id_of(identity: str) -> str:
    """The instance id in an identity; "" where no entry has told it."""
    return "" if identity.startswith("~") else identity


def unexplained(name: InstanceName, identity: str, now: float) -> Instance:
    """An incarnation that nothing has described yet."""
    return Instance(name, identity, UNEXPLAINED, UNKNOWN_NODE, now)
