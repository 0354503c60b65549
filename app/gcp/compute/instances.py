"""The instances of a project.

An entry is `[zone, name, id, is_node, cluster, cluster_location, node_pool, machine_type, spot, status,
created_at, started_at]`. It always has twelve elements. `id` is text; times are seconds since the epoch; null
means that Google gives no value. If `is_node` is false, it is a Spot VM outside GKE, with its zone, name and
id only.

https://cloud.google.com/compute/docs/reference/rest/v1/instances/aggregatedList
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from google.cloud.compute_v1.services.instances import InstancesClient
from google.cloud.compute_v1.services.instances.transports import InstancesRestTransport
from google.cloud.compute_v1.types import AggregatedListInstancesRequest, InstanceAggregatedList

from app.gcp.compute.failures import Subject
from app.gcp.compute.pages import Source, Transport
from app.gcp.labels import CLUSTER, CLUSTER_LOCATION, GKE_NODE, NODE_POOL, PROVISIONING_MODEL, is_spot
from app.gcp.values import epoch_seconds, is_valid_text

_Instance: TypeAlias = Any

# Nodes and other Spot VMs, in one listing: no instance appears twice, and all are of one moment. The syntax
# is that of AIP-160, as documented for the parameter. The filter only saves traffic: see `_entry`.
_FILTER: Final = " OR ".join(
    (
        f"(labels.{CLUSTER}:*)",
        f"(labels.{GKE_NODE}:*)",
        "(scheduling.preemptible = true)",
        '(scheduling.provisioningModel = "SPOT")',
    )
)
# https://cloud.google.com/compute/docs/api/how-tos/performance#partial-response
_FIELDS: Final = (
    "kind,nextPageToken,unreachables,warning/code,items/*/warning/code,"
    "items/*/instances(name,id,machineType,status,creationTimestamp,lastStartTimestamp,labels,"
    "scheduling(preemptible,provisioningModel))"
)


class _Transport(Transport, InstancesRestTransport):
    """The library's transport."""


class _Entry(NamedTuple):
    """An instance's line; a tuple, because JSON encodes it as an array."""

    zone: str
    name: str
    id: str
    is_node: bool
    cluster: str | None = None
    cluster_location: str | None = None
    node_pool: str | None = None
    machine_type: str | None = None
    spot: bool = True
    status: str | None = None
    created_at: float | None = None
    started_at: float | None = None

    def is_valid(self) -> bool:
        """Return True if the instance can be stored and shown."""
        identified = self.zone and self.name and self.id
        return bool(identified) and is_valid_text(*(value for value in self if isinstance(value, str)))


def _entry(instance: _Instance, zone: str) -> _Entry | None:
    """Return an instance's line; None if it is neither a node nor a Spot VM.

    The filter is not enough, because a server may ignore it. As in the audit log, an old node has the label
    `goog-gke-node` and no cluster's name.
    """
    labels, scheduling = instance.labels, instance.scheduling
    identity = (zone, instance.name, str(instance.id or ""))
    cluster = labels.get(CLUSTER)
    spot = bool(
        is_spot(
            preemptible=scheduling.preemptible,
            provisioning_model=scheduling.provisioning_model,
            label=labels.get(PROVISIONING_MODEL),
        )
    )
    if not cluster and GKE_NODE not in labels:
        return _Entry(*identity, is_node=False) if spot else None
    return _Entry(
        *identity,
        is_node=True,
        cluster=cluster or None,
        cluster_location=labels.get(CLUSTER_LOCATION) or None,
        node_pool=labels.get(NODE_POOL) or None,
        machine_type=instance.machine_type.rpartition("/")[2] or None,
        spot=spot,
        status=instance.status or None,
        created_at=epoch_seconds(instance.creation_timestamp),
        started_at=epoch_seconds(instance.last_start_timestamp),
    )


def _entries(zone: str, scope: Any) -> Sequence[_Entry | None]:  # noqa: ANN401 - of protobuf
    entries = (_entry(instance, zone) for instance in scope.instances)
    return [entry if entry.is_valid() else None for entry in entries if entry is not None]


INSTANCES: Final = Source(
    subject=Subject("instances", "the permission compute.instances.list"),
    client=InstancesClient,
    transport=_Transport,
    request=AggregatedListInstancesRequest,
    answer=InstanceAggregatedList,
    kind="compute#instanceAggregatedList",
    filter=_FILTER,
    fields=_FIELDS,
    entries_of=_entries,
)
