"""Load on an exporter during a fault, and the check that its counters and ledger are exact."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple, Protocol, Self

import httpx

from tests.chaos.comparison import COUNTERS, differences, ledger_differences
from tests.chaos.fault_check import Size, check
from tests.chaos.incarnations import traffic_of_incarnations
from tests.chaos.push_sender import PushSender
from tests.chaos.traffic import Labels, Traffic
from tests.support.exporter import Exporter
from tests.support.process import eventually
from tests.support.program import ExporterProcess
from tests.support.samples import Samples

_RUN_TIMEOUT_SECONDS = 1800
_SCRAPE_SECONDS = 0.2


class Task(Protocol):
    """Work that runs in its own thread until it is done or `stopped` is set."""

    stopped: bool

    def run(self) -> None: ...


@contextmanager
def running(task: Task) -> Iterator[Future[None]]:
    """Run the task during the block and then wait for its end. If the block fails, stop the task."""
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(task.run)
        try:
            yield done
            done.result(_RUN_TIMEOUT_SECONDS)
        finally:
            task.stopped = True


class ExporterAccess(NamedTuple):
    """Access to an exporter, which runs as a process or in a thread."""

    port: int
    """The port that takes pushes."""
    samples: Callable[[], Samples]
    client: httpx.Client
    metrics_url: str

    @classmethod
    def of_process(cls, exporter: ExporterProcess) -> Self:
        """Return access to a process, which may be killed and started again."""
        url = f"http://{exporter.metrics_address}"
        return cls(port_of(exporter), exporter.samples, exporter.client, url)

    @classmethod
    def of_thread(cls, exporter: Exporter) -> Self:
        """Return access to an exporter in a thread, which must have started."""
        return cls(exporter.ports[0], exporter.exposition, exporter.client, exporter.metrics_url)


class Load:
    """Deliveries to an exporter, and scrapes of it, during a `with` block.

    The block's end waits until all messages are acknowledged, unless `give_up` was called.
    """

    def __init__(
        self,
        exporter: ExporterAccess,
        size: Size,
        seed: int,
        *,
        traffic: Traffic | None = None,
        token: Callable[[], str] = str,
    ) -> None:
        """`traffic`: by default that of the size and the seed."""
        self.traffic = traffic_of(size, seed) if traffic is None else traffic
        self.sender = PushSender(exporter.port, self.traffic.messages, token=token, seed=seed)
        self._watch = _CounterWatch(exporter.samples)
        self._exporter = exporter
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(running(self._watch))
        self._stack.callback(self._watch.stop)
        self._done = self._stack.enter_context(running(self.sender))
        return self

    def __exit__(self, *exc_info: object) -> None:
        if exc_info[0] is not None:
            self.give_up()
        self._stack.close()

    def wait(self, share: float) -> None:
        """Wait until this share of the messages is acknowledged."""
        count = len(self.traffic.messages) * share
        eventually(
            lambda: self.sender.acknowledged >= count or self._done.done(),
            within=120,
            what=f"{count:.0f} messages are acknowledged",
        )

    def wait_for_present_pushes(self) -> None:
        """Wait for the end of all pushes that are under way."""
        present = frozenset(self.sender.under_way)
        eventually(lambda: not present & self.sender.under_way, within=120, what="the end of present pushes")

    def wait_for_refusals(self, reason: str, count: int) -> int:
        """Wait for this many further refusals with the reason; return how many there were."""
        repeated = self.sender.repeated
        before = repeated[reason]
        eventually(lambda: repeated[reason] >= before + count, within=30, what=f"{count} refusals: {reason}")
        return repeated[reason] - before

    def wait_for_scrapes(self, count: int) -> None:
        """Wait until this many further scrapes have succeeded."""
        before = self._watch.scrapes
        eventually(lambda: self._watch.scrapes >= before + count, within=30, what=f"{count} scrapes")

    def wait_for_acknowledgement(self, *, within: float) -> None:
        """Wait until another message is acknowledged."""
        before = self.sender.acknowledged
        eventually(lambda: self.sender.acknowledged > before, within=within, what="a push is acknowledged")

    def finish(self) -> None:
        """Wait until all messages are acknowledged."""
        eventually(self._done.done, within=300, what="all messages are acknowledged")

    def give_up(self) -> None:
        """Stop delivering."""
        self.sender.stopped = True

    def check_exact(self, expected: Traffic | None = None) -> str:
        """Return a summary. Raises FaultError if counters or ledger differ from the expected totals.

        By default those of the traffic are expected.
        """
        expected = self.traffic if expected is None else expected
        self._watch.scrape()
        errors = [
            *self._watch.decreases,
            *differences(expected, lambda name: _by_name(self._exporter.samples(), name)),
            *ledger_differences(expected, self._exporter.client, self._exporter.metrics_url),
        ]
        check(not errors, "; ".join(errors[:5]))
        check(self._watch.scrapes > 1, "the exporter was never scraped during the fault")
        return f"{self.sender.acknowledged} messages, {self._watch.scrapes} scrapes, exact"


class _CounterWatch:
    """Scrapes repeatedly. No durable counter may go down or disappear, also not after a restart."""

    def __init__(self, samples: Callable[[], Samples]) -> None:
        self.stopped = False
        self.scrapes = 0
        self.decreases: list[str] = []
        self._samples = samples
        self._last: Samples = {}
        self._lock = threading.Lock()
        self._end = threading.Event()

    def run(self) -> None:
        """Scrape until `stop` is called."""
        while not self._end.wait(_SCRAPE_SECONDS):
            with suppress(httpx.TransportError):  # the exporter may be down
                self.scrape()

    def stop(self) -> None:
        """End `run`."""
        self._end.set()

    def scrape(self) -> None:
        """Scrape once."""
        with self._lock:
            now = self._samples()
            self.decreases.extend(
                f"{name} {dict(labels)}: {before:g} to {now.get((name, labels), 0):g}"
                for (name, labels), before in self._last.items()
                if name in COUNTERS and now.get((name, labels), 0) < before
            )
            self._last = now
            self.scrapes += 1


def traffic_of(size: Size, seed: int, prefix: str = "gke") -> Traffic:
    """Return traffic in which each name has five incarnations. `prefix` is the beginning of the names."""
    rng = random.Random(seed)  # noqa: S311  # reproducible, not secret
    names = size.interruptions // 5
    return traffic_of_incarnations(rng, interruptions=size.interruptions, names=names, prefix=prefix)


def port_of(exporter: ExporterProcess) -> int:
    """Return the port that takes pushes."""
    port: int = exporter.configured["server"]["port"]
    return port


def _by_name(samples: Samples, name: str) -> dict[Labels, float]:
    return {labels: value for (series, labels), value in samples.items() if series == name and value}
