import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from typing import Final, NamedTuple, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.events import (
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
from app.errors import MalformedEntryError
from app.gcp.auditlog import decode_entry
from tests.support.entries import (
    JsonObject,
    changed,
    cut_down,
    deletion,
    encoded,
    gke_labels,
    insert,
    legacy,
    preempted,
    system_event,
    without,
)

Decoded: TypeAlias = Event | Ignored

INSTANCE: Final = "gke-tills-spot-5c1e9a40-x7kd"
NAME: Final = InstanceName("shop-prod", "europe-west1-c", INSTANCE)
ID: Final = "6021347710954288131"
INSERT: Final = insert(INSTANCE, instance_id=ID, operation="operation-1")
LAST: Final = insert(INSTANCE, instance_id=ID, operation="operation-1", last=True)
FAILED: Final = insert(INSTANCE, instance_id=ID, operation="operation-1", last=True, failed=True)
DENIED: Final = insert(INSTANCE, instance_id=ID, denied=True)
PREEMPTED: Final = preempted(INSTANCE, instance_id=ID, operation="systemevent-1")

NODE: Final = Node("tills", "europe-west1", "spot", "e2-standard-8")
CREATED: Final = InstanceCreated(
    key="created operation compute.googleapis.com operation-1",
    at=1772439247.512903,
    name=NAME,
    id=ID,
    operation="operation-1",
    node=NODE,
    spot=True,
    project_number="408213775019",
)
CREATION_FAILED: Final = CreationFailed(CREATED.at, NAME, ID, "operation-1", "408213775019")
INTERRUPTED: Final = InstanceInterrupted(
    key="interrupted operation compute.instances.preempted systemevent-1",
    at=1772451655.308114,
    name=NAME,
    id=ID,
)

DELETION: Final = deletion(INSTANCE, instance_id=ID, operation="operation-2")
DELETED: Final = InstanceDeleted(CREATED.at, NAME, ID, "408213775019")

LABELS: Final = "protoPayload.request.labels"
SCHEDULING: Final = "protoPayload.request.scheduling"
RESOURCE_NAME: Final = "protoPayload.resourceName"
TARGET_LINK: Final = "protoPayload.response.targetLink"
METHOD: Final = "protoPayload.methodName"
PATH: Final = f"projects/shop-prod/zones/europe-west1-c/instances/{INSTANCE}"


PUBLISHED_AT: Final = 1772451657.5  # 2026-03-02T11:40:57.5Z


class Delivered(NamedTuple):
    key: str = "fallback"
    published_at: float | None = PUBLISHED_AT


DELIVERY: Final = Delivered()
NOW: Final = 2.5
DAY: Final = 86400.0


def decode(entry: JsonObject) -> Decoded:
    return decode_entry(encoded(entry), DELIVERY, NOW)


def created(entry: JsonObject) -> InstanceCreated:
    event = decode(entry)
    assert isinstance(event, InstanceCreated)
    return event


def keyed(entry: JsonObject, delivery: Delivered = DELIVERY) -> str:
    event = decode_entry(encoded(entry), delivery, NOW)
    assert isinstance(event, InstanceCreated | InstanceInterrupted)
    return event.key


@pytest.mark.parametrize(
    ("entry", "decoded"),
    [
        pytest.param(INSERT, CREATED, id="insert"),
        pytest.param(PREEMPTED, INTERRUPTED, id="preempted"),
        pytest.param(LAST, Ignored("last_entry"), id="last-entry"),
        pytest.param(FAILED, CREATION_FAILED, id="failed-insert"),
        pytest.param(DELETION, DELETED, id="deletion"),
        pytest.param(
            changed(DELETION, METHOD, "beta.compute.instances.delete"), DELETED, id="deletion-in-beta"
        ),
        pytest.param(
            changed(changed(DELETION, "operation.last", new=False), "operation.first", new=True),
            Ignored("first_entry"),
            id="first-entry-of-a-deletion",
        ),
        pytest.param(
            changed(DELETION, "protoPayload.status", {"code": 5}),
            Ignored("failed_delete"),
            id="failed-delete",
        ),
        pytest.param(DENIED, Ignored("denied_insert"), id="denied-insert"),
        pytest.param(legacy(), Ignored("not_an_audit_log"), id="legacy"),
        pytest.param({"textPayload": "hello", "logName": "l"}, Ignored("not_an_audit_log"), id="text"),
        pytest.param({"logName": "l"}, Ignored("not_an_audit_log"), id="no-payload"),
        pytest.param({"protoPayload": None}, Ignored("not_an_audit_log"), id="null-payload"),
        pytest.param({"protoPayload": [1]}, Ignored("not_an_audit_log"), id="odd-payload"),
        pytest.param(without(INSERT, METHOD), Ignored("not_an_audit_log"), id="no-method"),
        pytest.param(changed(INSERT, METHOD, ""), Ignored("not_an_audit_log"), id="empty-method"),
        pytest.param(changed(INSERT, METHOD, None), Ignored("not_an_audit_log"), id="null-method"),
        pytest.param(changed(INSERT, METHOD, 5), Ignored("not_an_audit_log"), id="method-not-text"),
    ],
)
def test_decodes(entry: JsonObject, decoded: Decoded) -> None:
    assert decode(entry) == decoded


@pytest.mark.parametrize(
    "method",
    [
        "v1.compute.instances.insert",
        "beta.compute.instances.insert",
        "alpha.compute.instances.insert",
        "v2beta1.compute.instances.insert",
        "compute.instances.insert",
    ],
)
def test_an_insert_of_any_api_version_is_a_creation(method: str) -> None:
    assert decode(changed(INSERT, METHOD, method)) == CREATED


@pytest.mark.parametrize(
    "method",
    [
        "compute.instances.hostError",
        "compute.instances.terminateOnHostMaintenance",
        "compute.instances.automaticRestart",
        "compute.instances.guestTerminate",
        "compute.instances.migrateOnHostMaintenance",
        "compute.instances.repair.recreateInstance",
        "v1.compute.instances.bulkInsert",
        "v1.compute.instances.stop",
        "v1.compute.regionInstances.insert",
        "v1.beta.compute.instances.insert",
        "compute.instances.preempted.again",
        "NotifyInstanceLocation",
        "instances.insert",
    ],
)
def test_other_methods_are_ignored(method: str) -> None:
    assert decode(system_event(method)) == Ignored("other_method")


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(without(system_event(), RESOURCE_NAME), id="no-resource-name"),
        pytest.param(without(system_event(), "operation"), id="no-operation"),
        pytest.param(changed(system_event(), "protoPayload.request", [1]), id="request-a-list"),
        pytest.param(changed(system_event(), LABELS, [1, "a"]), id="labels-numbers"),
        pytest.param(changed(system_event(), LABELS, {"a": {}}), id="label-an-object"),
        pytest.param(changed(system_event(), RESOURCE_NAME, 5), id="resource-name-a-number"),
        pytest.param(changed(system_event(), "protoPayload.status.code", "bad"), id="status-code-text"),
        pytest.param(changed(system_event(), SCHEDULING, {"preemptible": "perhaps"}), id="preemptible-text"),
        pytest.param(changed(system_event(), "timestamp", 5), id="timestamp-a-number"),
        pytest.param(changed(system_event(), "timestamp", "yesterday"), id="timestamp-none"),
        pytest.param(changed(system_event(), "resource.labels.instance_id", 5), id="id-a-number"),
    ],
)
def test_other_methods_are_ignored_with_fields_of_any_type(entry: JsonObject) -> None:
    assert decode(entry) == Ignored("other_method")


