"""Outcomes and interruptions as JSON documents: in answers, in log lines, and on the ledger's page."""

from collections.abc import Mapping
from typing import Any, Final, assert_never, get_args, get_type_hints

from pydantic import TypeAdapter

from app.domain.events import Ignored, InstanceName, InterruptionDetails, Node
from app.domain.outcomes import Counted, Duplicate, Ended, Outcome, Pending, ReleasedBy, Tracked
from app.domain.times import rfc3339

_TEXT: Final = {"type": "string"}
_TIME: Final = {"type": "string", "format": "date-time"}
_ATTRIBUTION_SCHEMA: Final[Mapping[str, Any]] = dict.fromkeys(
    (
        "instance",
        "project",
        "kubernetes_cluster",
        "cluster_location",
        "node_pool",
        "zone",
        "machine_type",
    ),
    _TEXT,
)


def _attribution(name: InstanceName, node: Node) -> dict[str, str]:
    project, zone, instance = name
    cluster, cluster_location, node_pool, machine_type = node
    return {
        "instance": instance,
        "project": project,
        "kubernetes_cluster": cluster,
        "cluster_location": cluster_location,
        "node_pool": node_pool,
        "zone": zone,
        "machine_type": machine_type,
    }


RELEASERS: Final[tuple[str, ...]] = get_args(ReleasedBy)
INTERRUPTION_SCHEMA: Final[Mapping[str, Any]] = {
    "interrupted_at": _TIME,
    **_ATTRIBUTION_SCHEMA,
    "instance_id": _TEXT,
    "age_seconds": {"type": ["number", "null"]},
    "counted_as": {
        "type": "string",
        "description": "The cluster under which the counters include it, or empty if they do not.",
    },
    "released_by": {"enum": [*RELEASERS, None]},
    **{name: TypeAdapter(type_).json_schema() for name, type_ in get_type_hints(InterruptionDetails).items()},
}
"""The JSON schemas of the fields of `interruption_document`."""


def interruption_document(counted: Counted) -> dict[str, object]:
    """Return an interruption as its log line and the ledger's page show it."""
    return {
        "interrupted_at": rfc3339(counted.at),
        **_attribution(counted.name, counted.node),
        "instance_id": counted.id,
        "age_seconds": None if counted.age is None else round(counted.age, 3),
        "counted_as": counted.counted_as,
        "released_by": counted.released_by,
        **counted.details._asdict(),
    }


_NAMES: Final[Mapping[type[Outcome], str]] = {
    Tracked: "tracked",
    Counted: "counted",
    Duplicate: "duplicate",
    Pending: "pending",
    Ended: "ended",
    Ignored: "ignored",
}
OUTCOMES: Final = tuple(_NAMES.values())
OUTCOME_SCHEMA: Final[Mapping[str, Any]] = {
    "outcome": {"enum": list(OUTCOMES)},
    "reason": {"type": "string", "description": "The reason for which it was ignored."},
    **_ATTRIBUTION_SCHEMA,
}
"""The JSON schemas of the fields of `outcome_document`."""


def name_of(outcome: Outcome) -> str:
    """Return the outcome's name in answers and metrics."""
    return _NAMES[type(outcome)]


def outcome_document(outcome: Outcome) -> dict[str, str]:
    """Return an outcome as the answer to its push shows it."""
    name = {"outcome": name_of(outcome)}
    if isinstance(outcome, (Counted, Tracked)):
        return name | _attribution(outcome.name, outcome.node)
    if isinstance(outcome, Ignored):
        return name | {"reason": outcome.reason}
    if isinstance(outcome, (Duplicate, Ended, Pending)):
        return name
    assert_never(outcome)
