"""An exporter whose Redis goes back to older data lowers no counter, and says what was lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.entries import insert, made_id, preempted
from tests.support.process import eventually
from tests.support.program import ExporterProcess
from tests.support.redis import RedisServer

pytestmark = pytest.mark.usefixtures("quick_programs")

RESETS = "spot_interruption_exporter_store_resets_total"


def restore(redis: RedisServer) -> None:
    redis.process.kill()
    redis.process.start()


def flush(redis: RedisServer) -> None:
    redis.client.flushall()


@pytest.mark.parametrize("go_back", [restore, flush])
def test_a_redis_that_has_gone_back_lowers_no_counter_and_is_reported_once(
    tmp_path: Path, go_back: Callable[[RedisServer], None]
) -> None:
    with (
        RedisServer(tmp_path / "redis", "--appendonly", "no") as redis,
        ExporterProcess(tmp_path, store={"url": redis.url, "replica": "one"}) as exporter,
    ):
        _count(exporter, range(5))
        redis.client.save()
        _restart(exporter)
        _count(exporter, range(5, 8))
        assert (exporter.interruptions("tills"), exporter.value(RESETS)) == (8, 0)

        go_back(redis)
        warning = eventually(lambda: _warning(exporter), within=20, what="the exporter has noticed")

        assert (exporter.interruptions("tills"), exporter.value(RESETS)) == (8, 1)
        assert (warning["lost_since"] is None) is (go_back is flush)
        assert warning["lost_until"] <= warning["time"]
        assert "pending in that time are lost" in warning["message"]
        # The instance was lost with everything else, or is known from before the snapshot.
        known = go_back is restore
        again = preempted("gke-1", instance_id=made_id("1"), operation="another")
        assert exporter.outcome(again) == ("counted" if known else "pending")

        _restart(exporter)
        assert exporter.interruptions("tills") == 8 + known
        assert len(_warnings(exporter)) == 1


def _restart(exporter: ExporterProcess) -> None:
    assert exporter.process.stop() == 0
    exporter.process.start()


def _count(exporter: ExporterProcess, numbers: range) -> None:
    for number in numbers:
        name, instance_id = f"gke-{number}", made_id(str(number))
        assert exporter.outcome(insert(name, instance_id=instance_id, cluster="tills")) == "tracked"
        assert exporter.outcome(preempted(name, instance_id=instance_id)) == "counted"


def _warnings(exporter: ExporterProcess) -> list[dict[str, Any]]:
    return [line for line in exporter.logs() if "gone back" in line["message"]]


def _warning(exporter: ExporterProcess) -> dict[str, Any] | None:
    return next(iter(_warnings(exporter)), None)
