"""Compute Engine's operations as the events that their log entries are.

https://cloud.google.com/compute/docs/reference/rest/v1/zoneOperations
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from app.domain.events import InstanceInterrupted, InstanceName, InterruptionDetails
from app.gcp.keys import operation_key

PREEMPTED: Final = "compute.instances.preempted"
"""The type of the operation, which is also the method and the producer of the log entry."""

_INSTANCE: Final = re.compile(r"(?:\A|/)(projects/[^/]+/zones/[^/]+/instances/[^/]+)\Z")


def instance_path(link: str) -> str | None:
    """Return the path of the instance in a link of any API version and host; None if it names none."""
    found = _INSTANCE.search(link)
    return found[1] if found else None


def parse_operations(project: str, lines: Sequence[bytes]) -> list[InstanceInterrupted]:
    """Return the interruptions in lines of the project's operations."""
    return [_interrupted(project, raw) for raw in json.loads(b"[" + b",".join(lines) + b"]")]


def _interrupted(project: str, raw: Sequence[Any]) -> InstanceInterrupted:
    operation, target, instance_id, at = raw
    _, named, _, zone, _, instance = target.split("/")
    return InstanceInterrupted(
        operation_key("interrupted", PREEMPTED, operation),
        at,
        InstanceName(project, zone, instance),
        instance_id,
        named if named.isdecimal() else "",
        details=InterruptionDetails(found_by="operation"),
    )