@pytest.mark.parametrize(
    ("entry", "decoded"),
    [
        pytest.param(
            cut_down(insert(project_number=None)),
            InstanceCreated(
                "created message fallback",
                PUBLISHED_AT,
                NAME,
                "",
                "",
                NODE._replace(machine_type=UNKNOWN),
                spot=True,
            ),
            id="insert-without-response",
        ),
        pytest.param(
            cut_down(insert()),
            InstanceCreated(
                "created message fallback",
                PUBLISHED_AT,
                NAME._replace(project="408213775019"),
                "",
                "",
                NODE._replace(machine_type=UNKNOWN),
                spot=True,
            ),
            id="insert-that-names-the-project-by-number-alone",
        ),
        pytest.param(
            changed(
                changed(
                    without(cut_down(insert()), RESOURCE_NAME), LABELS, {"goog-k8s-cluster-name": "tills"}
                ),
                TARGET_LINK,
                f"https://www.googleapis.com/compute/v1/{PATH}",
            ),
            InstanceCreated(
                "created message fallback",
                PUBLISHED_AT,
                NAME,
                "",
                "",
                Node("tills", UNKNOWN, UNKNOWN, UNKNOWN),
                spot=None,
            ),
            id="insert-with-a-target-link-alone",
        ),
        pytest.param(
            cut_down(preempted()),
            InstanceInterrupted("interrupted message fallback", PUBLISHED_AT, NAME, ""),
            id="preempted",
        ),
    ],
)
def test_cut_down_messages_of_the_first_readme_work(entry: JsonObject, decoded: Decoded) -> None:
    assert decode(entry) == decoded


