"""Replicas of the exporter on one real Redis, behind a real nginx, scraped by a real Prometheus."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.support.nginx import Nginx
from tests.support.process import eventually
from tests.support.program import ExporterProcess
from tests.support.prometheus import Prometheus, Target
from tests.support.redis import RedisServer, key
from tests.support.samples import Samples

SCRAPE_SECONDS: Final = 1
HOLD_SECONDS: Final = 2 * SCRAPE_SECONDS
DRAIN_SECONDS: Final = 1
REFRESH_SECONDS: Final = 5
"""The interval at which a replica checks if it leads."""
LINGER_SECONDS: Final = 2 * SCRAPE_SECONDS + 2
"""Time for two scrapes: a series that is new at the end shows 0 at the first and its value at the second."""

SHARED: Final = frozenset(
    {
        "spot_instances",
        "spot_interruption_exporter_pending_interruptions",
        "spot_last_interruption_timestamp_seconds",
        "spot_interruption_exporter_inventory_last_success_timestamp_seconds",
        "spot_interruption_exporter_inventory_duration_seconds",
        "spot_interruption_exporter_inventory_instances",
    }
)
"""The series that only the leading replica exposes."""


class Replicas:
    """A number of exporters with stable names, nginx and Redis, during a `with` block."""

    def __init__(
        self,
        directory: Path,
        count: int,
        *,
        env: Mapping[str, str] | None = None,
        inventory: Mapping[str, Any] | None = None,
        pubsub: Mapping[str, Any] | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        """`inventory` and `pubsub` are those sections of each configuration, `command` is as in a process.

        By default nothing is listed, and everybody may push.
        """
        self._directory = directory
        self._env = env
        self._inventory = inventory or {}
        self._pubsub = pubsub or {}
        self._command = command
        self._stack = ExitStack()
        self._all: dict[str, ExporterProcess] = {}
        self.redis = RedisServer(directory / "redis")
        self.names: list[str] = []
        """The replicas that receive pushes."""
        self._grow(count)
        balancer = directory / "nginx"
        balancer.mkdir()
        self.nginx = Nginx(balancer, self.addresses)

    def __enter__(self) -> Self:
        with self._stack as stack:
            stack.enter_context(self.redis)
            stack.callback(self._stop)
            self._start(self.names)
            stack.enter_context(self.nginx)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def __getitem__(self, name: str) -> ExporterProcess:
        return self._all[name]

    @property
    def addresses(self) -> list[str]:
        """The URL for pushes."""
        return [self._all[name].url.removeprefix("http://") for name in self.names]

    @property
    def targets(self) -> list[Target]:
        """The targets of Prometheus: every running replica, by its name."""
        return [Target(self._all[name].metrics_address, {"instance": name}) for name in self.names]

    def prometheus(self, directory: Path) -> Prometheus:
        """A Prometheus that scrapes all replicas."""
        directory.mkdir()
        return Prometheus(directory, self.targets, scrape_interval=SCRAPE_SECONDS)

    def scale_out(self, count: int, prometheus: Prometheus) -> None:
        """Start replicas until there are `number`, and add them to nginx and Prometheus."""
        self._start(self._grow(count))
        prometheus.retarget(self.targets)
        self.nginx.retarget(self.addresses)

    def scale_in(self, count: int, prometheus: Prometheus) -> list[int]:
        """Stop the youngest replicas until there are `number`, and return their exit statuses.

        As in Kubernetes, the signal comes first; nginx and Prometheus change afterwards.
        """
        leaving = [self._all[name] for name in self.names[count:]]
        del self.names[count:]
        with ThreadPoolExecutor(len(leaving)) as threads:
            ends = [threads.submit(exporter.process.stop, within=20) for exporter in leaving]
            self.nginx.retarget(self.addresses)
            statuses = [end.result() for end in ends]
        prometheus.retarget(self.targets)
        return statuses

    def shown(self) -> dict[str, Samples]:
        """Scrape each replica. The first scrape begins the hold of new series."""
        return {name: self._all[name].samples() for name in self.names}

    def leaders(self) -> list[str]:
        """Return the replicas that expose the series of the leading one."""
        return [
            name for name, samples in self.shown().items() if any(series in SHARED for series, _ in samples)
        ]

    def leader(self, *, within: float = 30) -> str:
        """Wait until exactly one replica leads, and return it."""

        def only() -> str:
            leaders = self.leaders()
            return leaders[0] if len(leaders) == 1 else ""

        return eventually(only, within=within, what="one replica leads")

    def end_lease(self) -> None:
        """End the lease now, instead of after 15 s."""
        self.redis.client.delete(key("lease"))

    def made(self, name: str, directory: Path) -> ExporterProcess:
        """Return a process for that name, not started yet, with its own ports."""
        return ExporterProcess(
            directory,
            env=self._env,
            store={"url": self.redis.url, "replica": name},
            prometheus={"hold_seconds": HOLD_SECONDS, "linger_seconds": LINGER_SECONDS},
            server={"drain_seconds": DRAIN_SECONDS},
            inventory=self._inventory,
            pubsub=self._pubsub,
            command=self._command,
        )

    def _grow(self, count: int) -> list[str]:
        new = [f"replica-{number}" for number in range(len(self.names), count)]
        for name in new:
            if name not in self._all:
                directory = self._directory / name
                directory.mkdir()
                self._all[name] = self.made(name, directory)
        self.names += new
        return new

    def _start(self, names: Iterable[str]) -> None:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda name: self._all[name].process.start(), names))

    def _stop(self) -> None:
        for exporter in self._all.values():
            exporter.process.kill()
            exporter.client.close()
