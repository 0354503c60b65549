"""The pulling from Pub/Sub, without a server. `tests/e2e/test_pull.py` has one."""

from pathlib import Path
from typing import Final

import pytest

from app.pull import pause_after
from tests.support.exporter import Exporter
from tests.support.subscriber_service import Call, SubscriberService

WITHIN_SECONDS: Final = 120


def test_the_pause_after_failures_doubles_up_to_a_minute() -> None:
    pauses = [pause_after(attempts, 1) for attempts in range(9)]

    assert pauses == [1, 1, 2, 4, 8, 16, 32, 60, 60]


def test_streams_open_with_the_default_extension_of_leases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The library accepts a float, but then it cannot open a stream, and raises nothing here.
    with SubscriberService() as service:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", service.address)
        settings = {"pubsub.delivery": "pull", "project_name": "shop-prod", "inventory.enabled": False}
        with Exporter(tmp_path, settings):
            opened = [_next_opening(service) for _ in range(2)]

    assert [call.request.stream_ack_deadline_seconds for call in opened] == [20, 20]


def _next_opening(service: SubscriberService) -> Call:
    """Return the next first request of a stream, after other calls and the heartbeats of another stream."""
    while True:
        call = service.calls.get(timeout=WITHIN_SECONDS)
        if call.method == "StreamingPull" and call.request.subscription:
            return call