@pytest.mark.parametrize(
    ("entry", "decoded"),
    [
        pytest.param(changed(INSERT, "severity", "ERROR"), Ignored("denied_insert"), id="error"),
        pytest.param(changed(INSERT, "severity", "CRITICAL"), Ignored("denied_insert"), id="critical"),
        pytest.param(changed(INSERT, "severity", "ALERT"), Ignored("denied_insert"), id="alert"),
        pytest.param(changed(INSERT, "severity", "EMERGENCY"), Ignored("denied_insert"), id="emergency"),
        pytest.param(changed(INSERT, "severity", "WARNING"), CREATED, id="warning"),
        pytest.param(without(INSERT, "severity"), CREATED, id="no-severity"),
        pytest.param(
            changed(INSERT, "protoPayload.status", {"code": 7}), Ignored("denied_insert"), id="status"
        ),
        pytest.param(changed(INSERT, "protoPayload.status", {"code": 0}), CREATED, id="status-ok"),
        pytest.param(changed(INSERT, "protoPayload.status", {}), CREATED, id="empty-status"),
        pytest.param(changed(INSERT, "protoPayload.status", None), CREATED, id="null-status"),
        pytest.param(
            changed(INSERT, "protoPayload.response.@type", "type.googleapis.com/error"),
            Ignored("denied_insert"),
            id="error-response-alone",
        ),
        pytest.param(without(DENIED, RESOURCE_NAME), Ignored("denied_insert"), id="denied-names-nothing"),
        pytest.param(changed(FAILED, "severity", "NOTICE"), CREATION_FAILED, id="failed-by-status-alone"),
        pytest.param(without(FAILED, "protoPayload.status"), CREATION_FAILED, id="failed-by-severity-alone"),
        pytest.param(without(LAST, RESOURCE_NAME), Ignored("last_entry"), id="last-names-nothing"),
        pytest.param(changed(INSERT, "operation.last", new=True), CREATED, id="first-and-last"),
        pytest.param(
            changed(FAILED, "operation.first", new=True), Ignored("denied_insert"), id="first-and-last-failed"
        ),
        pytest.param(
            changed(FAILED, "operation.first", new=False), CREATION_FAILED, id="last-and-expressly-not-first"
        ),
        pytest.param(
            changed(PREEMPTED, "severity", "ERROR"), INTERRUPTED, id="a-preemption-is-one-at-any-severity"
        ),
    ],
)
def test_denied_and_failed(entry: JsonObject, decoded: Decoded) -> None:
    assert decode(entry) == decoded


@pytest.mark.parametrize(
    ("labels", "node"),
    [
        pytest.param(
            [{"key": "goog-k8s-cluster-name", "value": "a"}], ("a", UNKNOWN, UNKNOWN), id="cluster-alone"
        ),
        pytest.param({"goog-k8s-cluster-name": "a"}, ("a", UNKNOWN, UNKNOWN), id="map"),
        pytest.param(
            gke_labels("a", "europe-west1", "p", spot=True), ("a", "europe-west1", "p"), id="map-of-all"
        ),
        pytest.param(
            {"goog-k8s-cluster-name": "a", "goog-k8s-cluster-location": "", "goog-k8s-node-pool-name": None},
            ("a", UNKNOWN, UNKNOWN),
            id="empty-and-null-are-missing",
        ),
        pytest.param(
            [{"key": "goog-k8s-cluster-name", "value": "a"}, {"key": "goog-k8s-node-pool-name"}],
            ("a", UNKNOWN, UNKNOWN),
            id="no-value",
        ),
        pytest.param(
            [{"value": "b"}, {}, {"key": "goog-k8s-cluster-name", "value": "a"}],
            ("a", UNKNOWN, UNKNOWN),
            id="no-key",
        ),
    ],
)
def test_labels(labels: object, node: tuple[str, str, str]) -> None:
    assert created(changed(INSERT, LABELS, labels)).node == Node(*node, "e2-standard-8")


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(insert(cluster=None), id="no-labels"),
        pytest.param(insert(cluster=None, labels={"team": "tills"}), id="other-labels"),
        pytest.param(changed(INSERT, LABELS, None), id="null-labels"),
        pytest.param(changed(INSERT, LABELS, []), id="empty-list"),
        pytest.param(changed(INSERT, LABELS, {}), id="empty-map"),
        pytest.param(changed(INSERT, LABELS, {"goog-k8s-cluster-name": ""}), id="empty-cluster"),
        pytest.param(without(INSERT, "protoPayload.request"), id="no-request"),
        pytest.param(changed(INSERT, "protoPayload.request", None), id="null-request"),
        pytest.param(changed(insert(cluster=None), "split", {"totalSplits": 1}), id="one-piece"),
    ],
)
def test_an_instance_without_a_cluster_label_is_not_a_node(entry: JsonObject) -> None:
    assert created(entry).node is None


