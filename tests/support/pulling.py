"""A deployment that pulls: its subscriptions in the Pub/Sub emulator, and the settings of its exporters."""

from typing import Any

from tests.support.emulator import PubSubEmulator
from tests.support.program import SUBSCRIPTIONS


def create_pull_subscriptions(pubsub: PubSubEmulator, *, dead_letter_topic: str | None = None) -> None:
    """Create a topic per kind of event, and its subscription."""
    if dead_letter_topic is not None:
        pubsub.create_topic(dead_letter_topic)
    for kind, subscription in SUBSCRIPTIONS.items():
        pubsub.create_topic(kind)
        pubsub.create_pull_subscription(subscription, kind, dead_letter_topic=dead_letter_topic)


def pull_settings(pubsub: PubSubEmulator) -> dict[str, Any]:
    """Return the section `pubsub` of an exporter that pulls from these subscriptions."""
    names = {
        f"instance_{kind}_subscription_name": f"projects/{pubsub.project}/subscriptions/{name}"
        for kind, name in SUBSCRIPTIONS.items()
    }
    return {"delivery": "pull", "authentication": "oidc", **names}


def emulator_environment(pubsub: PubSubEmulator) -> dict[str, str]:
    """Return the variable that leads Pub/Sub's libraries to the emulator."""
    return {"PUBSUB_EMULATOR_HOST": pubsub.url.removeprefix("http://")}
