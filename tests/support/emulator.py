"""The real Pub/Sub emulator, spoken to as Pub/Sub's REST API.

It keeps everything in memory, sends no Authorization header on pushes, and no `deliveryAttempt` in them.
What is not acknowledged comes again after 1 s; a retry policy, of however little, makes that 3 s and more
from the second time on.
https://cloud.google.com/pubsub/docs/emulator
https://cloud.google.com/pubsub/docs/reference/rest
"""

import base64
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypedDict, Unpack

import httpx

from tests.support.process import LOOPBACK, Process, answers, free_port
from tests.support.requirement import require

_PROGRAM: Final = Path("platform/pubsub-emulator/bin/cloud-pubsub-emulator")


class EmulatorError(Exception):
    """The emulator refused a request; the message has its status and answer."""


@dataclass(frozen=True, slots=True)
class PulledMessage:
    """A message as a pull subscription gets it."""

    ack_id: str
    message_id: str
    data: bytes
    attributes: Mapping[str, str]


class SubscriptionOptions(TypedDict, total=False):
    """What a subscription may have besides its topic. Durations are in seconds."""

    ack_deadline: int
    """10 to 600; 10 unless given."""
    dead_letter_topic: str | None
    """Where a message goes after `max_delivery_attempts` deliveries that were not acknowledged."""
    max_delivery_attempts: int
    """5 to 100; 5 unless given."""
    min_backoff: float | None
    """A retry policy: at least this long between two deliveries of a message."""
    max_backoff: float | None
    """A retry policy: at most this long."""


class PubSubEmulator:
    """A Pub/Sub emulator for the time of a `with` block.

    Topics and subscriptions go by their ids, of three characters or more.
    """

    def __init__(self, directory: Path, *, project: str = "emulated") -> None:
        program = require("the Pub/Sub emulator of the gcloud SDK", _installed())
        require("java", os.environ.get("JAVA_HOME") or shutil.which("java"))
        port = free_port()
        self.project = project
        self.url = f"http://{LOOPBACK}:{port}"
        self._client = httpx.Client(
            base_url=f"{self.url}/v1/projects/{project}/", timeout=30, trust_env=False
        )
        self._process = Process(
            [program, f"--host={LOOPBACK}", f"--port={port}"],
            output=directory / "pubsub-emulator.log",
            ready=answers(self.url),
        )

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self._process.stop()

    def create_topic(self, name: str) -> None:
        self._call("PUT", f"topics/{name}", {})

    def create_push_subscription(
        self,
        name: str,
        topic: str,
        endpoint: str,
        *,
        unwrapped: bool | None = None,
        write_metadata: bool = False,
        **options: Unpack[SubscriptionOptions],
    ) -> None:
        """Have the topic's messages posted to an endpoint, which may be http:// here.

        `unwrapped` None says nothing of a wrapper, which means wrapped; false asks for it.
        """
        push: dict[str, Any] = {"pushEndpoint": endpoint}
        if unwrapped is not None:
            push |= {"noWrapper": {"writeMetadata": write_metadata}} if unwrapped else {"pubsubWrapper": {}}
        self._call("PUT", f"subscriptions/{name}", self._subscription(topic, options) | {"pushConfig": push})

    def create_pull_subscription(self, name: str, topic: str, **options: Unpack[SubscriptionOptions]) -> None:
        self._call("PUT", f"subscriptions/{name}", self._subscription(topic, options))

    def publish(self, topic: str, data: bytes, attributes: Mapping[str, str] | None = None) -> str:
        """Publish one message; its message id."""
        message = {"data": base64.b64encode(data).decode(), "attributes": dict(attributes or {})}
        answer = self._call("POST", f"topics/{topic}:publish", {"messages": [message]})
        message_id: str = answer["messageIds"][0]
        return message_id

    def pull(self, subscription: str, max_messages: int = 10) -> list[PulledMessage]:
        """What waits in a subscription now, leased for its acknowledgement deadline; does not wait."""
        # Pub/Sub advises against returnImmediately; without it the emulator holds an empty answer for 90 s.
        body = {"maxMessages": max_messages, "returnImmediately": True}
        answer = self._call("POST", f"subscriptions/{subscription}:pull", body)
        return [
            PulledMessage(
                ack_id=received["ackId"],
                message_id=received["message"]["messageId"],
                data=base64.b64decode(received["message"].get("data", "")),
                attributes=received["message"].get("attributes", {}),
            )
            for received in answer.get("receivedMessages", [])
        ]

    def acknowledge(self, subscription: str, *messages: PulledMessage) -> None:
        body = {"ackIds": [message.ack_id for message in messages]}
        self._call("POST", f"subscriptions/{subscription}:acknowledge", body)

    def release(self, subscription: str, *messages: PulledMessage) -> None:
        """Give messages back unacknowledged: they can be pulled again."""
        body = {"ackIds": [message.ack_id for message in messages], "ackDeadlineSeconds": 0}
        self._call("POST", f"subscriptions/{subscription}:modifyAckDeadline", body)

    def _subscription(self, topic: str, options: SubscriptionOptions) -> dict[str, Any]:
        body: dict[str, Any] = {
            "topic": f"projects/{self.project}/topics/{topic}",
            "ackDeadlineSeconds": options.get("ack_deadline", 10),
        }
        if dead_letter_topic := options.get("dead_letter_topic"):
            body["deadLetterPolicy"] = {
                "deadLetterTopic": f"projects/{self.project}/topics/{dead_letter_topic}",
                "maxDeliveryAttempts": options.get("max_delivery_attempts", 5),
            }
        bounds = {
            "minimumBackoff": options.get("min_backoff"),
            "maximumBackoff": options.get("max_backoff"),
        }
        backoff = {bound: f"{seconds:g}s" for bound, seconds in bounds.items() if seconds is not None}
        return body | ({"retryPolicy": backoff} if backoff else {})

    def _call(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        response = self._client.request(method, path, json=body)
        if not response.is_success:
            raise EmulatorError(f"{response.status_code} to {method} {path}: {response.text}")
        answer: dict[str, Any] = response.json()
        return answer


def _installed() -> Path | None:
    return next((root / _PROGRAM for root in _sdk_roots() if (root / _PROGRAM).is_file()), None)


def _sdk_roots() -> Iterator[Path]:
    if named := os.environ.get("CLOUDSDK_ROOT"):
        yield Path(named)
    if gcloud := shutil.which("gcloud"):
        yield Path(gcloud).resolve().parents[1]
    # Where Debian's package and Google's container image have it.
    yield Path("/usr/lib/google-cloud-sdk")
    yield Path("/google-cloud-sdk")