@pytest.mark.parametrize(
    ("entry", "decoded"),
    [
        pytest.param(
            changed(INSERT, LABELS, [{"key": "goog-gke-node", "value": ""}]),
            Ignored("no_cluster_label"),
            id="old-node",
        ),
        pytest.param(
            changed(INSERT, LABELS, {"goog-gke-node": "", "goog-k8s-cluster-name": ""}),
            Ignored("no_cluster_label"),
            id="node-of-an-empty-cluster",
        ),
        pytest.param(
            changed(insert(cluster=None), "split", {"uid": "u", "index": 1, "totalSplits": 2}),
            Ignored("no_cluster_label"),
            id="piece-without-labels",
        ),
        pytest.param(
            changed(INSERT, "split", {"uid": "u", "totalSplits": 2}), CREATED, id="piece-with-labels"
        ),
    ],
)
def test_an_instance_that_may_be_a_node_is_ignored(entry: JsonObject, decoded: Decoded) -> None:
    assert decode(entry) == decoded


@pytest.mark.parametrize(
    ("machine_type", "shown"),
    [
        pytest.param(
            "projects/408213775019/zones/europe-west1-c/machineTypes/c3d-highmem-8",
            "c3d-highmem-8",
            id="path",
        ),
        pytest.param(
            "https://www.googleapis.com/compute/v1/projects/p/zones/z/machineTypes/n2-custom-6-20480",
            "n2-custom-6-20480",
            id="url",
        ),
        pytest.param("e2-medium", "e2-medium", id="short"),
        pytest.param("", UNKNOWN, id="empty"),
        pytest.param("zones/z/machineTypes/", UNKNOWN, id="empty-last-part"),
        pytest.param(None, UNKNOWN, id="null"),
    ],
)
def test_machine_type(machine_type: str | None, shown: str) -> None:
    assert created(changed(INSERT, "protoPayload.request.machineType", machine_type)).node == NODE._replace(
        machine_type=shown
    )


@pytest.mark.parametrize(
    ("scheduling", "label", "spot"),
    [
        pytest.param({"preemptible": True, "provisioningModel": "SPOT"}, "spot", True, id="spot"),
        pytest.param({"provisioningModel": "SPOT"}, None, True, id="model-alone"),
        pytest.param({"preemptible": True}, None, True, id="legacy-preemptible"),
        pytest.param({}, "spot", True, id="label-alone"),
        pytest.param(None, "spot", True, id="label-and-null-scheduling"),
        pytest.param({"preemptible": False}, "spot", True, id="label-against-preemptible"),
        pytest.param(
            {"preemptible": True, "provisioningModel": "STANDARD"}, None, True, id="preemptible-against-model"
        ),
        pytest.param({"preemptible": False}, None, False, id="not-preemptible"),
        pytest.param({"provisioningModel": "STANDARD"}, None, False, id="standard"),
        pytest.param({}, "on-demand", False, id="on-demand-label"),
        pytest.param({"automaticRestart": True}, None, None, id="scheduling-does-not-say"),
        pytest.param({"provisioningModel": ""}, "", None, id="empty-values-do-not-say"),
        pytest.param(None, None, None, id="nothing"),
    ],
)
def test_spot(scheduling: object, label: str | None, *, spot: bool | None) -> None:
    labels = {"goog-k8s-cluster-name": "tills", "goog-gke-node-pool-provisioning-model": label}

    assert created(changed(changed(INSERT, SCHEDULING, scheduling), LABELS, labels)).spot is spot


def named(resource_name: object, target_link: object, project_id: str | None) -> JsonObject:
    entry = changed(changed(INSERT, RESOURCE_NAME, resource_name), TARGET_LINK, target_link)
    return changed(entry, "resource.labels.project_id", project_id)


BY_NUMBER: Final = PATH.replace("shop-prod", "408213775019")
LINK: Final = f"https://www.googleapis.com/compute/v1/{PATH}"


@pytest.mark.parametrize(
    ("entry", "project", "number"),
    [
        pytest.param(named(BY_NUMBER, LINK, "shop-prod"), "shop-prod", "408213775019", id="number-and-id"),
        pytest.param(named(PATH, LINK, "shop-prod"), "shop-prod", "", id="id-everywhere"),
        pytest.param(named(PATH, LINK, "other-prod"), "other-prod", "", id="resource-before-paths"),
        pytest.param(
            named(BY_NUMBER, LINK, None), "shop-prod", "408213775019", id="target-link-before-resource-name"
        ),
        pytest.param(named(BY_NUMBER, LINK, ""), "shop-prod", "408213775019", id="empty-project-id"),
        pytest.param(named(PATH, None, None), "shop-prod", "", id="resource-name-alone"),
        pytest.param(named(BY_NUMBER, None, None), "408213775019", "", id="number-alone"),
        pytest.param(named(BY_NUMBER, None, "shop-prod"), "shop-prod", "408213775019", id="no-target-link"),
        pytest.param(named(None, LINK, None), "shop-prod", "", id="target-link-alone"),
        pytest.param(
            named(PATH, LINK.replace("shop-prod", "408213775019"), "shop-prod"),
            "shop-prod",
            "408213775019",
            id="number-in-target-link",
        ),
        pytest.param(
            named(BY_NUMBER, LINK.replace("shop-prod", "example.com:shop"), "example.com:shop"),
            "example.com:shop",
            "408213775019",
            id="domain-scoped",
        ),
        pytest.param(
            named(PATH.replace("shop-prod", "example.com:shop"), None, None),
            "example.com:shop",
            "",
            id="domain-in-path",
        ),
    ],
)
def test_project(entry: JsonObject, project: str, number: str) -> None:
    event = created(entry)

    assert (event.name, event.project_number) == (NAME._replace(project=project), number)


