from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from app.metrics import ENDPOINTS, Endpoint
from tests.support.entries import (
    JsonObject,
    cut_down,
    deletion,
    encoded,
    insert,
    legacy,
    preempted,
    system_event,
    without,
)
from tests.support.exporter import OWN, Exporter, subscription
from tests.web.problems import assert_problem

pytestmark = pytest.mark.usefixtures("both_ways")

ATTRIBUTION: Final = {
    "project": "shop-prod",
    "kubernetes_cluster": "tills",
    "cluster_location": "europe-west1",
    "node_pool": "spot",
    "zone": "europe-west1-c",
    "machine_type": "e2-standard-8",
}


def test_a_creation_is_tracked_with_its_attribution(exporter: Exporter) -> None:
    response = exporter.create("node-1")

    assert response.status_code == HTTPStatus.OK
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"outcome": "tracked", "instance": "node-1", **ATTRIBUTION}


def test_an_interruption_is_counted_with_its_attribution(exporter: Exporter) -> None:
    exporter.create("node-1")

    assert exporter.interrupt("node-1").json() == {
        "outcome": "counted",
        "instance": "node-1",
        **ATTRIBUTION,
    }
    assert exporter.value("interruption_events_total", kubernetes_cluster="tills") == 1


def test_redelivery_is_acknowledged_and_not_counted(exporter: Exporter) -> None:
    exporter.create("node-1")
    exporter.interrupt("node-1")
    again = [exporter.create("node-1"), exporter.interrupt("node-1")]
    under_another_id = exporter.deliver("interruption", preempted("node-1"), message_id="another")

    for response in (*again, under_another_id):
        assert response.status_code == HTTPStatus.OK
        assert response.json() == {"outcome": "duplicate"}
    assert exporter.value("interruption_events_total", kubernetes_cluster="tills") == 1


def test_an_interruption_before_its_creation_counts_once_the_creation_arrives(exporter: Exporter) -> None:
    assert exporter.interrupt("node-1").json() == {"outcome": "pending"}
    assert exporter.value(f"{OWN}_pending_interruptions") == 1
    exporter.create("node-1")

    assert exporter.value("interruption_events_total", kubernetes_cluster="tills") == 1
    assert exporter.value(f"{OWN}_pending_interruptions") == 0
    assert exporter.value(f"{OWN}_pending_released_total", by="creation") == 1


def test_a_deletion_ends_its_instance_on_either_endpoint(exporter: Exporter) -> None:
    for endpoint in ENDPOINTS:
        exporter.create(f"node-{endpoint}")
        assert exporter.deliver(endpoint, deletion(f"node-{endpoint}")).json() == {"outcome": "ended"}
        assert exporter.answered(endpoint, "ended") == 1
    assert {value for (name, _), value in exporter.exposition().items() if name == "spot_instances"} == {0.0}


IGNORED = [
    pytest.param(system_event("compute.instances.hostError"), "other_method", id="host-error"),
    pytest.param(deletion("unheard-of"), "unknown_instance", id="deletion-of-an-unknown-instance"),
    pytest.param(legacy(), "not_an_audit_log", id="legacy-activity-log"),
    pytest.param(insert("ignored", last=True), "last_entry", id="last-entry"),
    pytest.param(insert("ignored-failed", last=True, failed=True), "failed_insert", id="failed-insert"),
    pytest.param(insert("ignored-denied", denied=True), "denied_insert", id="denied-insert"),
    pytest.param(insert("ignored-vm", cluster=None), "no_cluster_label", id="no-node"),
    pytest.param(
        insert("ignored-old", cluster=None, labels={"goog-gke-node": ""}), "no_cluster_label", id="old-node"
    ),
]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize(("entry", "reason"), IGNORED)
def test_an_entry_that_is_not_an_event_is_acknowledged_with_a_reason(
    shared_exporter: Exporter, endpoint: Endpoint, entry: JsonObject, reason: str
) -> None:
    before = shared_exporter.answered(endpoint, "ignored")
    response = shared_exporter.deliver(endpoint, entry)

    assert response.status_code == HTTPStatus.OK
    assert response.json() == {"outcome": "ignored", "reason": reason}
    assert shared_exporter.answered(endpoint, "ignored") == before + 1


def test_a_preemption_of_a_vm_that_is_not_a_node_is_ignored(exporter: Exporter) -> None:
    exporter.create("vm-1", cluster=None)

    assert exporter.interrupt("vm-1").json() == {"outcome": "ignored", "reason": "not_a_node"}


