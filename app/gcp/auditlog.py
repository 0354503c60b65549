"""Cloud Logging's audit log entries as the events that the exporter records.

https://cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry,
https://cloud.google.com/logging/docs/reference/audit/auditlog/rest/Shared.Types/AuditLog
"""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Final, Protocol, TypeAlias

from pydantic import Field, ValidationError
from pydantic_core import from_json
from typing_extensions import TypedDict

from app.domain.events import (
    BELIEVED_AHEAD_SECONDS,
    UNKNOWN,
    CreationFailed,
    Event,
    Ignored,
    InstanceCreated,
    InstanceDeleted,
    InstanceInterrupted,
    InstanceName,
    Node,
)
from app.domain.instances import display_cluster
from app.errors import MalformedEntryError
from app.gcp.keys import joined, operation_id, operation_key
from app.gcp.labels import CLUSTER, CLUSTER_LOCATION, GKE_NODE, NODE_POOL, PROVISIONING_MODEL, is_spot
from app.gcp.values import MAX_CHARACTERS, epoch_seconds, is_valid_text
from app.gcp.wire import is_log_entry, path, reader

_FAILURES: Final = frozenset({"ERROR", "CRITICAL", "ALERT", "EMERGENCY"})

_INSTANCE: Final = re.compile(r"(?:\A|/)projects/([^/]+)/zones/([^/]+)/instances/([^/]+)\Z")


class Delivery(Protocol):
    """The message or the request that delivered an entry."""

    @property
    def key(self) -> str:
        """A text that no other delivery has."""
        ...

    @property
    def published_at(self) -> float | None:
        """Seconds since the epoch; None if it is not known."""
        ...


def decode_entry(data: bytes, delivery: Delivery, now: float) -> Event | Ignored:
    """Return the event that a log entry describes, or the reason to ignore it; `now` is in epoch seconds.

    Raises MalformedEntryError if the data is not a log entry, or if an entry of one of our methods names no
    instance, or has a name or a label that cannot be stored and shown.
    """
    try:
        entry = _read_entry(data)
    except ValidationError as exc:
        return _invalid_entry(data, exc)
    method = entry.get("method")
    if not method:
        return _not_an_audit_log(data)
    decode = _decoder(method)
    return decode(entry, delivery, now) if decode else Ignored("other_method")


# The Compute API has a map here, and its audit log a list of pairs.
_Labels: TypeAlias = Annotated[
    list[dict[str, str | None]] | dict[str, str | None], Field(union_mode="left_to_right")
]


class _LogEntry(TypedDict, total=False):
    """The fields that are read from a log entry.

    A value of a wrong type makes the entry malformed, so its message is refused. Declare a field as `object`
    if the event does not depend on it.
    """

    log_name: Annotated[str | None, path("logName")]
    insert_id: Annotated[str | None, path("insertId")]
    timestamp: str | None
    receive_timestamp: Annotated[str | None, path("receiveTimestamp")]
    severity: str | None
    splits: Annotated[int | None, path("split", "totalSplits")]

    operation_id: Annotated[str | None, path("operation", "id")]
    producer: Annotated[str | None, path("operation", "producer")]
    first: Annotated[bool | None, path("operation", "first")]
    last: Annotated[bool | None, path("operation", "last")]

    project_id: Annotated[str | None, path("resource", "labels", "project_id")]
    instance_id: Annotated[str | None, path("resource", "labels", "instance_id")]

    method: Annotated[str | None, path("protoPayload", "methodName")]
    resource_name: Annotated[str | None, path("protoPayload", "resourceName")]
    status_code: Annotated[int | None, path("protoPayload", "status", "code")]
    labels: Annotated[_Labels | None, path("protoPayload", "request", "labels")]
    machine_type: Annotated[str | None, path("protoPayload", "request", "machineType")]
    preemptible: Annotated[bool | None, path("protoPayload", "request", "scheduling", "preemptible")]
    provisioning_model: Annotated[
        str | None, path("protoPayload", "request", "scheduling", "provisioningModel")
    ]
    response_type: Annotated[str | None, path("protoPayload", "response", "@type")]
    target_link: Annotated[str | None, path("protoPayload", "response", "targetLink")]
    target_id: Annotated[str | None, path("protoPayload", "response", "targetId")]


class _Method(TypedDict, total=False):
    method: Annotated[object, path("protoPayload", "methodName")]


_read_entry: Final = reader(_LogEntry)
_read_method: Final = reader(_Method)

_Decoder: TypeAlias = Callable[[_LogEntry, Delivery, float], Event | Ignored]


def _decoder(method: str) -> _Decoder | None:
    # Inserts have an API version (v1., beta., …), system events have none.
    return _DECODERS.get(method) or _DECODERS.get(method.partition(".")[2])


def _invalid_entry(data: bytes, error: ValidationError) -> Ignored:
    # In the entries of other methods, which are ignored, fields of the same names have other types.
    try:
        method = _read_method(data).get("method")
    except ValidationError as exc:
        raise MalformedEntryError("the message's data is not a JSON object") from exc
    if not isinstance(method, str):
        return _not_an_audit_log(data)
    if _decoder(method) is None:
        return Ignored("other_method")
    raise MalformedEntryError("the audit log entry has a field whose value cannot be read") from error


def _not_an_audit_log(data: bytes) -> Ignored:
    if not is_log_entry(from_json(data)):
        raise MalformedEntryError("the message's data is a JSON object, but not a log entry")
    return Ignored("not_an_audit_log")