@pytest.mark.parametrize(
    ("resource_name", "target_link"),
    [
        pytest.param(f"//compute.googleapis.com/{PATH}", None, id="full-resource-name"),
        pytest.param(f"https://www.googleapis.com/compute/v1/{PATH}", None, id="resource-url"),
        pytest.param(None, f"https://www.googleapis.com/compute/beta/{PATH}", id="beta-link"),
        pytest.param(None, f"https://compute.googleapis.com/compute/v1/{PATH}", id="other-host"),
        pytest.param(PATH, LINK.replace(INSTANCE, "other"), id="resource-name-before-link"),
        pytest.param("", LINK, id="empty-resource-name"),
        pytest.param("projects/shop-prod/zones/europe-west1-c", LINK, id="resource-name-of-a-zone"),
        pytest.param(PATH, "", id="empty-link"),
        pytest.param(
            PATH, "https://www.googleapis.com/compute/v1/projects/shop-prod", id="link-to-the-project"
        ),
    ],
)
def test_name(resource_name: str | None, target_link: str | None) -> None:
    assert created(named(resource_name, target_link, None)).name == NAME


@pytest.mark.parametrize(
    ("entry", "instance_id"),
    [
        pytest.param(INSERT, ID, id="both"),
        pytest.param(changed(INSERT, "protoPayload.response.targetId", "7"), ID, id="resource-first"),
        pytest.param(without(INSERT, "resource"), ID, id="target-id"),
        pytest.param(changed(INSERT, "resource.labels.instance_id", ""), ID, id="empty-resource-id"),
        pytest.param(without(INSERT, "resource", "protoPayload.response.targetId"), "", id="none"),
        pytest.param(
            changed(changed(INSERT, "protoPayload.response", {}), METHOD, "beta.compute.instances.insert"),
            ID,
            id="beta-with-an-empty-response",
        ),
    ],
)
def test_instance_id(entry: JsonObject, instance_id: str) -> None:
    assert created(entry).id == instance_id


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(INSERT, id="insert"),
        pytest.param(FAILED, id="failed"),
        pytest.param(PREEMPTED, id="preempted"),
    ],
)
@pytest.mark.parametrize(
    "resource_name",
    [
        None,
        "",
        "instance",
        "projects/shop-prod",
        f"projects/shop-prod/regions/europe-west1/instances/{INSTANCE}",
        "projects/shop-prod/zones/europe-west1-c/instances/",
        f"projects/shop-prod/zones//instances/{INSTANCE}",
        f"projects//zones/europe-west1-c/instances/{INSTANCE}",
        f"my{PATH}",
        f"{PATH}/disks",
    ],
)
def test_one_of_our_methods_that_names_no_instance_is_refused(
    entry: JsonObject, resource_name: str | None
) -> None:
    with pytest.raises(MalformedEntryError):
        decode(changed(without(entry, TARGET_LINK), RESOURCE_NAME, resource_name))


def relabelled(key: str) -> Callable[[str], JsonObject]:
    return lambda text: changed(INSERT, LABELS, {"goog-k8s-cluster-name": "tills", key: text})


def renamed(part: str) -> Callable[[str], JsonObject]:
    return lambda text: without(
        changed(PREEMPTED, RESOURCE_NAME, PATH.replace(part, text)), "resource.labels.project_id"
    )


def set_in(entry: JsonObject, path: str) -> Callable[[str], JsonObject]:
    return lambda text: changed(entry, path, text)


SHOWN: Final = [
    pytest.param(set_in(PREEMPTED, "resource.labels.project_id"), id="project-id"),
    pytest.param(set_in(PREEMPTED, "resource.labels.instance_id"), id="instance-id"),
    pytest.param(set_in(without(INSERT, "resource"), "protoPayload.response.targetId"), id="target-id"),
    pytest.param(renamed("shop-prod"), id="project"),
    pytest.param(renamed("europe-west1-c"), id="zone"),
    pytest.param(renamed(INSTANCE), id="instance"),
    pytest.param(lambda text: changed(FAILED, RESOURCE_NAME, PATH + text), id="failed-instance"),
    pytest.param(relabelled("goog-k8s-cluster-name"), id="cluster"),
    pytest.param(relabelled("goog-k8s-cluster-location"), id="cluster-location"),
    pytest.param(relabelled("goog-k8s-node-pool-name"), id="node-pool"),
    pytest.param(set_in(INSERT, "protoPayload.request.machineType"), id="machine-type"),
]


