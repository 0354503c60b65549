"""Log entries and Pub/Sub deliveries in the forms of Google Cloud.

Entries are dictionaries; `changed` and `without` return changed copies, `encoded` returns bytes. Ids that are
not given are derived from the project, zone and name. So an insert and a preemption of a name have the same
instance id, and the same entry has the same operation, as in a redelivery.
"""

import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final, TypeAlias

JsonObject: TypeAlias = dict[str, Any]

PROJECT: Final = "shop-prod"
PROJECT_NUMBER: Final = "408213775019"
ZONE: Final = "europe-west1-c"
CREATED_AT: Final = "2026-03-02T08:14:07.512903Z"
PREEMPTED_AT: Final = "2026-03-02T11:40:55.308114Z"

_AUDIT_LOG: Final = "type.googleapis.com/google.cloud.audit.AuditLog"


def insert(  # noqa: PLR0913  each keyword is a fact that some test needs to be otherwise
    name: str = "gke-tills-spot-5c1e9a40-x7kd",
    *,
    project: str = PROJECT,
    project_number: str | None = PROJECT_NUMBER,
    zone: str = ZONE,
    instance_id: str | None = None,
    version: str = "v1",
    cluster: str | None = "tills",
    cluster_location: str = "europe-west1",
    node_pool: str = "spot",
    machine_type: str = "e2-standard-8",
    spot: bool = True,
    labels: Mapping[str, str] | None = None,
    last: bool = False,
    failed: bool = False,
    denied: bool = False,
    operation: str | None = None,
    timestamp: str = CREATED_AT,
) -> JsonObject:
    """Return the first entry of an instance's creation or, with `last`, the second.

    Without `project_number` a person requested it, not an instance group, so `resourceName` has the id.
    Without `cluster` it is not a GKE node. `labels` are added to those of the node. `failed` is for a last
    entry; `denied` returns the only entry of an insert that was refused.
    """
    instance_id = instance_id or made_id(project, zone, name)
    parent = f"projects/{project_number or project}/zones/{zone}"
    entry: JsonObject = {
        "protoPayload": {
            "@type": _AUDIT_LOG,
            "authenticationInfo": {
                "principalEmail": f"{PROJECT_NUMBER}@cloudservices.gserviceaccount.com",
                "principalSubject": f"serviceAccount:{PROJECT_NUMBER}@cloudservices.gserviceaccount.com",
            },
            "requestMetadata": {
                "callerIp": "private",
                "callerSuppliedUserAgent": "GCE Managed Instance Group for GKE",
                "requestAttributes": {"time": timestamp, "auth": {}},
                "destinationAttributes": {},
            },
            "serviceName": "compute.googleapis.com",
            "methodName": f"{version}.compute.instances.insert",
            "authorizationInfo": [
                {
                    "permission": permission,
                    "granted": not denied,
                    "resource": f"{parent}/instances/{name}",
                    "resourceAttributes": {
                        "service": "compute",
                        "name": f"{parent}/instances/{name}",
                        "type": "compute.instances",
                    },
                }
                for permission in ("compute.instances.create", "compute.instances.setLabels")
            ],
            "resourceName": f"{parent}/instances/{name}",
            "request": {"@type": "type.googleapis.com/compute.instances.insert"},
            "resourceLocation": {"currentLocations": [zone]},
        },
        "insertId": made_insert_id("insert", instance_id, timestamp, last),
        "resource": {
            "type": "gce_instance",
            "labels": {"instance_id": instance_id, "project_id": project, "zone": zone},
        },
        "timestamp": timestamp,
        "severity": "ERROR" if failed or denied else "NOTICE",
        "logName": f"projects/{project}/logs/cloudaudit.googleapis.com%2Factivity",
        "receiveTimestamp": _received(timestamp),
    }
    payload = entry["protoPayload"]
    if failed:
        payload["status"] = {"code": 8, "message": "ZONE_RESOURCE_POOL_EXHAUSTED"}
    if not denied:
        # Not by the timestamp: both entries of an insert have one operation, and the last comes later.
        operation = operation or made_operation("operation", CREATED_AT, project, zone, name, instance_id)
        entry["operation"] = {"id": operation, "producer": "compute.googleapis.com"} | (
            {"last": True} if last else {"first": True}
        )
    if last:
        return entry
    payload["request"] |= {
        "name": name,
        "machineType": f"{parent}/machineTypes/{machine_type}",
        "canIpForward": True,
        "disks": [{"type": "PERSISTENT", "mode": "READ_WRITE", "boot": True, "autoDelete": True}],
        "networkInterfaces": [{"network": f"projects/{project}/global/networks/default"}],
        "scheduling": _scheduling(spot=spot),
    }
    all_labels = {
        **(gke_labels(cluster, cluster_location, node_pool, spot=spot) if cluster is not None else {}),
        **(labels or {}),
    }
    if all_labels:
        payload["request"]["labels"] = [{"key": key, "value": all_labels[key]} for key in all_labels]
    if denied:
        payload["status"] = {"code": 7, "message": "Required 'compute.instances.create' permission"}
        payload["response"] = {
            "@type": "type.googleapis.com/error",
            "error": {"code": 403, "message": "Required 'compute.instances.create' permission"},
        }
        return entry
    payload["response"] = {
        "@type": "type.googleapis.com/operation",
        "id": made_id("operation", instance_id),
        "name": operation,
        "operationType": "insert",
        "status": "RUNNING",
        "targetId": instance_id,
        "targetLink": f"https://www.googleapis.com/compute/{version}/projects/{project}/zones/{zone}/instances/{name}",
        "zone": f"https://www.googleapis.com/compute/{version}/projects/{project}/zones/{zone}",
    }
    return entry


