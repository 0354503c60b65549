"""The exporter pulls with the rendered configuration, and serves its metrics at the only port of the pod."""

from collections.abc import Iterator
from typing import Final

import httpx
import pytest

from tests.k8s.rendered import HEALTH, PULL, Manifests, render
from tests.k8s.running import exporter
from tests.support.emulator import PubSubEmulator
from tests.support.entries import encoded, insert, preempted
from tests.support.process import LOOPBACK, eventually, free_port

pytestmark = pytest.mark.usefixtures("quick_programs")

WITHIN: Final = 90
UNUSED: Final = "https://certificates.example.com/"  # no token is verified


@pytest.fixture(scope="module")
def manifests() -> Manifests:
    return render(PULL)


@pytest.fixture(scope="module")
def pubsub(manifests: Manifests, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PubSubEmulator]:
    """Run an emulator with the subscriptions of the rendered configuration."""
    settings, _ = manifests.settings()
    project = settings.project_ids[0]
    with PubSubEmulator(tmp_path_factory.mktemp("emulator"), project=project) as pubsub:
        for topic, subscription in zip(
            ("creation", "interruption"), settings.pulled_subscriptions, strict=True
        ):
            pubsub.create_topic(topic)
            pubsub.create_pull_subscription(subscription.rpartition("/")[2], topic)
        yield pubsub


@pytest.fixture(scope="module")
def address(
    manifests: Manifests, pubsub: PubSubEmulator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Run the exporter, and yield the address of its metrics port."""
    directory = tmp_path_factory.mktemp("exporter")
    metrics = free_port()
    emulator = pubsub.url.removeprefix("http://")
    url = f"sqlite:///{directory}/store.db"
    here = {"PUBSUB_EMULATOR_HOST": emulator, "SIE_PROMETHEUS__HOLD_SECONDS": "0"}
    with exporter(directory, manifests, UNUSED, url, free_port(), metrics, **here):
        yield f"http://{LOOPBACK}:{metrics}"


def test_an_interruption_is_pulled_and_counted(
    manifests: Manifests, pubsub: PubSubEmulator, address: str
) -> None:
    path = manifests.settings()[0].prometheus.path
    pubsub.publish("creation", encoded(insert("gke-pulled", cluster="pulled")))
    pubsub.publish("interruption", encoded(preempted("gke-pulled")))

    # Whichever comes first, the interruption is counted for its cluster.
    counted = 'interruption_events_total{kubernetes_cluster="pulled"} 1'
    eventually(
        lambda: counted in httpx.get(f"{address}{path}", trust_env=False).text,
        within=WITHIN,
        what="the interruption is counted",
    )


def test_the_probes_and_people_reach_the_metrics_port(address: str) -> None:
    for path in (HEALTH, "/readyz"):
        eventually(
            lambda path=path: httpx.get(f"{address}{path}", trust_env=False).is_success,  # type: ignore[misc]
            within=WITHIN,
            what=f"{path} answers 200",
        )