@pytest.mark.parametrize("entry", SHOWN)
@pytest.mark.parametrize("text", [pytest.param("a" * 513, id="long"), pytest.param("a\nb", id="newline")])
def test_text_that_cannot_be_stored_and_shown_is_refused(
    entry: Callable[[str], JsonObject], text: str
) -> None:
    with pytest.raises(MalformedEntryError):
        decode(entry(text))


def test_a_project_number_that_could_not_be_stored_is_refused() -> None:
    with pytest.raises(MalformedEntryError):
        decode(changed(INSERT, RESOURCE_NAME, PATH.replace("shop-prod", "4" * 513)))


def test_labels_that_are_not_read_may_have_any_value() -> None:
    assert (
        decode(insert(INSTANCE, instance_id=ID, operation="operation-1", labels={"x": "\x00" * 600}))
        == CREATED
    )


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(changed(INSERT, LABELS, "tills"), id="labels-text"),
        pytest.param(changed(INSERT, LABELS, ["tills"]), id="labels-a-list-of-text"),
        pytest.param(changed(INSERT, LABELS, {"goog-k8s-cluster-name": 5}), id="label-a-number"),
        pytest.param(changed(INSERT, RESOURCE_NAME, 5), id="resource-name-a-number"),
        pytest.param(changed(INSERT, SCHEDULING, {"preemptible": "perhaps"}), id="preemptible-text"),
        pytest.param(changed(PREEMPTED, "resource.labels.instance_id", 5), id="id-a-number"),
        pytest.param(changed(PREEMPTED, "timestamp", 5), id="timestamp-a-number"),
        pytest.param(changed(PREEMPTED, "operation.id", 5), id="operation-id-a-number"),
    ],
)
def test_one_of_our_methods_in_another_shape_is_refused(entry: JsonObject) -> None:
    with pytest.raises(MalformedEntryError):
        decode(entry)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"hello", id="text"),
        pytest.param(b"\xff", id="not-utf-8"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"null", id="null"),
        pytest.param(b"5", id="number"),
        pytest.param(b'"protoPayload"', id="string"),
        pytest.param(encoded(PREEMPTED)[:-2], id="cut-off"),
        pytest.param(b'{"protoPayload":' * 100_000, id="deeply-nested"),
        pytest.param(b'{"insertId": ' + b"9" * 5_000 + b"}", id="huge-integer"),
    ],
)
def test_data_that_is_not_a_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedEntryError):
        decode_entry(data, DELIVERY, NOW)


@pytest.mark.parametrize("entry", [{}, {"message": "hello"}, {"protopayload": {}}])
def test_an_object_without_a_field_of_log_entries_is_refused(entry: JsonObject) -> None:
    with pytest.raises(MalformedEntryError):
        decode(entry)


@pytest.mark.parametrize("event", [INSERT, FAILED, PREEMPTED], ids=["insert", "failed", "preempted"])
def test_a_time_that_cannot_be_read_gives_way_to_the_next(event: JsonObject) -> None:
    decoded = decode(event)
    assert not isinstance(decoded, Ignored)
    entry = event | {"timestamp": "yesterday", "receiveTimestamp": "2026-03-02T11:40:56.5Z"}

    assert decode(entry) == replace(decoded, at=1772451656.5)
    assert decode(entry | {"receiveTimestamp": "yesterday"}) == replace(decoded, at=PUBLISHED_AT)


@pytest.mark.parametrize(
    ("entry", "at"),
    [
        pytest.param(
            PREEMPTED | {"receiveTimestamp": "2026-03-02T00:00:00Z"}, INTERRUPTED.at, id="timestamp-first"
        ),
        pytest.param(
            without(PREEMPTED, "timestamp") | {"receiveTimestamp": "2026-03-02T11:40:56.5Z"},
            1772451656.5,
            id="receive-timestamp",
        ),
        pytest.param(
            PREEMPTED | {"timestamp": "", "receiveTimestamp": None}, PUBLISHED_AT, id="empty-and-null"
        ),
        pytest.param(without(PREEMPTED, "timestamp", "receiveTimestamp"), PUBLISHED_AT, id="publish-time"),
    ],
)
def test_event_time(entry: JsonObject, at: float) -> None:
    assert decode(entry) == replace(INTERRUPTED, at=at)