def preempted(
    name: str = "gke-tills-spot-5c1e9a40-x7kd",
    *,
    project: str = PROJECT,
    zone: str = ZONE,
    instance_id: str | None = None,
    operation: str | None = None,
    timestamp: str = PREEMPTED_AT,
) -> JsonObject:
    """Return the entry of a preemption. Another timestamp means another preemption and operation."""
    entry = system_event(
        "compute.instances.preempted",
        name,
        project=project,
        zone=zone,
        instance_id=instance_id,
        operation=operation,
        timestamp=timestamp,
    )
    entry["protoPayload"]["status"] = {"message": "Instance was preempted."}
    return entry


def deletion(name: str = "gke-tills-spot-5c1e9a40-x7kd", **fields: Any) -> JsonObject:  # noqa: ANN401 - `insert`'s
    """Return the last entry of an instance's deletion. Keywords are those of `insert`."""
    entry = insert(name, **{"last": True, **fields})
    version = entry["protoPayload"]["methodName"].partition(".")[0]
    entry["protoPayload"]["methodName"] = f"{version}.compute.instances.delete"
    entry["protoPayload"]["request"] = {"@type": "type.googleapis.com/compute.instances.delete"}
    return entry


def system_event(
    method: str = "compute.instances.hostError",
    name: str = "gke-tills-spot-5c1e9a40-x7kd",
    *,
    project: str = PROJECT,
    zone: str = ZONE,
    instance_id: str | None = None,
    operation: str | None = None,
    timestamp: str = PREEMPTED_AT,
) -> JsonObject:
    """Return the entry of an operation that Compute Engine did without a request."""
    instance_id = instance_id or made_id(project, zone, name)
    return {
        "protoPayload": {
            "@type": _AUDIT_LOG,
            "status": {},
            "authenticationInfo": {"principalEmail": "system@google.com"},
            "requestMetadata": {"requestAttributes": {}, "destinationAttributes": {}},
            "serviceName": "compute.googleapis.com",
            "methodName": method,
            "resourceName": f"projects/{project}/zones/{zone}/instances/{name}",
            "request": {"@type": f"type.googleapis.com/{method}"},
        },
        "insertId": made_insert_id(method, instance_id, timestamp),
        "resource": {
            "type": "gce_instance",
            "labels": {"instance_id": instance_id, "project_id": project, "zone": zone},
        },
        "timestamp": timestamp,
        "severity": "INFO",
        "logName": f"projects/{project}/logs/cloudaudit.googleapis.com%2Fsystem_event",
        "operation": {
            "id": operation
            or made_operation("systemevent", timestamp, method, project, zone, name, instance_id),
            "producer": method,
            "first": True,
            "last": True,
        },
        "receiveTimestamp": _received(timestamp),
    }


def legacy(
    name: str = "gke-tills-spot-5c1e9a40-x7kd", *, project: str = PROJECT, zone: str = ZONE
) -> JsonObject:
    """Return a preemption in the form of the activity log before audit logs, without `protoPayload`."""
    instance_id = made_id(project, zone, name)
    return {
        "jsonPayload": {
            "event_type": "GCE_OPERATION_DONE",
            "event_subtype": "compute.instances.preempted",
            "actor": {"user": "system"},
            "resource": {"type": "instance", "id": instance_id, "name": name, "zone": zone},
            "version": "1.2",
        },
        "insertId": made_insert_id("legacy", instance_id, PREEMPTED_AT),
        "resource": {
            "type": "gce_instance",
            "labels": {"instance_id": instance_id, "project_id": project, "zone": zone},
        },
        "timestamp": PREEMPTED_AT,
        "severity": "INFO",
        "logName": f"projects/{project}/logs/compute.googleapis.com%2Factivity_log",
        "receiveTimestamp": _received(PREEMPTED_AT),
    }


