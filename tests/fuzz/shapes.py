"""Sound entries: each shape that Google Cloud sends, with what may become of it."""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from tests.fuzz.draft import Draft
from tests.support.entries import JsonObject, cut_down, insert, legacy, preempted, system_event, without

CLUSTERS: Final = ("tills", "ovens", "shelves", 'quo"ted\\', "\u202eright to left \U0001f600")
_ZONE: Final = "europe-west1-c"

Shape: TypeAlias = Callable[[Draft, str, int], tuple[JsonObject, frozenset[str]]]

_CREATED: Final = frozenset({"tracked", "duplicate"})
_INTERRUPTED: Final = frozenset({"counted", "pending", "duplicate", "ignored"})
_IGNORED: Final = frozenset({"ignored"})


def _insert(**fields: Any) -> Shape:  # noqa: ANN401  # `insert`'s own
    outcomes = _IGNORED if fields.keys() & {"last", "denied"} else _CREATED

    def make(draft: Draft, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
        made: JsonObject = {"cluster": draft.one(CLUSTERS), "zone": _ZONE, "operation": f"operation-{number}"}
        return insert(name, **(made | fields)), outcomes

    return make


def _preempted(draft: Draft, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
    at = f"2026-03-{1 + draft.below(28):02}T{draft.below(24):02}:40:55.308114Z"
    return preempted(name, zone=_ZONE, operation=f"systemevent-{number}", timestamp=at), _INTERRUPTED


def _other(*methods: str) -> Shape:
    def make(draft: Draft, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
        entry = system_event(draft.one(methods), name, operation=f"systemevent-{number}")
        return without(entry, *draft.one(((), ("operation",), ("protoPayload.resourceName",)))), _IGNORED

    return make


def _without_response(draft: Draft, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
    entry, outcomes = _insert(version="beta", project_number=None)(draft, name, number)
    entry["protoPayload"]["response"] = {}
    return entry, outcomes


def _bulk_parent(draft: Draft, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
    entry, _ = _insert()(draft, name, number)
    entry["protoPayload"]["methodName"] = "v1.compute.instances.bulkInsert"
    del entry["protoPayload"]["resourceName"]
    return entry, _IGNORED


def _bulk_instance(draft: Draft, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
    entry = insert(name, zone=_ZONE, cluster=None, operation=f"operation-{number}")
    return entry, frozenset({"ignored", "duplicate"})


def _split(draft: Draft, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
    entry, _ = _insert()(draft, name, number)
    del entry["protoPayload"]["request"]["labels"]
    entry["split"] = {"uid": entry["insertId"], "index": draft.below(3), "totalSplits": 3}
    return entry, _IGNORED


def _cut_down(of: Shape) -> Shape:
    def make(draft: Draft, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
        entry, outcomes = of(draft, name, number)
        return cut_down(entry), outcomes

    return make


def _legacy(draft: Draft, name: str, number: int) -> tuple[JsonObject, frozenset[str]]:
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
