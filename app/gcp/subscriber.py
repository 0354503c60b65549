"""The Pub/Sub client for pulling, and the examination of a subscription. Needs the extra `pull`.

https://cloud.google.com/pubsub/docs/pull
"""

import os
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import grpc
from google.api_core import exceptions
from google.auth.exceptions import GoogleAuthError
from google.cloud.pubsub_v1 import SubscriberClient
from google.cloud.pubsub_v1.types import FlowControl
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from app.errors import StartError
from app.gcp.direct_client import DirectClient
from app.gcp.egress import proxy_for, without_values
from app.gcp.values import UNPRINTABLE

EMULATOR: Final = "PUBSUB_EMULATOR_HOST"
MAX_MESSAGES: Final = 1000
"""Messages of one subscription that are in hand. There are two subscriptions."""
_MAX_BYTES: Final = 32 << 20
_LEASE_SECONDS: Final = 86_400.0
"""Longest time for which the library extends the lease of a message in hand."""
_MAX_REPLY_BYTES: Final = 64 << 20

State: TypeAlias = Literal["ok", "missing", "push", "forbidden", "unreachable"]


class Finding(NamedTuple):
    """The state of a subscription, and a sentence that says what to do."""

    state: State
    message: str = ""

    @property
    def can_pull(self) -> bool:
        """True if pulling may work. A caller who may pull may lack the permission to look."""
        return self.state not in ("missing", "push")


def make_subscriber() -> SubscriberClient:
    """Return a client; for the emulator that PUBSUB_EMULATOR_HOST names, if it is set. Raises StartError."""
    emulator = os.environ.get(EMULATOR)
    try:
        if emulator:
            channel = grpc.insecure_channel(emulator, options=_options(f"http://{emulator}"))
        else:
            url = f"https://{SubscriberClient.DEFAULT_ENDPOINT}"
            channel = SubscriberGrpcTransport.create_channel(
                SubscriberClient.DEFAULT_ENDPOINT, options=_options(url)
            )
        return DirectClient(channel)
    except (GoogleAuthError, OSError, ValueError) as exc:  # the last two for a file that cannot be read
        text = UNPRINTABLE.sub(" ", without_values(str(exc)))
        raise StartError(f"pubsub.delivery pull needs credentials: {text}") from exc


def _options(url: str) -> list[tuple[str, Any]]:
    # grpc reads only the lower-case variables, and sends even loopback through a proxy.
    proxy = proxy_for(url)
    through = ("grpc.enable_http_proxy", 0) if proxy is None else ("grpc.http_proxy", proxy)
    return [through, ("grpc.max_receive_message_length", _MAX_REPLY_BYTES)]


def flow_control(extension_seconds: int) -> FlowControl:
    """Return the limits of one subscription. A lease is extended by at most this time at once."""
    # The library accepts a float, but then cannot open a stream, and does not raise.
    return FlowControl(
        max_messages=MAX_MESSAGES,
        max_bytes=_MAX_BYTES,
        max_lease_duration=_LEASE_SECONDS,
        max_duration_per_lease_extension=extension_seconds,
    )


def examine(client: SubscriberClient, subscription: str, timeout_seconds: float) -> Finding:
    """Return the state of a subscription, given by its whole name."""
    try:
        found = client.get_subscription(
            request={"subscription": subscription}, timeout=timeout_seconds, retry=None
        )
    except (exceptions.GoogleAPICallError, GoogleAuthError) as exc:
        return finding_of(exc, subscription, looking=True)
    if found.push_config.push_endpoint:
        return Finding(
            "push",
            f"{subscription} pushes; remove its push endpoint, or set pubsub.delivery to push",
        )
    return Finding("ok")


def finding_of(exc: Exception, subscription: str, *, looking: bool = False) -> Finding:
    """Return what an error of the client says about the subscription."""
    if isinstance(exc, exceptions.NotFound):
        return Finding("missing", f"{subscription} does not exist; create it, or correct its name")
    if isinstance(exc, exceptions.Forbidden | exceptions.Unauthenticated):
        role = "roles/pubsub.viewer" if looking else "roles/pubsub.subscriber"
        verb = "look at" if looking else "pull from"
        return Finding(
            "forbidden", f"the exporter's account may not {verb} {subscription}; grant it {role} there"
        )
    advice = "check the network from the exporter to Pub/Sub"
    return Finding("unreachable", f"{subscription} cannot be reached: {type(exc).__name__}; {advice}")
