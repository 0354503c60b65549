"""Valid log entries: each shape that Google Cloud sends, with its allowed outcomes."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from tests.fuzz.case_builder import CaseBuilder
from tests.support.entries import (
    JsonObject,
    cut_down,
    deletion,
    insert,
    legacy,
    preempted,
    system_event,
    without,
)

CLUSTERS: Final = ("tills", "ovens", "shelves", 'quo"ted\\', "\u202eright to left \U0001f600")
_ZONE: Final = "europe-west1-c"

Shape: TypeAlias = Callable[[CaseBuilder, str, int], tuple[JsonObject, frozenset[str]]]

_CREATED: Final = frozenset({"tracked", "duplicate"})
_INTERRUPTED: Final = frozenset({"counted", "pending", "duplicate", "ignored"})
_IGNORED: Final = frozenset({"ignored"})


def _insert(**fields: Any) -> Shape:  # noqa: ANN401  # the fields of `insert`
    outcomes = _IGNORED if fields.keys() & {"last", "denied"} else _CREATED

    def make(builder: CaseBuilder, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
        defaults: JsonObject = {
            "cluster": builder.choose(CLUSTERS),
            "zone": _ZONE,
            "operation": f"operation-{number}",
        }
        return insert(name, **(defaults | fields)), outcomes

    return make


def _preempted(builder: CaseBuilder, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
    at = f"2026-03-{1 + builder.below(28):02}T{builder.below(24):02}:40:55.308114Z"
    return preempted(name, zone=_ZONE, operation=f"systemevent-{number}", timestamp=at), _INTERRUPTED


def _deletion(_builder: CaseBuilder, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
    return deletion(name, zone=_ZONE, operation=f"operation-{number}"), frozenset({"ended", "ignored"})


def _other(*methods: str) -> Shape:
    def make(builder: CaseBuilder, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
        entry = system_event(builder.choose(methods), name, operation=f"systemevent-{number}")
        return without(entry, *builder.choose(((), ("operation",), ("protoPayload.resourceName",)))), _IGNORED

    return make


def _without_response(builder: CaseBuilder, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
    entry, outcomes = _insert(version="beta", project_number=None)(builder, name, number)
    entry["protoPayload"]["response"] = {}
    return entry, outcomes


def _bulk_parent(builder: CaseBuilder, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
    entry, _ = _insert()(builder, name, number)
    entry["protoPayload"]["methodName"] = "v1.compute.instances.bulkInsert"
    del entry["protoPayload"]["resourceName"]
    return entry, _IGNORED


def _bulk_instance(builder: CaseBuilder, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
    entry = insert(name, zone=_ZONE, cluster=None, operation=f"operation-{number}")
    return entry, frozenset({"ignored", "duplicate"})


def _split(builder: CaseBuilder, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
    entry, _ = _insert()(builder, name, number)
    del entry["protoPayload"]["request"]["labels"]
    entry["split"] = {"uid": entry["insertId"], "index": builder.below(3), "totalSplits": 3}
    return entry, _IGNORED


def _cut_down(shape: Shape) -> Shape:
    def make(builder: CaseBuilder, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
        entry, outcomes = shape(builder, name, number)
        return cut_down(entry), outcomes

    return make


def _legacy(builder: CaseBuilder, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
    return legacy(name, zone=_ZONE), _IGNORED


SHAPES: Final[dict[str, Shape]] = {
    "insert": _insert(),
    "insert again": _insert(),
    "insert by a person": _insert(project_number=None),
    "insert, domain-scoped": _insert(project="example.com:shop", project_number=None),
    "insert, last": _insert(last=True),
    "insert, failed": _insert(last=True, failed=True),
    "insert, denied": _insert(denied=True),
    "insert, beta without response": _without_response,
    "insert, cut down": _cut_down(_insert()),
    "insert, bulk": _bulk_parent,
    "insert, of bulk": _bulk_instance,
    "insert, split": _split,
    "deletion": _deletion,
    "preempted": _preempted,
    "preempted again": _preempted,
    "preempted a third time": _preempted,
    "preempted, cut down": _cut_down(_preempted),
    "system event": _other(
        "compute.instances.hostError",
        "compute.instances.terminateOnHostMaintenance",
        "compute.instances.automaticRestart",
        "compute.instances.guestTerminate",
        "compute.instances.repair.recreateInstance",
    ),
    "legacy": _legacy,
}