def _inserted(entry: _LogEntry, delivery: Delivery, now: float) -> Event | Ignored:
    # An accepted insert is logged twice: first with the request, last with the result.
    failed = bool(entry.get("status_code")) or entry.get("severity") in _FAILURES
    last = bool(entry.get("last")) and not entry.get("first")
    if last and not failed:
        return Ignored("last_entry")
    if not last and (failed or (entry.get("response_type") or "").endswith("/error")):
        return Ignored("denied_insert")
    name, instance_id, project_number = _subject(entry)
    at = _at(entry, delivery, now)
    operation = operation_id(entry.get("operation_id") or "")
    if last:
        return CreationFailed(at, name, instance_id, operation, project_number)
    labels = _labels(entry)
    node = _node(entry, labels)
    if node is None and (GKE_NODE in labels or (entry.get("splits") or 0) > 1):
        # It may still be a node: an old one without its cluster's name, or one whose labels are in another
        # piece of the entry. If it were recorded as another VM, its interruption would be ignored.
        return Ignored("no_cluster_label")
    key = _key("created", entry, delivery)
    spot = is_spot(
        preemptible=entry.get("preemptible"),
        provisioning_model=entry.get("provisioning_model"),
        label=labels.get(PROVISIONING_MODEL),
    )
    return InstanceCreated(key, at, name, instance_id, operation, node, spot, project_number)


def _deleted(entry: _LogEntry, delivery: Delivery, now: float) -> Event | Ignored:
    # A deletion is logged twice, too, and the instance is gone only at the last entry.
    if entry.get("status_code") or entry.get("severity") in _FAILURES:
        return Ignored("failed_delete")
    if not entry.get("last"):
        return Ignored("first_entry")
    name, instance_id, project_number = _subject(entry)
    return InstanceDeleted(_at(entry, delivery, now), name, instance_id, project_number)


def _preempted(entry: _LogEntry, delivery: Delivery, now: float) -> Event:
    name, instance_id, project_number = _subject(entry)
    key = _key("interrupted", entry, delivery)
    return InstanceInterrupted(key, _at(entry, delivery, now), name, instance_id, project_number)


_DECODERS: Final[Mapping[str, _Decoder]] = {
    "compute.instances.insert": _inserted,
    "compute.instances.delete": _deleted,
    "compute.instances.preempted": _preempted,
}


def _subject(entry: _LogEntry) -> tuple[InstanceName, str, str]:
    """Return the instance's name, its id, and its project's number."""
    # In `resourceName`, an instance group's insert has the project's number, and a person's has its id. The
    # monitored resource and the target link always have the id, but each can be missing.
    named, linked = _instance_name(entry.get("resource_name")), _instance_name(entry.get("target_link"))
    instance = named or linked
    if instance is None:
        raise MalformedEntryError("the entry names no instance")
    project = entry.get("project_id") or (linked or instance).project
    number = "" if project.isdecimal() else _number_in(named) or _number_in(linked)
    instance_id = entry.get("instance_id") or entry.get("target_id") or ""
    _check_texts(project, instance.zone, instance.instance, instance_id, number)
    name = instance if instance.project == project else instance._replace(project=project)
    return name, instance_id, number


def _number_in(name: InstanceName | None) -> str:
    return name.project if name and name.project.isdecimal() else ""


def _instance_name(link: str | None) -> InstanceName | None:
    """Return the instance's name at the end of a path or a URL of any API version and host."""
    found = _INSTANCE.search(link) if link else None
    return InstanceName._make(found.groups()) if found else None


def _labels(entry: _LogEntry) -> Mapping[str, str | None]:
    labels = entry.get("labels") or {}
    if isinstance(labels, list):
        return {pair.get("key") or "": pair.get("value") for pair in labels}
    return labels


def _node(entry: _LogEntry, labels: Mapping[str, str | None]) -> Node | None:
    cluster = labels.get(CLUSTER)
    if not cluster:
        return None
    node = Node(
        display_cluster(cluster),
        labels.get(CLUSTER_LOCATION) or UNKNOWN,
        labels.get(NODE_POOL) or UNKNOWN,
        (entry.get("machine_type") or "").rpartition("/")[2] or UNKNOWN,
    )
    _check_texts(*node)
    return node


def _check_texts(*texts: str) -> None:
    if not is_valid_text(*texts):
        raise MalformedEntryError(
            f"a name or a label is longer than {MAX_CHARACTERS} characters or has control characters"
        )


def _at(entry: _LogEntry, delivery: Delivery, now: float) -> float:
    """Return the event's time in epoch seconds: the first of the entry's times that can be right.

    An event is logged before it is received and published. It can be of any age, because a dead-letter topic
    or a seek replays old messages.
    """
    # A time is parsed only if it is needed, because that takes a tenth of the time of the whole entry.
    received, published_at = entry.get("receive_timestamp"), delivery.published_at
    known_at = epoch_seconds(received) if published_at is None else published_at
    latest = (now if known_at is None else known_at) + BELIEVED_AHEAD_SECONDS
    for timestamp in (entry.get("timestamp"), received):
        at = epoch_seconds(timestamp)
        if at is not None and at <= latest:
            return at
    return now if published_at is None else published_at


def _key(kind: str, entry: _LogEntry, delivery: Delivery) -> str:
    # The message id is the last choice, because an entry can be exported twice, under two message ids.
    if operation := entry.get("operation_id"):
        return operation_key(kind, entry.get("producer") or "", operation)
    log_name, timestamp, insert_id = entry.get("log_name"), entry.get("timestamp"), entry.get("insert_id")
    if log_name and timestamp and insert_id:
        return joined(kind, "entry", log_name, timestamp, insert_id)
    return joined(kind, "message", delivery.key)
