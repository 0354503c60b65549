"""Messages from the real Pub/Sub emulator, delivered by push to a running exporter."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support.emulator import PubSubEmulator
from tests.support.entries import JsonObject, cut_down, encoded, insert, preempted
from tests.support.process import eventually
from tests.support.program import SUBSCRIPTIONS, ExporterProcess

pytestmark = pytest.mark.usefixtures("quick_programs")


class Deployment:
    """Topics and push subscriptions as they are in production, and the exporter to which they lead."""

    def __init__(self, pubsub: PubSubEmulator, exporter: ExporterProcess) -> None:
        self.pubsub = pubsub
        self.exporter = exporter
        pubsub.create_topic("dead-letters")
        for kind, subscription in SUBSCRIPTIONS.items():
            pubsub.create_topic(kind)
            pubsub.create_push_subscription(
                subscription, kind, f"{exporter.url}/events/{kind}", dead_letter_topic="dead-letters"
            )

    def create(self, entry: JsonObject) -> None:
        """Publish a creation, and return when it is tracked."""
        before = self.messages("creation", "tracked")
        self.pubsub.publish("creation", encoded(entry))
        self.wait_for("creation", "tracked", before + 1)

    def interrupt(self, entry: JsonObject) -> None:
        """Publish an interruption."""
        self.pubsub.publish(
            "interruption", encoded(entry), {"logging.googleapis.com/timestamp": "2026-03-02"}
        )

    def messages(self, endpoint: str, outcome: str) -> float:
        name = "spot_interruption_exporter_push_messages_total"
        return self.exporter.value(name, endpoint=endpoint, outcome=outcome) or 0

    def errors(self, endpoint: str, reason: str) -> float:
        name = "spot_interruption_exporter_push_errors_total"
        return self.exporter.value(name, endpoint=endpoint, reason=reason) or 0

    def wait_for(self, endpoint: str, outcome: str, number: float) -> None:
        eventually(
            lambda: self.messages(endpoint, outcome) >= number, within=20, what=f"{number} are {outcome}"
        )


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    directory = tmp_path_factory.mktemp("emulated")
    # Without a token: the emulator sends none.
    with PubSubEmulator(directory) as pubsub, ExporterProcess(directory) as exporter:
        yield Deployment(pubsub, exporter)


def test_an_interruption_is_counted_under_the_cluster_of_its_creation(deployment: Deployment) -> None:
    deployment.create(insert("gke-counted", cluster="counted"))
    assert deployment.exporter.interruptions("counted") == 0

    deployment.interrupt(preempted("gke-counted"))
    eventually(lambda: deployment.exporter.interruptions("counted") == 1, within=20, what="it is counted")


def test_an_entry_that_is_published_again_counts_once(deployment: Deployment) -> None:
    deployment.create(insert("gke-twice", cluster="twice"))
    before = deployment.messages("interruption", "duplicate")

    for _ in range(3):  # each has a message id of its own
        deployment.interrupt(preempted("gke-twice"))

    deployment.wait_for("interruption", "duplicate", before + 2)
    assert deployment.exporter.interruptions("twice") == 1


def test_the_first_readmes_cut_down_messages_make_a_pair(deployment: Deployment) -> None:
    # Its creation had nothing but labels and the link to what was created; its interruption no more than
    # the method and the name.
    creation = cut_down(insert("gke-cut-down", cluster="cut-down"))
    link = insert("gke-cut-down")["protoPayload"]["response"]["targetLink"]
    creation["protoPayload"] = {
        "methodName": creation["protoPayload"]["methodName"],
        "request": creation["protoPayload"]["request"],
        "response": {"targetLink": link},
    }
    interruption = cut_down(preempted("gke-cut-down"))
    assert interruption["protoPayload"].keys() == {"@type", "methodName", "resourceName"}
    assert creation.keys() == interruption.keys() == {"protoPayload"}
    before = deployment.messages("interruption", "counted")

    deployment.create(creation)
    deployment.interrupt(interruption)

    deployment.wait_for("interruption", "counted", before + 1)
    assert deployment.exporter.interruptions("cut-down") == 1


def test_an_interruption_that_overtakes_its_creation_waits_for_it(deployment: Deployment) -> None:
    before = deployment.messages("interruption", "pending")
    deployment.interrupt(preempted("gke-overtaken"))
    deployment.wait_for("interruption", "pending", before + 1)

    deployment.create(insert("gke-overtaken", cluster="overtaken"))
    assert deployment.exporter.interruptions("overtaken") == 1


def test_messages_are_taken_unwrapped_too(deployment: Deployment) -> None:
    pubsub, exporter = deployment.pubsub, deployment.exporter
    for kind in SUBSCRIPTIONS:
        # The subscription has another name. Without metadata the push does not contain it.
        pubsub.create_topic(f"bare-{kind}")
        pubsub.create_push_subscription(
            f"bare-{kind}", f"bare-{kind}", f"{exporter.url}/events/{kind}", unwrapped=True
        )
    before = deployment.messages("creation", "tracked")

    pubsub.publish("bare-creation", encoded(insert("gke-bare", cluster="bare")))
    deployment.wait_for("creation", "tracked", before + 1)
    pubsub.publish("bare-interruption", encoded(preempted("gke-bare")))
    eventually(lambda: exporter.interruptions("bare") == 1, within=20, what="it is counted")


def test_another_subscription_is_refused(deployment: Deployment) -> None:
    pubsub, exporter = deployment.pubsub, deployment.exporter
    deployment.create(insert("gke-refused", cluster="refused"))
    pubsub.create_topic("strangers")
    pubsub.create_push_subscription("strangers", "strangers", f"{exporter.url}/events/interruption")

    pubsub.publish("strangers", encoded(preempted("gke-refused")))

    eventually(
        lambda: deployment.errors("interruption", "wrong_subscription"), within=20, what="it is refused"
    )
    assert exporter.interruptions("refused") == 0


def test_an_event_that_cannot_be_stored_is_redelivered_and_counts_once(deployment: Deployment) -> None:
    exporter = deployment.exporter
    deployment.create(insert("gke-busy", cluster="busy"))
    before = deployment.errors("interruption", "store_unavailable")

    with closing(sqlite3.connect(exporter.store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        deployment.interrupt(preempted("gke-busy"))
        eventually(
            lambda: deployment.errors("interruption", "store_unavailable") > before,
            within=20,
            what="it is sent back",
        )
        assert exporter.interruptions("busy") == 0
        assert exporter.status("/healthz") == 200
        other.execute("ROLLBACK")

    eventually(lambda: exporter.interruptions("busy") == 1, within=20, what="it is counted")
    assert exporter.outcome(preempted("gke-busy")) == "duplicate"


def test_an_unreadable_message_goes_to_the_dead_letter_topic(deployment: Deployment) -> None:
    pubsub = deployment.pubsub
    pubsub.create_pull_subscription("unreadable-letters", "dead-letters")
    before = deployment.errors("interruption", "malformed_entry")

    pubsub.publish("interruption", b"tea, biscuits")

    [letter] = eventually(lambda: pubsub.pull("unreadable-letters"), within=40, what="a dead letter")
    assert letter.data == b"tea, biscuits"
    assert deployment.errors("interruption", "malformed_entry") == before + 5


def test_messages_dead_lettered_in_an_outage_are_replayed_and_count_once(deployment: Deployment) -> None:
    pubsub, exporter = deployment.pubsub, deployment.exporter
    deployment.create(insert("gke-outage", cluster="outage"))
    pubsub.create_pull_subscription("outage-letters", "dead-letters")
    exporter.process.stop()
    deployment.interrupt(preempted("gke-outage"))
    [letter] = eventually(lambda: pubsub.pull("outage-letters"), within=40, what="a dead letter")
    assert letter.attributes["CloudPubSubDeadLetterSourceSubscription"] == SUBSCRIPTIONS["interruption"]
    exporter.process.start()

    # Twice: whoever replays does not know what else was replayed. The emulator has kept no other copy.
    pubsub.create_topic("replay")
    pubsub.create_push_subscription("replay", "replay", f"{exporter.url}/events/interruption")
    for _ in range(2):
        pubsub.publish("replay", letter.data, letter.attributes)

    deployment.wait_for("interruption", "duplicate", 1)
    assert deployment.messages("interruption", "counted") == 1
    assert exporter.interruptions("outage") == 1
