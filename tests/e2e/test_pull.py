"""Messages from the real Pub/Sub emulator, pulled by a running exporter."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.support.emulator import PubSubEmulator
from tests.support.entries import JsonObject, cut_down, encoded, insert, preempted
from tests.support.process import LOOPBACK, Process, answers, eventually, free_port
from tests.support.program import COMMAND, ExporterProcess, overridden, run, written
from tests.support.pulling import create_pull_subscriptions, emulator_environment, pull_settings

WITHIN: Final = 90


def exporter_of(pubsub: PubSubEmulator, directory: Path, **pubsub_keys: str) -> ExporterProcess:
    return ExporterProcess(
        directory,
        env=emulator_environment(pubsub),
        command=overridden(first_pause_seconds=0.1),
        pubsub={**pull_settings(pubsub), **pubsub_keys},
    )


class Deployment:
    """Topics and pull subscriptions, and an exporter that pulls."""

    def __init__(self, pubsub: PubSubEmulator, exporter: ExporterProcess) -> None:
        self.pubsub = pubsub
        self.exporter = exporter

    def publish(self, kind: str, entry: JsonObject) -> None:
        self.pubsub.publish(kind, encoded(entry))

    def messages(self, endpoint: str, outcome: str) -> float:
        name = "spot_interruption_exporter_push_messages_total"
        return self.exporter.value(name, endpoint=endpoint, outcome=outcome) or 0

    def errors(self, endpoint: str, reason: str) -> float:
        name = "spot_interruption_exporter_push_errors_total"
        return self.exporter.value(name, endpoint=endpoint, reason=reason) or 0

    def wait_for(self, endpoint: str, outcome: str, number: float) -> None:
        what = f"{number} are {outcome}"
        eventually(lambda: self.messages(endpoint, outcome) >= number, within=WITHIN, what=what)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    directory = tmp_path_factory.mktemp("pulled")
    with PubSubEmulator(directory) as pubsub:
        create_pull_subscriptions(pubsub, dead_letter_topic="dead-letters")
        with exporter_of(pubsub, directory) as exporter:
            yield Deployment(pubsub, exporter)


def test_an_interruption_is_counted_once_however_often_it_is_published(deployment: Deployment) -> None:
    deployment.publish("creation", insert("gke-pulled", cluster="pulled"))
    deployment.wait_for("creation", "tracked", 1)
    for _ in range(3):
        deployment.publish("interruption", preempted("gke-pulled"))

    deployment.wait_for("interruption", "duplicate", 2)
    assert deployment.exporter.interruptions("pulled") == 1


def test_the_originals_file_topics_and_messages_need_no_change_but_the_delivery(
    deployment: Deployment, tmp_path: Path
) -> None:
    pubsub = deployment.pubsub
    for kind in ("creation", "interruption"):
        pubsub.create_topic(f"sie-{kind}-topic")
        pubsub.create_pull_subscription(f"original-{kind}-subscription", f"sie-{kind}-topic")
    file = tmp_path / "original.yaml"
    file.write_text(
        f"""
        log_level: debug
        project_name: {pubsub.project}
        pubsub:
          instance_creation_subscription_name: original-creation-subscription
          instance_interruption_subscription_name: original-interruption-subscription
          delivery: pull
        prometheus:
          port: "{(port := free_port())}"
          path: /bespoke-metrics-path
        """
    )
    creation = cut_down(insert("fake-resource", project_number=None, cluster="fake-cluster"))
    interruption = cut_down(preempted("fake-resource"))
    exporter = Process(
        [*COMMAND, "--config", file],
        output=tmp_path / "original.log",
        ready=answers(f"http://{LOOPBACK}:{port}/healthz"),
        env={
            **emulator_environment(pubsub),
            "SIE_STORE__URL": f"sqlite:///{tmp_path}/exporter.db",
            "SIE_SERVER__PORT": str(free_port()),
            "SIE_INVENTORY__ENABLED": "false",
        },
    )

    with exporter:
        pubsub.publish("sie-creation-topic", encoded(creation))
        pubsub.publish("sie-interruption-topic", encoded(interruption))

        def is_counted() -> bool:
            text = httpx.get(f"http://{LOOPBACK}:{port}/bespoke-metrics-path", trust_env=False).text
            return 'interruption_events_total{kubernetes_cluster="fake-cluster"} 1.0' in text

        eventually(is_counted, within=WITHIN, what="it is counted")


def test_no_caller_can_push(deployment: Deployment) -> None:
    assert deployment.exporter.push(preempted("gke-pulled")).status_code == 404


def test_it_is_ready_once_it_may_pull(deployment: Deployment) -> None:
    eventually(lambda: deployment.exporter.status("/readyz") == 200, within=WITHIN, what="it is ready")


def test_a_message_that_cannot_be_read_goes_to_the_dead_letter_topic(deployment: Deployment) -> None:
    deployment.pubsub.create_pull_subscription("letters", "dead-letters")
    before = deployment.errors("interruption", "malformed_entry")

    deployment.pubsub.publish("interruption", b"tea, biscuits")

    [letter] = eventually(lambda: deployment.pubsub.pull("letters"), within=WITHIN, what="a dead letter")
    assert letter.data == b"tea, biscuits"
    assert deployment.errors("interruption", "malformed_entry") == before + 5


def test_a_message_whose_commit_fails_is_kept_and_counts_once(deployment: Deployment) -> None:
    exporter = deployment.exporter
    deployment.publish("creation", insert("gke-kept", cluster="kept"))
    eventually(lambda: exporter.interruptions("kept") == 0, within=WITHIN, what="it is tracked")
    before = deployment.errors("interruption", "store_unavailable")

    with closing(sqlite3.connect(exporter.store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        deployment.publish("interruption", preempted("gke-kept"))
        eventually(
            lambda: deployment.errors("interruption", "store_unavailable") > before,
            within=WITHIN,
            what="the commit fails",
        )
        assert exporter.interruptions("kept") == 0
        other.execute("ROLLBACK")

    eventually(lambda: exporter.interruptions("kept") == 1, within=WITHIN, what="it is counted")


def not_ready(exporter: ExporterProcess) -> str:
    return exporter.client.get("/readyz").text


def test_a_subscription_that_is_missing_or_pushes_is_named(deployment: Deployment, tmp_path: Path) -> None:
    pubsub = deployment.pubsub
    pubsub.create_push_subscription("pushing", "interruption", "http://127.0.0.1:9/")
    keys = {
        "instance_creation_subscription_name": f"projects/{pubsub.project}/subscriptions/nowhere",
        "instance_interruption_subscription_name": f"projects/{pubsub.project}/subscriptions/pushing",
    }
    with exporter_of(pubsub, tmp_path, **keys) as exporter:
        eventually(lambda: "looked at yet" not in not_ready(exporter), within=WITHIN, what="both are named")
        reasons = not_ready(exporter)
        checked = run(
            "check", "--config", written(tmp_path, exporter.configured), env=emulator_environment(pubsub)
        )
        logged = [line for line in exporter.logs() if line["message"] == "messages cannot be pulled"]

    assert {line["reason"]: line["error"].partition(" ")[0].rpartition("/")[2] for line in logged} == {
        "missing": "nowhere",
        "push": "pushing",
    }
    assert "subscriptions/nowhere does not exist" in reasons
    assert "set pubsub.delivery to push" in reasons
    assert checked.returncode == 1
    assert checked.stdout.count("FAIL  subscription projects/") == 2


def test_it_stops_in_time(deployment: Deployment) -> None:
    # It is not started again: the emulator gives messages to a closed stream for minutes.
    assert deployment.exporter.process.stop(within=30) == 0
