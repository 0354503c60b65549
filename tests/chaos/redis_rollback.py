"""Faults of a Redis that goes back to older data."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tests.chaos.fault_check import Size, check
from tests.chaos.load import ExporterAccess, Load, traffic_of
from tests.chaos.traffic import Traffic, sum_of
from tests.support.process import eventually
from tests.support.program import ExporterProcess
from tests.support.redis import RedisServer

_RESETS = "spot_interruption_exporter_store_resets_total"


def redis_restored(directory: Path, size: Size, seed: int) -> str:
    """Restore a Redis to its snapshot under load. No counter goes down; only lost events count again."""
    with _on_redis(directory, size, seed) as run:
        kept, lost = (traffic_of(size, seed, prefix) for prefix in ("kept", "lost"))
        run.deliver(kept, kept)
        run.server.client.save()
        run.deliver(lost, sum_of(kept, lost))
        with run.load(kept) as load:  # again
            load.wait(0.3)
            run.server.process.kill()
            run.server.process.start()
            load.finish()
            run.wait_for_report()
            load.check_exact(replace(sum_of(kept, lost), ledger=kept.ledger))
        figures = run.deliver(lost, replace(sum_of(kept, lost, lost), ledger=kept.ledger + lost.ledger))
        return f"reported once, lost events counted again; {figures}"


def redis_flushed(directory: Path, size: Size, seed: int) -> str:
    """Empty a Redis. No counter goes down, and everything counts again."""
    with _on_redis(directory, size, seed) as run:
        lost = traffic_of(size, seed)
        run.deliver(lost, lost)
        run.server.client.flushall()
        run.wait_for_report()
        figures = run.deliver(lost, replace(sum_of(lost, lost), ledger=lost.ledger))
        return f"reported once, lost events counted again; {figures}"


class _Run(NamedTuple):
    """An exporter on a Redis."""

    server: RedisServer
    exporter: ExporterProcess
    size: Size
    seed: int

    def load(self, traffic: Traffic) -> Load:
        """Return the deliveries of the traffic."""
        return Load(ExporterAccess.of_process(self.exporter), self.size, self.seed, traffic=traffic)

    def deliver(self, traffic: Traffic, expected: Traffic) -> str:
        """Deliver the traffic, and return a summary. Raises FaultError if the totals are not as expected."""
        with self.load(traffic) as load:
            load.finish()
            return load.check_exact(expected)

    def wait_for_report(self) -> None:
        """Wait until the exporter has reported that its store has gone back."""
        eventually(lambda: self.exporter.value(_RESETS), within=30, what="the rollback is reported")
        resets = self.exporter.value(_RESETS)
        check(resets == 1, f"store_resets_total is {resets}")
        lines = [line for line in self.exporter.logs() if _is_report(line)]
        check(len(lines) == 1, f"{len(lines)} lines of the log report the rollback")
        check(bool(lines[0].get("lost_until")), "the line does not name the lost time")


def _is_report(line: dict[str, Any]) -> bool:
    message: str = line["message"]
    return line["severity"] == "WARNING" and message.startswith("the store has gone back")


@contextmanager
def _on_redis(directory: Path, size: Size, seed: int) -> Iterator[_Run]:
    with (
        RedisServer(directory / "redis", "--appendonly", "no") as server,
        ExporterProcess(directory, store={"url": server.url, "replica": "one"}) as exporter,
    ):
        yield _Run(server, exporter, size, seed)
