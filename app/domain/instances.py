"""The stored state of instances: the incarnations of a name, and its pending interruptions.

Times are seconds since the epoch, UTC, as floats. `recorded_at` and `until` are times of the exporter's
clock; the others are event times.
"""

from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

from app.domain.events import UNKNOWN, UNKNOWN_NODE, InstanceInterrupted, InstanceName, Node, frozen

OTHER: Final = "other"


class Labels(NamedTuple):
    """The six labels of the product's series, in the order in which they are rendered."""

    project: str
    cluster: str
    cluster_location: str
    node_pool: str
    zone: str
    machine_type: str


UNKNOWN_LABELS: Final = Labels(*[UNKNOWN] * 6)
OTHER_LABELS: Final = Labels(*[OTHER] * 6)
_RESERVED: Final = frozenset((UNKNOWN, OTHER))


def display_cluster(name: str) -> str:
    """Return the name of a real cluster as all series, log lines and responses show it.

    The exporter uses the names `unknown` and `other` itself. GKE does not accept a name with a colon.
    """
    return f"cluster:{name}" if name in _RESERVED else name


@lru_cache(maxsize=1024)  # the nodes of a pool have the same labels
def _labels_of(project: str, zone: str, node: Node) -> Labels:
    return Labels(project, node.cluster, node.cluster_location, node.node_pool, zone, node.machine_type)


class Kind(IntEnum):
    """The kind of an incarnation."""

    UNDESCRIBED = 0
    """No description yet, neither by a creation event nor by a listing."""
    NODE = 1
    PLAIN_INSTANCE = 2
    """Described, and not a GKE node."""


# In Python 3.11 the access through the class takes ten times as long, and each event needs several members.
UNDESCRIBED: Final = Kind.UNDESCRIBED
NODE: Final = Kind.NODE
PLAIN_INSTANCE: Final = Kind.PLAIN_INSTANCE


class Instance(NamedTuple):
    """One incarnation of an instance name.

    A named tuple, because each event creates several, and a tuple is created faster than a dataclass.
    """

    name: InstanceName
    identity: str
    """The instance id. If it is not known yet, "~" and a text that is unique to this incarnation."""
    kind: Kind
    node: Node
    recorded_at: float
    spot: bool = False
    alive: bool = False
    announced: bool = False
    """Described by a creation event, not only by a listing."""
    failed: bool = False
    """Ended because its creation failed."""
    lifetime_observed: bool = False
    """Observed: the histogram has the lifetime since the last start."""
    overflowed: bool = False
    """Counted under `other`, because there were too many label sets when it appeared."""
    deleted: bool = False
    """Deleted, so it can never live again."""
    operation: str = ""
    """The operation id of the insert that announced it; "" if unknown."""
    created_at: float | None = None
    started_at: float | None = None
    """The last start in a listing; None if no listing had a start."""
    interrupted_at: float | None = None
    ended_at: float | None = None
    """Time of its end, as far as known; None while alive."""

    @property
    def id(self) -> str:
        """The instance id; "" if it is not known yet."""
        return instance_id_of(self.identity)

    @property
    def labels(self) -> Labels:
        """The labels of its series. An overflowed incarnation counts under `other` instead."""
        return _labels_of(self.name.project, self.name.zone, self.node)

    @property
    def is_only_deleted(self) -> bool:
        """True if nothing but its deletion is known."""
        return self.deleted and self.kind is UNDESCRIBED and self.interrupted_at is None and not self.failed

    @property
    def live_spot(self) -> bool:
        """True if the gauge of Spot instances includes it."""
        return self.alive and self.spot and self.kind is NODE


@frozen
class PendingInterruption:
    """A pending interruption: its instance has not been described yet."""

    event: InstanceInterrupted
    until: float
    """End of the grace period, by the exporter's clock without the time for which no exporter ran."""


def instance_id_of(identity: str) -> str:
    """Return the instance id of an identity; "" if it is not known yet."""
    return "" if identity.startswith("~") else identity


def undescribed_instance(name: InstanceName, identity: str, now: float) -> Instance:
    """Return an incarnation that has not been described yet."""
    return Instance(name, identity, UNDESCRIBED, UNKNOWN_NODE, now)
