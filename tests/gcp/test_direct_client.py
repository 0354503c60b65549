"""The calls of every message, sent to a service in the test's process."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc
import pytest
from google.api_core import exceptions
from google.cloud.pubsub_v1 import SubscriberClient
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from app.gcp.direct_client import DirectClient
from tests.support.subscriber_service import Call, SubscriberService

SUBSCRIPTION: Final = "projects/example.com:shop/subscriptions/sie"
CALLS: Final[list[Any]] = [
    pytest.param(
        lambda client: client.acknowledge(subscription=SUBSCRIPTION, ack_ids=["a", "b"]), id="acknowledge"
    ),
    pytest.param(
        lambda client: client.modify_ack_deadline(
            # The library's subscriber passes an iterator, which can be read once.
            subscription=SUBSCRIPTION,
            ack_ids=iter(["a", "b"]),
            ack_deadline_seconds=10,
        ),
        id="extend",
    ),
    pytest.param(
        lambda client: client.modify_ack_deadline(
            subscription=SUBSCRIPTION, ack_ids=["a"], ack_deadline_seconds=0
        ),
        id="hand-back",
    ),
    pytest.param(
        lambda client: client.acknowledge({"subscription": SUBSCRIPTION, "ack_ids": ["a"]}, timeout=30),
        id="with-a-request-and-a-timeout",
    ),
]


@pytest.fixture
def service() -> Iterator[SubscriberService]:
    with SubscriberService() as service:
        yield service


def sent(service: SubscriberService, client: SubscriberClient, call: Callable[[Any], None]) -> list[Call]:
    """Return the requests that a client sends for one call."""
    with client:
        call(client)
    return [service.calls.get_nowait() for _ in range(service.calls.qsize())]


@pytest.mark.parametrize("call", CALLS)
def test_a_call_sends_the_request_and_headers_of_the_librarys_client(
    service: SubscriberService, call: Callable[[Any], None]
) -> None:
    ours = sent(service, DirectClient(service.channel()), call)
    library = SubscriberClient(transport=SubscriberGrpcTransport(channel=service.channel()))

    assert ours == sent(service, library, call)
    assert len(ours) == 1


@pytest.mark.parametrize("call", CALLS)
def test_a_call_is_repeated_while_the_service_is_unavailable(
    service: SubscriberService, call: Callable[[Any], None]
) -> None:
    service.refusals = [grpc.StatusCode.UNAVAILABLE] * 2

    first, second, third = sent(service, DirectClient(service.channel()), call)

    assert first == second == third
    assert first.request.ack_ids[0] == "a"


@pytest.mark.parametrize("call", CALLS)
def test_another_error_is_raised_as_the_library_raises_it_and_not_repeated(
    service: SubscriberService, call: Callable[[Any], None]
) -> None:
    service.refusals = [grpc.StatusCode.PERMISSION_DENIED]

    with pytest.raises(exceptions.PermissionDenied) as caught:
        sent(service, DirectClient(service.channel()), call)

    assert caught.value.grpc_status_code is grpc.StatusCode.PERMISSION_DENIED
    assert service.calls.qsize() == 1
