"""The real Pub/Sub emulator, used through its REST API.

It keeps everything in memory, sends no Authorization header on pushes, and no `deliveryAttempt` in them.
A message that is not acknowledged is redelivered after 1 s. With a retry policy, however short, the second
and later redeliveries take 3 s or more.
https://cloud.google.com/pubsub/docs/emulator
https://cloud.google.com/pubsub/docs/reference/rest
"""

import base64
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypedDict, TypeVar, Unpack

import httpx

from tests.support.process import LOOPBACK, NO_AUTHORITIES, Process, answers, free_port
from tests.support.requirement import require

_T = TypeVar("_T")
_PROGRAM: Final = Path("platform/pubsub-emulator/bin/cloud-pubsub-emulator")
_JAVA_OPTIONS: Final = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""Without the optimizing compiler, which costs more than it saves in an emulator that runs for seconds."""


class EmulatorError(Exception):
    """The emulator refused a request. The message has the status and the answer."""


@dataclass(frozen=True, slots=True)
class PulledMessage:
    """A message of a pull subscription."""

    ack_id: str
    message_id: str
    data: bytes
    attributes: Mapping[str, str]


class SubscriptionOptions(TypedDict, total=False):
    """The options of a subscription. Durations are in seconds."""

    ack_deadline: int
    """10 to 600; the default is 10."""
    dead_letter_topic: str | None
    """The topic for messages that were not acknowledged in `max_delivery_attempts` deliveries."""
    max_delivery_attempts: int
    """5 to 100; the default is 5."""
    min_backoff: float | None
    """The shortest time between two deliveries of a message, as a retry policy."""
    max_backoff: float | None
    """The longest such time."""


class PubSubEmulator:
    """A Pub/Sub emulator during a `with` block.

    Topics and subscriptions are named by ids of three or more characters.
    """

    def __init__(self, directory: Path, *, project: str = "emulated") -> None:
        program = require("the Pub/Sub emulator of the gcloud SDK", _installed())
        require("java", os.environ.get("JAVA_HOME") or shutil.which("java"))
        port = free_port()
        self.project = project
        self.url = f"http://{LOOPBACK}:{port}"
        self._client = httpx.Client(
            base_url=f"{self.url}/v1/projects/{project}/",
            timeout=30,
            trust_env=False,
            verify=NO_AUTHORITIES,
        )
        self._process = Process(
            [program, f"--host={LOOPBACK}", f"--port={port}"],
            output=directory / "pubsub-emulator.log",
            ready=answers(self.url),
            env={"JAVA_OPTS": f"{_JAVA_OPTIONS} {os.environ.get('JAVA_OPTS', '')}"},
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
        """Push the messages of the topic to an endpoint, which may be http:// here.

        With `unwrapped` None the request has no wrapper field, which means wrapped, like False.
        """
        push: dict[str, Any] = {"pushEndpoint": endpoint}
        if unwrapped is not None:
            push |= {"noWrapper": {"writeMetadata": write_metadata}} if unwrapped else {"pubsubWrapper": {}}
        self._call("PUT", f"subscriptions/{name}", self._subscription(topic, options) | {"pushConfig": push})

    def create_pull_subscription(self, name: str, topic: str, **options: Unpack[SubscriptionOptions]) -> None:
        self._call("PUT", f"subscriptions/{name}", self._subscription(topic, options))

    def publish(self, topic: str, data: bytes, attributes: Mapping[str, str] | None = None) -> str:
        """Publish a message, and return its id."""
        message = {"data": base64.b64encode(data).decode(), "attributes": dict(attributes or {})}
        answer = self._call("POST", f"topics/{topic}:publish", {"messages": [message]})
        message_id: str = answer["messageIds"][0]
        return message_id

    def publish_all(self, topic: str, data: Iterable[bytes]) -> None:
        """Publish messages, many in one request."""
        for part in batched([{"data": base64.b64encode(one).decode()} for one in data], 500):
            self._call("POST", f"topics/{topic}:publish", {"messages": part})

    def pull(self, subscription: str, max_messages: int = 10) -> list[PulledMessage]:
        """Return the messages that a subscription has now. They are leased until their deadline."""
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
        """Return messages without acknowledgement, so that they can be pulled again."""
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


def batched(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Yield the items in parts of this size; the last one can be smaller."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


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
