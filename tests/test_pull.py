"""The pulling from Pub/Sub, without a server. `tests/e2e/test_pull.py` has one."""

from pathlib import Path
from typing import Final

import pytest

from app.pull import pause_after
from tests.support.exporter import Exporter
from tests.support.process import LOOPBACK, eventually, free_port
from tests.support.program import ExporterProcess, configuration
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


def test_a_stop_does_not_wait_for_a_look_at_a_subscription(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"pubsub.delivery": "pull", "project_name": "shop-prod", "inventory.enabled": False}
    with SubscriberService() as service:
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", service.address)
        service.shows_subscriptions.clear()
        with Exporter(tmp_path, settings, examine_seconds=10.0 * WITHIN_SECONDS) as exporter:
            looks = [service.calls.get(timeout=WITHIN_SECONDS) for _ in range(2)]
            exporter.perform(exporter.parts.stop_pulling()).result(WITHIN_SECONDS)
        # The threads of the looks have ended too, because the end of the exporter's loop waits for them.
        assert not service.shows_subscriptions.is_set()

    assert [look.method for look in looks] == ["GetSubscription"] * 2


def test_a_stop_does_not_wait_for_pubsub_to_come_back(tmp_path: Path) -> None:
    # After ten attempts in a row the library sleeps for 10 s, in a thread that a channel waits for when
    # it is closed. The thread then fails, because its channel is closed, and logs that as an error.
    configured = configuration(tmp_path, None, pubsub={"delivery": "pull"})
    configured |= {"log_level": "debug", "project_name": "shop-prod"}
    nobody = {"PUBSUB_EMULATOR_HOST": f"{LOOPBACK}:{free_port()}"}

    with ExporterProcess(tmp_path, configured=configured, env=nobody) as exporter:
        eventually(
            lambda: exporter.process.text().count("Observed recoverable stream error") >= 2 * 10,
            within=WITHIN_SECONDS,
            what="the attempts of both streams",
        )
        assert exporter.process.stop(within=WITHIN_SECONDS) == 0

    assert [line for line in exporter.logs() if line["severity"] == "ERROR"] == []


def _next_opening(service: SubscriberService) -> Call:
    """Return the next first request of a stream, after other calls and the heartbeats of another stream."""
    while True:
        call = service.calls.get(timeout=WITHIN_SECONDS)
        if call.method == "StreamingPull" and call.request.subscription:
            return call
