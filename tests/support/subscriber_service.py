"""A small Pub/Sub service in the test's process, which remembers the calls of a subscriber.

https://cloud.google.com/pubsub/docs/reference/rpc/google.pubsub.v1#subscriber
"""

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import grpc
from google.cloud.pubsub_v1 import types

from tests.support.process import LOOPBACK

_SERVICE: Final = "/google.pubsub.v1.Subscriber/"
_UNARY: Final = {
    "Acknowledge": types.AcknowledgeRequest,
    "ModifyAckDeadline": types.ModifyAckDeadlineRequest,
    "GetSubscription": types.GetSubscriptionRequest,
}
_THREADS: Final = 8


class Call(NamedTuple):
    """A call, and its request as the library's type."""

    method: str
    request: Any
    metadata: dict[str, str]
    """The headers of Google's own that came with it."""


class SubscriberService(grpc.GenericRpcHandler):  # type: ignore[misc]  # the library has no types
    """Answers every call, during a `with` block, and delivers no messages."""

    def __init__(self) -> None:
        self.calls: queue.Queue[Call] = queue.Queue()
        self.refusals: list[grpc.StatusCode] = []
        """The answers to the next acknowledgements and extensions, before they succeed."""
        self.shows_subscriptions = threading.Event()
        """While it is not set, a look at a subscription gets no answer."""
        self.shows_subscriptions.set()
        self._server = grpc.server(ThreadPoolExecutor(_THREADS), handlers=[self])
        port = self._server.add_insecure_port(f"{LOOPBACK}:0")
        self.address = f"{LOOPBACK}:{port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shows_subscriptions.set()
        self._server.stop(grace=None).wait()

    def channel(self) -> grpc.Channel:
        """Return a new channel to the service."""
        return grpc.insecure_channel(self.address, options=[("grpc.enable_http_proxy", 0)])

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Return the handler of a call. gRPC calls this."""
        method = details.method.removeprefix(_SERVICE)
        metadata = {key: value for key, value in details.invocation_metadata if key.startswith("x-goog-")}
        if method == "StreamingPull":
            return grpc.stream_stream_rpc_method_handler(
                lambda requests, _: self._stream(requests, metadata),
                types.StreamingPullRequest.deserialize,
                types.StreamingPullResponse.serialize,
            )
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._answer(Call(method, request, metadata), context),
            _UNARY[method].deserialize,
            types.Subscription.serialize,  # without fields it is Empty too
        )

    def _answer(self, call: Call, context: grpc.ServicerContext) -> types.Subscription:
        self.calls.put(call)
        if call.method == "GetSubscription":
            self.shows_subscriptions.wait()
        elif self.refusals:
            context.abort(self.refusals.pop(0), "refused by the test")
        return types.Subscription()

    def _stream(
        self, requests: Iterator[types.StreamingPullRequest], metadata: dict[str, str]
    ) -> Iterator[types.StreamingPullResponse]:
        for request in requests:
            self.calls.put(Call("StreamingPull", request, metadata))
        yield from ()
