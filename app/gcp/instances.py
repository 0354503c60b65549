"""The instances in the lines that `app/gcp/compute/instances.py` writes.

https://cloud.google.com/compute/docs/reference/rest/v1/instances
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from app.domain.events import UNKNOWN, InstanceName, Listed, Node
from app.domain.instances import display_cluster

_ALIVE: Final = frozenset({"PROVISIONING", "STAGING", "RUNNING", "REPAIRING"})


def parse_instances(project: str, lines: Sequence[bytes]) -> list[Listed]:
    """Return the instances in lines of the project's listing."""
    return [_listed(project, raw) for raw in json.loads(b"[" + b",".join(lines) + b"]")]


def _listed(project: str, raw: Sequence[Any]) -> Listed:
    zone, name, instance_id, is_node, cluster, location, pool, machine_type = raw[:8]
    spot, status, created_at, started_at = raw[8:]
    cluster = display_cluster(cluster) if cluster else UNKNOWN
    node = Node(cluster, location or UNKNOWN, pool or UNKNOWN, machine_type or UNKNOWN)
    return Listed(
        InstanceName(project, zone, name),
        instance_id,
        node if is_node else None,
        spot=spot,
        alive=status in _ALIVE,
        created_at=created_at,
        started_at=started_at,
    )