@pytest.mark.parametrize(("published_at", "at"), [(0.0, 0.0), (None, NOW)])
def test_event_time_of_an_entry_without_times(published_at: float | None, at: float) -> None:
    entry = encoded(without(PREEMPTED, "timestamp", "receiveTimestamp"))

    assert decode_entry(entry, Delivered(published_at=published_at), NOW) == replace(INTERRUPTED, at=at)


@pytest.mark.parametrize(
    ("times", "published_at", "at"),
    [
        pytest.param(("2026-03-03T11:40:57.5Z", None), PUBLISHED_AT, PUBLISHED_AT + DAY, id="a-day-later"),
        pytest.param(("2026-03-03T11:40:57.6Z", None), PUBLISHED_AT, PUBLISHED_AT, id="more-than-a-day"),
        pytest.param(
            ("2199-01-01T00:00:00Z", "2026-03-02T11:40:56.5Z"), PUBLISHED_AT, 1772451656.5, id="received"
        ),
        pytest.param(
            ("2199-01-01T00:00:00Z", "2199-01-01T00:00:00Z"), PUBLISHED_AT, PUBLISHED_AT, id="neither"
        ),
        pytest.param((None, "2199-01-01T00:00:00Z"), PUBLISHED_AT, PUBLISHED_AT, id="received-alone"),
        pytest.param(("1999-01-01T00:00:00Z", None), PUBLISHED_AT, 915148800.0, id="of-any-age"),
        pytest.param(
            ("2026-03-02T11:40:55Z", "1999-01-01T00:00:00Z"),
            PUBLISHED_AT,
            1772451655.0,
            id="received-long-ago",
        ),
        # Unwrapped, without metadata: the publish time is not known.
        pytest.param(("2199-01-01T00:00:00Z", "2026-03-02T11:40:56.5Z"), None, 1772451656.5, id="unwrapped"),
        pytest.param(
            ("2026-03-02T11:40:55Z", "2026-03-02T11:40:56.5Z"), None, 1772451655.0, id="unwrapped-valid"
        ),
        pytest.param(("2199-01-01T00:00:00Z", None), None, NOW, id="compared-with-now"),
        pytest.param(("1970-01-02T00:00:02.5Z", None), None, NOW + DAY, id="a-day-after-now"),
    ],
)
@pytest.mark.parametrize("event", [PREEMPTED, INSERT, FAILED], ids=["preempted", "insert", "failed"])
def test_a_time_long_after_the_publication_is_not_used(
    event: JsonObject, times: tuple[str | None, str | None], published_at: float | None, at: float
) -> None:
    entry = event | {"timestamp": times[0], "receiveTimestamp": times[1]}

    decoded = decode_entry(encoded(entry), Delivered(published_at=published_at), NOW)

    assert not isinstance(decoded, Ignored)
    assert decoded.at == at


@pytest.mark.parametrize(
    ("named", "shown"),
    [("unknown", "cluster:unknown"), ("other", "cluster:other"), ("others", "others"), ("", None)],
)
def test_a_cluster_with_a_reserved_name_is_prefixed(named: str, shown: str | None) -> None:
    labels = [{"key": "goog-k8s-cluster-name", "value": named}]

    event = decode(changed(INSERT, LABELS, labels))

    node = event.node if isinstance(event, InstanceCreated) else None
    assert (node and node.cluster) == shown


LOGGED: Final = without(changed(PREEMPTED, "insertId", "-1x"), "operation")


@pytest.mark.parametrize(
    ("entry", "key"),
    [
        pytest.param(
            PREEMPTED, "interrupted operation compute.instances.preempted systemevent-1", id="operation"
        ),
        pytest.param(
            without(PREEMPTED, "operation.producer"), "interrupted operation  systemevent-1", id="no-producer"
        ),
        pytest.param(
            LOGGED,
            "interrupted entry projects/shop-prod/logs/cloudaudit.googleapis.com%2Fsystem_event"
            " 2026-03-02T11:40:55.308114Z -1x",
            id="log-entry",
        ),
        pytest.param(
            changed(changed(PREEMPTED, "insertId", "-1x"), "operation.id", ""),
            keyed(LOGGED),
            id="empty-operation-id",
        ),
        pytest.param(changed(LOGGED, "operation", None), keyed(LOGGED), id="null-operation"),
        pytest.param(without(LOGGED, "insertId"), "interrupted message fallback", id="no-insert-id"),
        pytest.param(without(LOGGED, "timestamp"), "interrupted message fallback", id="no-timestamp"),
        pytest.param(without(LOGGED, "logName"), "interrupted message fallback", id="no-log-name"),
        pytest.param(without(INSERT, "operation", "insertId"), "created message fallback", id="insert"),
    ],
)
def test_key(entry: JsonObject, key: str) -> None:
    assert keyed(entry) == key


