"""Deliveries to an exporter while something happens to it, and what they must add up to."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple, Protocol, Self

import httpx

from tests.chaos.harm import Size, demand
from tests.chaos.lives import lives
from tests.chaos.pushes import Pushes
from tests.chaos.traffic import Labels, Traffic
from tests.chaos.verdict import COUNTERS, differences, in_ledger
from tests.support.exporter import Exporter as InThread
from tests.support.process import eventually
from tests.support.program import Exporter, Samples

_LONGEST_SECONDS = 1800
_BETWEEN_SCRAPES_SECONDS = 0.2


class Sender(Protocol):
    """Something that has messages delivered, in a thread of its own."""

    stopped: bool

    def run(self) -> None: ...


@contextmanager
def running(sender: Sender) -> Iterator[Future[None]]:
    """Have it deliver during the block, and until all is delivered; not for longer where the block fails."""
    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(sender.run)
        try:
            yield done
            done.result(_LONGEST_SECONDS)
        finally:
            sender.stopped = True


class Side(NamedTuple):
    """What one needs of an exporter, whether it is a process or a thread."""

    port: int
    """Where it takes pushes."""
    samples: Callable[[], Samples]
    client: httpx.Client
    metrics_url: str

    @classmethod
    def of_process(cls, exporter: Exporter) -> Self:
        """One that may be killed and started again."""
        url = f"http://{exporter.metrics_address}"
        return cls(port_of(exporter), exporter.samples, exporter.client, url)

    @classmethod
    def of_thread(cls, exporter: InThread) -> Self:
        """One that has started."""
        return cls(exporter.ports[0], exporter.exposition, exporter.client, exporter.metrics_url)


class Load:
    """Deliveries to an exporter, which is scraped meanwhile, whatever is done to it.

    The `with` block ends once all are acknowledged, or after `give_up`.
    """

    def __init__(self, side: Side, size: Size, seed: int, *, token: Callable[[], str] = str) -> None:
        self.made = traffic_of(size, seed)
        self.pushes = Pushes(side.port, self.made.messages, token=token, seed=seed)
        self._watch = _Watch(side.samples)
        self._side = side
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(running(self._watch))
        self._stack.callback(self._watch.stop)
        self._done = self._stack.enter_context(running(self.pushes))
        return self

    def __exit__(self, *exc_info: object) -> None:
        if exc_info[0] is not None:
            self.give_up()
        self._stack.close()

    def wait(self, share: float) -> None:
        """Until such a part is acknowledged."""
        count = len(self.made.messages) * share
        eventually(
            lambda: self.pushes.acknowledged >= count or self._done.done(),
            within=120,
            what=f"{count:.0f} messages are acknowledged",
        )

    def wait_for_refusals(self, reason: str, count: int) -> int:
        """Until so many more have met this; how many then have."""
        repeated = self.pushes.repeated
        before = repeated[reason]
        eventually(lambda: repeated[reason] >= before + count, within=30, what=f"{count} times {reason}")
        return repeated[reason] - before

    def wait_for_more(self, *, within: float) -> None:
        """Until one more is acknowledged."""
        before = self.pushes.acknowledged
        eventually(lambda: self.pushes.acknowledged > before, within=within, what="a push is taken")

    def finish(self) -> None:
        """Until everything is acknowledged."""
        eventually(self._done.done, within=300, what="everything is acknowledged")

    def give_up(self) -> None:
        """Deliver no more."""
        self.pushes.stopped = True

    def exact(self) -> str:
        """How many messages it were. Raises HarmError where anything is not as it was sent."""
        self._watch.look()
        wrong = [
            *self._watch.went_down,
            *differences(self.made, lambda name: _by_name(self._side.samples(), name)),
            *in_ledger(self.made, self._side.client, self._side.metrics_url),
        ]
        demand(not wrong, "; ".join(wrong[:5]))
        demand(self._watch.scrapes > 1, "nobody has scraped it")
        return f"{self.pushes.acknowledged} messages, {self._watch.scrapes} scrapes, exact"


class _Watch:
    """Scrapes all the time: no durable counter may go down or away, over a restart either."""

    def __init__(self, samples: Callable[[], Samples]) -> None:
        self.stopped = False
        self.scrapes = 0
        self.went_down: list[str] = []
        self._samples = samples
        self._shown: Samples = {}
        self._one_at_a_time = threading.Lock()
        self._end = threading.Event()

    def run(self) -> None:
        """Until `stop`."""
        while not self._end.wait(_BETWEEN_SCRAPES_SECONDS):
            with suppress(httpx.TransportError):  # it may be dead
                self.look()

    def stop(self) -> None:
        """Scrape no more."""
        self._end.set()

    def look(self) -> None:
        """Scrape once."""
        with self._one_at_a_time:
            now = self._samples()
            self.went_down.extend(
                f"{name} {dict(labels)}: {before:g} to {now.get((name, labels), 0):g}"
                for (name, labels), before in self._shown.items()
                if name in COUNTERS and now.get((name, labels), 0) < before
            )
            self._shown = now
            self.scrapes += 1


def traffic_of(size: Size, seed: int) -> Traffic:
    """Lives of a fifth as many names."""
    chance = random.Random(seed)  # noqa: S311  # to be repeated, not to be secret
    return lives(chance, interruptions=size.interruptions, names=size.interruptions // 5)


def port_of(exporter: Exporter) -> int:
    """Where it takes pushes."""
    port: int = exporter.configured["server"]["port"]
    return port


def _by_name(samples: Samples, name: str) -> dict[Labels, float]:
    return {labels: value for (series, labels), value in samples.items() if series == name and value}
