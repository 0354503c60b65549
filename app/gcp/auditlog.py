"""Cloud Logging's audit log entries as the events that this service records.

https://cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry,
https://cloud.google.com/logging/docs/reference/audit/auditlog/rest/Shared.Types/AuditLog
"""

import json
import re
from collections.abc import Callable, Mapping
from hashlib import sha256
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
    InstanceInterrupted,
    InstanceName,
    Node,
    instance_name_of,
)
from app.domain.instances import shown_cluster
from app.errors import MalformedEntryError
from app.gcp.labels import CLUSTER, CLUSTER_LOCATION, GKE_NODE, NODE_POOL, PROVISIONING_MODEL
from app.gcp.values import MAX_CHARACTERS, epoch_seconds, is_valid_text
from app.gcp.wire import is_log_entry, path, reader

_FAILURES: Final = frozenset({"ERROR", "CRITICAL", "ALERT", "EMERGENCY"})

_MAX_KEY: Final = 256
_INSTANCE: Final = re.compile(r"(?:\A|/)projects/([^/]+)/zones/([^/]+)/instances/([^/]+)\Z")


class Delivery(Protocol):
    """The message or the request that brought an entry."""

    @property
    def key(self) -> str:
        """What tells the delivery from others."""
        ...

    @property
    def published_at(self) -> float | None:
        """Seconds since the epoch, where that is known."""
        ...


def decode_entry(data: bytes, delivery: Delivery, now: float) -> Event | Ignored:
    """What a log entry means to this service, `now` in seconds since the epoch.

    Raises MalformedEntryError for what is no log entry, and for an entry of one of our methods
    that names no instance, or names one in a way that cannot be stored and shown.
    """
    try:
        entry = _read_entry(data)
    except ValidationError as exc:
        return _misfit(data, exc)
    method = entry.get("method")
    if not method:
        return _no_audit_log(data)
    decode = _decoder(method)
    return decode(entry, delivery, now) if decode else Ignored("other_method")


# The Compute API has a map here, its audit log a list of pairs.
_Labels: TypeAlias = Annotated[
    list[dict[str, str | None]] | dict[str, str | None], Field(union_mode="left_to_right")
]


class _LogEntry(TypedDict, total=False):
    """What is read of a log entry."""

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
    # Inserts carry an API version (v1., beta., …), system events none.
    return _DECODERS.get(method) or _DECODERS.get(method.partition(".")[2])


def _misfit(data: bytes, misfit: ValidationError) -> Ignored:
    # Fields of the same name have other shapes in other methods' entries, and those are not our business.
    try:
        method = _read_method(data).get("method")
    except ValidationError as exc:
        raise MalformedEntryError("the message's data is no JSON object") from exc
    if not isinstance(method, str):
        return _no_audit_log(data)
    if _decoder(method) is None:
        return Ignored("other_method")
    raise MalformedEntryError(f"{misfit.error_count()} fields do not fit an audit log entry") from misfit


def _no_audit_log(data: bytes) -> Ignored:
    if not is_log_entry(from_json(data)):
        raise MalformedEntryError("the message's data is a JSON object, but no log entry")
    return Ignored("not_an_audit_log")


def _inserted(entry: _LogEntry, delivery: Delivery, now: float) -> Event | Ignored:
    # An insert that is accepted is logged twice: first with the request, last with how it went.
    failed = bool(entry.get("status_code")) or entry.get("severity") in _FAILURES
    last = bool(entry.get("last")) and not entry.get("first")
    if last and not failed:
        return Ignored("last_entry")
    if not last and (failed or (entry.get("response_type") or "").endswith("/error")):
        return Ignored("denied_insert")
    name, instance_id, project_number = _subject(entry)
    at = _at(entry, delivery, now)
    operation = _operation(entry)
    if last:
        return CreationFailed(at, name, instance_id, operation, project_number)
    labels = _labels(entry)
    node = _node(entry, labels)
    if node is None and (GKE_NODE in labels or (entry.get("splits") or 0) > 1):
        # A node all the same: an old one, without its cluster's name, or one whose labels are in another
        # piece of the entry. Remembered as no node, its interruption would be ignored.
        return Ignored("no_cluster_label")
    key = _key("created", entry, operation, delivery)
    return InstanceCreated(key, at, name, instance_id, operation, node, _spot(entry, labels), project_number)


