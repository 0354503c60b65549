"""A Pub/Sub client that sends the two calls of every message directly. Needs the extra `pull`.

The library's subscriber extends the lease of a message when it arrives, and acknowledges it later.
https://cloud.google.com/pubsub/docs/reference/rpc/google.pubsub.v1#subscriber
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

import grpc
from google.api_core import exceptions
from google.api_core.gapic_v1.routing_header import to_grpc_metadata
from google.cloud.pubsub_v1 import SubscriberClient
from google.cloud.pubsub_v1.types import AcknowledgeRequest, ModifyAckDeadlineRequest
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from google.pubsub_v1.services.subscriber.transports.base import DEFAULT_CLIENT_INFO

_TIMEOUT_SECONDS: Final = 60.0
"""The library's own timeout of these calls."""
_CLIENT: Final = DEFAULT_CLIENT_INFO.to_grpc_metadata()
_Acknowledge: Final = AcknowledgeRequest.pb()
_ModifyAckDeadline: Final = ModifyAckDeadlineRequest.pb()


class DirectClient(SubscriberClient):  # type: ignore[misc]  # the library has no types
    """The library's client, without its wrappers around the calls of every message.

    A wrapper builds a second request object, a retry and a timeout for each call. Without them a lone message
    takes 15 % less processor time. If the service is unavailable, the library sends the call again.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        super().__init__(transport=SubscriberGrpcTransport(channel=channel))
        self._acknowledge = _call(channel, "Acknowledge", _Acknowledge)
        self._modify_ack_deadline = _call(channel, "ModifyAckDeadline", _ModifyAckDeadline)

    def acknowledge(
        self,
        request: Any = None,  # noqa: ANN401  # the library takes a request or its fields
        *,
        subscription: str = "",
        ack_ids: Iterable[str] = (),
        **options: Any,  # noqa: ANN401
    ) -> None:
        """Acknowledge messages. Raises GoogleAPICallError, or RetryError after a minute."""
        if request is None:
            request = _Acknowledge(subscription=subscription, ack_ids=ack_ids)
            if not options and _send_once(self._acknowledge, request):
                return
        super().acknowledge(request, **options)

    def modify_ack_deadline(
        self,
        request: Any = None,  # noqa: ANN401
        *,
        subscription: str = "",
        ack_ids: Iterable[str] = (),
        ack_deadline_seconds: int = 0,
        **options: Any,  # noqa: ANN401
    ) -> None:
        """Extend leases, or end them with 0. Raises GoogleAPICallError, or RetryError after a minute."""
        if request is None:
            request = _ModifyAckDeadline(
                subscription=subscription, ack_ids=ack_ids, ack_deadline_seconds=ack_deadline_seconds
            )
            if not options and _send_once(self._modify_ack_deadline, request):
                return
        super().modify_ack_deadline(request, **options)


def _call(channel: grpc.Channel, method: str, request_type: Any) -> Callable[..., Any]:  # noqa: ANN401
    # The answers have no fields, so they stay bytes.
    call: Callable[..., Any] = channel.unary_unary(
        f"/google.pubsub.v1.Subscriber/{method}", request_serializer=request_type.SerializeToString
    )
    return call


def _send_once(call: Callable[..., Any], request: Any) -> bool:  # noqa: ANN401
    """Send a request. Return False if the service is unavailable. Raises GoogleAPICallError."""
    route = to_grpc_metadata((("subscription", request.subscription),))
    try:
        call(request, timeout=_TIMEOUT_SECONDS, metadata=(_CLIENT, route))
    except grpc.RpcError as exc:
        if exc.code() is grpc.StatusCode.UNAVAILABLE:
            return False
        raise exceptions.from_grpc_error(exc) from exc
    return True
