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


def _add_attribution(document: dict[str, Any], name: InstanceName, node: Node) -> None:
    # To merge a second dictionary would take a quarter to a third more instructions.
    document["instance"] = name.instance
    document["project"] = name.project
    document["kubernetes_cluster"] = node.cluster
    document["cluster_location"] = node.cluster_location
    document["node_pool"] = node.node_pool
    document["zone"] = name.zone
    document["machine_type"] = node.machine_type


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
    document: dict[str, object] = {"interrupted_at": rfc3339(counted.at)}
    _add_attribution(document, counted.name, counted.node)
    document["instance_id"] = counted.id
    document["age_seconds"] = None if counted.age is None else round(counted.age, 3)
    document["counted_as"] = counted.counted_as
    document["released_by"] = counted.released_by
    document.update(zip(InterruptionDetails._fields, counted.details, strict=True))
    return document


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
    document = {"outcome": name_of(outcome)}
    if isinstance(outcome, (Counted, Tracked)):
        _add_attribution(document, outcome.name, outcome.node)
    elif isinstance(outcome, Ignored):
        document["reason"] = outcome.reason
    elif not isinstance(outcome, (Duplicate, Ended, Pending)):
        assert_never(outcome)
    return document