def test_the_method_of_an_entry_decides_its_meaning_and_not_its_endpoint(exporter: Exporter) -> None:
    assert exporter.deliver("interruption", insert("node-1")).json()["outcome"] == "tracked"
    assert exporter.deliver("creation", preempted("node-1")).json()["outcome"] == "counted"

    assert exporter.answered("interruption", "tracked") == 1
    assert exporter.answered("creation", "counted") == 1


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_the_first_readmes_samples_are_taken(exporter: Exporter, endpoint: Endpoint) -> None:
    assert exporter.deliver(endpoint, cut_down(insert("node-1"))).json()["outcome"] == "tracked"
    assert exporter.deliver(endpoint, cut_down(preempted("node-2"))).json()["outcome"] == "pending"


def without_metadata(exporter: Exporter, entry: JsonObject) -> httpx.Response:
    return exporter.post("creation", encoded(entry))


def with_metadata(
    exporter: Exporter, entry: JsonObject, *, named: str = subscription("creation"), **more: str
) -> httpx.Response:
    headers = {
        "content-type": "application/x-www-form-urlencoded",
        "x-goog-pubsub-message-id": "7",
        "x-goog-pubsub-publish-time": "2026-03-02T11:40:56.204Z",
        "x-goog-pubsub-subscription-name": named,
    }
    return exporter.post("creation", encoded(entry), headers={**headers, **more})


def test_an_unwrapped_entry_is_taken(exporter: Exporter) -> None:
    assert without_metadata(exporter, insert("node-1")).json()["outcome"] == "tracked"
    assert with_metadata(exporter, insert("node-2")).json()["outcome"] == "tracked"


def test_an_unwrapped_entry_of_another_subscription_is_refused(exporter: Exporter) -> None:
    response = with_metadata(exporter, insert("node-1"), named="projects/p/subscriptions/other")

    assert_problem(response, HTTPStatus.FORBIDDEN, "wrong_subscription")
    key = "pubsub.instance_creation_subscription_name"
    assert response.json()["detail"] == f"the envelope's subscription is not {key}"


def test_an_unwrapped_message_without_an_operation_is_known_again_by_its_message_id(
    exporter: Exporter,
) -> None:
    entry = without(preempted("node-1"), "operation", "insertId")

    assert with_metadata(exporter, entry).json()["outcome"] == "pending"
    assert with_metadata(exporter, entry).json()["outcome"] == "duplicate"
    assert with_metadata(exporter, entry, **{"x-goog-pubsub-message-id": "8"}).json()["outcome"] == "pending"


SUBSCRIPTIONS = [
    pytest.param({"subscription": subscription("creation")}, True, id="full-name"),
    pytest.param(
        {"subscription": "projects/other/subscriptions/sie-creation-subscription"}, True, id="last-part"
    ),
    pytest.param({"subscription": "sie-creation-subscription"}, True, id="short-name"),
    pytest.param({"subscription": None}, True, id="none"),
    pytest.param({"subscription": subscription("interruption")}, False, id="the-other-endpoints"),
    pytest.param(
        {"subscription": "projects/shop-prod/subscriptions/Sie-creation-subscription"}, False, id="case"
    ),
    pytest.param(
        {
            "subscription": "projects/shop-prod/subscriptions/replay",
            "attributes": {"CloudPubSubDeadLetterSourceSubscription": "sie-creation-subscription"},
        },
        True,
        id="replay-from-the-dead-letter-topic",
    ),
    pytest.param(
        {
            "subscription": "projects/shop-prod/subscriptions/replay",
            "attributes": {"CloudPubSubDeadLetterSourceSubscription": "another"},
        },
        False,
        id="replay-of-anothers",
    ),
    pytest.param(
        {
            "subscription": "projects/shop-prod/subscriptions/replay",
            "attributes": {"CloudPubSubDeadLetterSourceSubscription": ""},
        },
        False,
        id="replay-of-nobodys",
    ),
]


@pytest.mark.parametrize(("fields", "taken"), SUBSCRIPTIONS)
def test_only_the_configured_subscription_is_taken(
    exporter: Exporter,
    fields: dict[str, Any],
    taken: bool,  # noqa: FBT001
) -> None:
    response = exporter.deliver("creation", insert("node-1"), **fields)

    if taken:
        assert response.json()["outcome"] == "tracked"
    else:
        assert_problem(response, HTTPStatus.FORBIDDEN, "wrong_subscription")
        assert exporter.refused("creation", "wrong_subscription") == 1
        assert exporter.value("interruption_events_total", kubernetes_cluster="tills") is None


def test_any_subscription_is_taken_where_none_is_configured(tmp_path: Path) -> None:
    with Exporter(tmp_path, {"pubsub.instance_creation_subscription_name": ""}) as exporter:
        response = exporter.deliver("creation", insert("node-1"), subscription="projects/p/subscriptions/any")

        assert response.json()["outcome"] == "tracked"


def test_the_delay_of_an_event_is_observed_once_however_often_it_is_delivered(exporter: Exporter) -> None:
    for _ in range(3):
        exporter.create("node-1")

    assert exporter.value("spot_interruption_exporter_event_delay_seconds_count", endpoint="creation") == 1