def test_a_redelivery_and_a_second_export_have_the_same_key() -> None:
    assert keyed(PREEMPTED, Delivered("message-1")) == keyed(
        PREEMPTED | {"insertId": "other"}, Delivered("message-2")
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(PREEMPTED, changed(PREEMPTED, "operation.id", "systemevent-2"), id="operation"),
        pytest.param(PREEMPTED, changed(PREEMPTED, "operation.producer", "x"), id="producer"),
        pytest.param(LOGGED, LOGGED | {"timestamp": "2026-03-02T11:40:55.308115Z"}, id="timestamp"),
        pytest.param(LOGGED, LOGGED | {"insertId": "-1y"}, id="insert-id"),
        pytest.param(LOGGED, LOGGED | {"logName": "projects/p/logs/l"}, id="log-name"),
        pytest.param(
            changed(changed(PREEMPTED, "operation.producer", "a b"), "operation.id", "c"),
            changed(changed(PREEMPTED, "operation.producer", "a"), "operation.id", "b c"),
            id="spaces-within",
        ),
        pytest.param(
            changed(changed(PREEMPTED, "operation.producer", "a\n"), "operation.id", "b"),
            changed(changed(PREEMPTED, "operation.producer", "a"), "operation.id", "\nb"),
            id="control-characters-within",
        ),
        pytest.param(
            changed(PREEMPTED, "operation.id", "x" * 600),
            changed(PREEMPTED, "operation.id", "x" * 601),
            id="long",
        ),
        pytest.param(INSERT, changed(PREEMPTED, "operation", INSERT["operation"]), id="kind"),
    ],
)
def test_different_events_have_different_keys(one: JsonObject, other: JsonObject) -> None:
    assert keyed(one) != keyed(other)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("x" * 100_000, id="long"),
        pytest.param("a b", id="space"),
        pytest.param("\x00", id="nul"),
        pytest.param("ä", id="not-ascii"),
    ],
)
@pytest.mark.parametrize("path", ["operation.id", "operation.producer"])
def test_a_key_is_short_and_printable_for_any_operation(path: str, text: str) -> None:
    key = keyed(changed(INSERT, path, text))

    assert (key.isascii(), key.isprintable(), len(key) <= 256) == (True, True, True)


def test_an_unprintable_fallback_key_is_digested() -> None:
    assert keyed(cut_down(PREEMPTED), Delivered("\n" * 1000)).startswith("interrupted sha256 ")


@pytest.mark.parametrize(
    ("operation", "kept"),
    [
        pytest.param(without(INSERT, "operation"), "", id="none"),
        pytest.param(INSERT, "operation-1", id="plain"),
        pytest.param(
            changed(INSERT, "operation.id", "x\x00"),
            sha256(json.dumps(["x\x00"]).encode()).hexdigest(),
            id="odd",
        ),
    ],
)
def test_operation(operation: JsonObject, kept: str) -> None:
    assert created(operation).operation == kept


def test_a_failure_has_the_operation_of_its_first_entry() -> None:
    odd = "x\x00" * 500

    assert created(changed(INSERT, "operation.id", odd)).operation == getattr(
        decode(changed(FAILED, "operation.id", odd)), "operation", None
    )


def test_refusals_never_echo_the_entry() -> None:
    with pytest.raises(MalformedEntryError) as refusal:
        decode(changed(INSERT, LABELS, {"goog-k8s-cluster-name": ["s3cret"]}))

    assert str(refusal.value) == "the audit log entry has a field whose value cannot be read"
    assert "s3cret" not in f"{refusal.value} {refusal.value.__cause__}"


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=10,
)


def paths(value: object, prefix: str = "") -> list[str]:
    if not isinstance(value, dict):
        return []
    return [p for key in value for p in (f"{prefix}{key}", *paths(value[key], f"{prefix}{key}."))]


def grafts(entry: JsonObject) -> st.SearchStrategy[JsonObject]:
    return st.builds(changed, st.just(entry), st.sampled_from(paths(entry)), JSON)


@given(
    entry=grafts(INSERT)
    | grafts(FAILED)
    | grafts(DENIED)
    | grafts(PREEMPTED)
    | grafts(deletion())
    | grafts(system_event())
    | st.builds(lambda payload: {"protoPayload": payload}, JSON)
    | JSON
)
def test_any_value_in_any_field_gives_an_event_or_ignored_or_a_refusal(entry: object) -> None:
    with suppress(MalformedEntryError):
        assert isinstance(
            decode_entry(json.dumps(entry).encode(), DELIVERY, NOW),
            InstanceCreated | CreationFailed | InstanceDeleted | InstanceInterrupted | Ignored,
        )


@given(data=st.binary())
def test_any_bytes_are_ignored_or_refused(data: bytes) -> None:
    with suppress(MalformedEntryError):
        assert isinstance(decode_entry(data, DELIVERY, NOW), Ignored)