def _preempted(entry: _LogEntry, delivery: Delivery, now: float) -> Event:
    name, instance_id, project_number = _subject(entry)
    key = _key("interrupted", entry, _operation(entry), delivery)
    return InstanceInterrupted(key, _at(entry, delivery, now), name, instance_id, project_number)


_DECODERS: Final[Mapping[str, _Decoder]] = {
    "compute.instances.insert": _inserted,
    "compute.instances.preempted": _preempted,
}


def _subject(entry: _LogEntry) -> tuple[InstanceName, str, str]:
    """The instance's name and id, and its project's number."""
    # An instance group's insert names the project by number in `resourceName`, a person's by id. The
    # monitored resource and the target link have the id in both, but either may be missing.
    named, linked = _instance_name(entry.get("resource_name")), _instance_name(entry.get("target_link"))
    where = named or linked
    if where is None:
        raise MalformedEntryError("the entry names no instance")
    project = entry.get("project_id") or (linked or where).project
    number = "" if project.isdecimal() else _number_in(named) or _number_in(linked)
    instance_id = entry.get("instance_id") or entry.get("target_id") or ""
    _check_texts(project, where.zone, where.instance, instance_id, number)
    name = where if where.project == project else where._replace(project=project)
    return name, instance_id, number


def _number_in(name: InstanceName | None) -> str:
    return name.project if name and name.project.isdecimal() else ""


def _instance_name(link: str | None) -> InstanceName | None:
    """The name at the end of a path or a URL, whatever API version and host it begins with."""
    found = _INSTANCE.search(link) if link else None
    return instance_name_of(found.groups()) if found else None


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
        shown_cluster(cluster),
        labels.get(CLUSTER_LOCATION) or UNKNOWN,
        labels.get(NODE_POOL) or UNKNOWN,
        (entry.get("machine_type") or "").rpartition("/")[2] or UNKNOWN,
    )
    _check_texts(*node)
    return node


def _spot(entry: _LogEntry, labels: Mapping[str, str | None]) -> bool | None:
    # A legacy preemptible instance has no provisioning model, and counts as Spot.
    label = labels.get(PROVISIONING_MODEL)
    if entry.get("preemptible") or entry.get("provisioning_model") == "SPOT" or label == "spot":
        return True
    return False if entry.get("preemptible") is not None or entry.get("provisioning_model") or label else None


def _check_texts(*texts: str) -> None:
    if not is_valid_text(*texts):
        raise MalformedEntryError(
            f"a name or a label is longer than {MAX_CHARACTERS} characters or holds control characters"
        )


def _at(entry: _LogEntry, delivery: Delivery, now: float) -> float:
    """Return when the event happened: the first of its times that can be right.

    An event is logged before it is received and published. It may be of any age: a dead-letter topic or a
    seek replays it.
    """
    at, received_at = epoch_seconds(entry.get("timestamp")), epoch_seconds(entry.get("receive_timestamp"))
    published_at = delivery.published_at
    known_by = next(known for known in (published_at, received_at, now) if known is not None)
    latest = known_by + BELIEVED_AHEAD_SECONDS
    return next((at for at in (at, received_at, published_at) if at is not None and at <= latest), now)


def _operation(entry: _LogEntry) -> str:
    """The operation's id, or what stands for one that is no fit text."""
    operation = entry.get("operation_id") or ""
    return operation if _is_plain(operation) else _digest(operation)


def _key(kind: str, entry: _LogEntry, operation: str, delivery: Delivery) -> str:
    # The same entry can be exported twice, under two message ids: hence the message comes last.
    if operation:
        return _joined(kind, "operation", entry.get("producer") or "", operation)
    log_name, timestamp, insert_id = entry.get("log_name"), entry.get("timestamp"), entry.get("insert_id")
    if log_name and timestamp and insert_id:
        return _joined(kind, "entry", log_name, timestamp, insert_id)
    return _joined(kind, "message", delivery.key)


def _joined(*parts: str) -> str:
    # Readable where possible, and in the order of time: operation ids begin with it, and an index
    # stays local that grows at its end.
    text = " ".join(parts)
    if _is_plain(text) and text.count(" ") == len(parts) - 1:
        return text
    return f"{parts[0]} sha256 {_digest(*parts)}"


def _is_plain(text: str) -> bool:
    return len(text) <= _MAX_KEY and text.isascii() and text.isprintable()


def _digest(*parts: str) -> str:
    return sha256(json.dumps(parts).encode()).hexdigest()