PUBLISHED: Final = "2026-03-02T11:40:56.204Z"
_TIMESTAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def envelope(
    entry: JsonObject | bytes,
    *,
    message_id: str | None = None,
    subscription: str | None = "projects/shop-prod/subscriptions/sie-interruption-subscription",
    publish_time: str | None = PUBLISHED,
    attributes: Mapping[str, str] | None = None,
    delivery_attempt: int | None = None,
) -> JsonObject:
    """Return the wrapped delivery of a log sink's message. None leaves a field out.

    By default the message id is derived from the entry, so the same entry again is a redelivery, and an entry
    with a later time than usual is published at that time.
    """
    logged = str(entry.get("timestamp")) if isinstance(entry, dict) else ""
    if publish_time == PUBLISHED and _TIMESTAMP.fullmatch(logged):
        publish_time = max(PUBLISHED, logged)
    data = entry if isinstance(entry, bytes) else encoded(entry)
    message_id = message_id or made_id("message", sha256(data).hexdigest())
    message: JsonObject = {
        "data": b64encode(data).decode(),
        "messageId": message_id,
        "message_id": message_id,
    }
    if publish_time is not None:
        message |= {"publishTime": publish_time, "publish_time": publish_time}
    if isinstance(entry, dict) and "timestamp" in entry:
        attributes = {"logging.googleapis.com/timestamp": entry["timestamp"], **(attributes or {})}
    if attributes:
        message["attributes"] = dict(attributes)
    delivery: JsonObject = {"message": message}
    if subscription is not None:
        delivery["subscription"] = subscription
    if delivery_attempt is not None:
        delivery["deliveryAttempt"] = delivery_attempt
    return delivery


def push(entry: JsonObject | bytes, **fields: Any) -> bytes:  # noqa: ANN401  `envelope`'s own
    """Return the body of a wrapped delivery."""
    return encoded(envelope(entry, **fields))


def gke_labels(cluster: str, location: str, node_pool: str, *, spot: bool) -> dict[str, str]:
    """Return the labels that GKE gives to the VM of a node."""
    return {
        "goog-k8s-cluster-name": cluster,
        "goog-k8s-cluster-location": location,
        "goog-k8s-node-pool-name": node_pool,
        "goog-gke-node": "",
        "goog-gke-node-pool-provisioning-model": "spot" if spot else "on-demand",
        "goog-gke-cluster-id-base32": _hex(cluster, location),
    }


def _scheduling(*, spot: bool) -> JsonObject:
    if not spot:
        return {"preemptible": False, "automaticRestart": True, "onHostMaintenance": "MIGRATE"}
    return {
        "preemptible": True,
        "provisioningModel": "SPOT",
        "instanceTerminationAction": "STOP",
        "automaticRestart": False,
        "onHostMaintenance": "TERMINATE",
    }


def encoded(value: JsonObject | Sequence[Any]) -> bytes:
    """Return the entry as JSON, with the newline that log sinks sometimes add."""
    return json.dumps(value).encode() + b"\n"


def changed(value: JsonObject, path: str, new: object) -> JsonObject:
    """Return a copy with a field set. The path has dots: `protoPayload.request.labels`."""
    copy = deepcopy(value)
    *parents, field = path.split(".")
    target = copy
    for parent in parents:
        target = target.setdefault(parent, {})
    target[field] = new
    return copy


def without(value: JsonObject, *paths: str) -> JsonObject:
    """Return a copy without these fields."""
    copy = deepcopy(value)
    for path in paths:
        *parents, field = path.split(".")
        target = copy
        for parent in parents:
            target = target.get(parent, {})
        target.pop(field, None)
    return copy


def cut_down(entry: JsonObject) -> JsonObject:
    """Return an entry as in the project's first README: the method, the name, and the labels of an insert."""
    payload = {k: v for k, v in entry["protoPayload"].items() if k in {"@type", "methodName", "resourceName"}}
    if labels := entry["protoPayload"]["request"].get("labels"):
        payload["request"] = {"labels": labels}
    return {"protoPayload": payload}


def made_id(*seed: str) -> str:
    """Return a numeric id, as instances and messages have, derived from the seed."""
    return str(10**18 + int(_hex(*seed)[:14], 16))


def made_operation(kind: str, timestamp: str, *seed: str) -> str:
    """Return an operation id: its kind, milliseconds, and text derived from the seed."""
    made = _hex(timestamp, *seed)
    milliseconds = int(datetime.fromisoformat(timestamp).timestamp() * 1000)
    return f"{kind}-{milliseconds}-{made[:13]}-{made[13:21]}-{made[21:29]}"


def made_insert_id(*seed: object) -> str:
    """Return an insert id derived from the seed."""
    return f"-{_hex(*map(str, seed))[:13]}"


def _received(timestamp: str) -> str:
    received = datetime.fromisoformat(timestamp).astimezone(UTC) + timedelta(seconds=0.725)
    return f"{received:%Y-%m-%dT%H:%M:%S.%f}417Z"


def _hex(*seed: str) -> str:
    return sha256("/".join(seed).encode()).hexdigest()
