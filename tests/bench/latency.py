"""The latency of pushes at a constant rate: alone, while a large fleet is listed, while much is scraped.

`python -m tests.bench.latency [--rate 1000] [--seconds 30] [--instances 100000] [--series 5000]`; wants
two cores or more. Latency is measured from the moment at which a push was due, not from when it was sent.
The Compute API and the scraper are processes of their own; so is, as always, the child that lists.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import httpx
import uvloop

from tests.bench.load import body
from tests.bench.pushes import Pushes, Seen
from tests.bench.report import at_most, cpu_seconds, machine, percentile, progress, rss_mib, say
from tests.bench.throughput import remember
from tests.support.compute_api import ComputeApi, Hold, ManyInstances
from tests.support.entries import insert
from tests.support.program import Door, Exporter, configuration, open_door

_LISTED: Final = "shop-prod"
_KNOWN: Final = 10_000
"""Instances of a project that is not listed: the pushes interrupt these, so that each is counted at once."""
_WARM_UP_SECONDS: Final = 1
_SAMPLE_SECONDS: Final = 0.1
_SCRAPE_SECONDS: Final = 1.0
_AS_PROMETHEUS: Final = {"accept": "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "accept-encoding": "gzip"}
# The load is of the subscriptions that it names.
_ANY: Final = {"instance_creation_subscription_name": "", "instance_interruption_subscription_name": ""}


class Phase(NamedTuple):
    """What was seen in one phase."""

    name: str
    limit_ms: float
    """Of the latency that one push in a hundred may exceed."""
    seen: Seen
    server_cpu_seconds: float
    peak_rss_mib: float
    end_rss_mib: float


class Scrape(NamedTuple):
    """What a scraper has seen once."""

    seconds: float
    series: int


class Report(NamedTuple):
    """What was seen in all of the phases."""

    phases: Sequence[Phase]
    scrapes: Sequence[Scrape]
    wrong: Sequence[str]
    """What was not answered as it should be, and where more or less is shown than was answered."""
    logs: Sequence[dict[str, object]]
    """What it has logged of the listing."""


def main() -> None:
    """Measure, and print a table."""
    options = _options()
    with TemporaryDirectory() as folder:
        _print(run(Path(folder), options), options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The latency of pushes at a constant rate.")
    parser.add_argument("--rate", type=int, default=1000, help="pushes a second")
    # The exporter gives up on a page that does not come within 90 s.
    parser.add_argument(
        "--seconds", type=float, default=30, help="of the phases without a listing, 80 at most"
    )
    parser.add_argument("--instances", type=int, default=100_000, help="of the fleet that is listed")
    parser.add_argument("--series", type=int, default=5_000, help="samples in the exposition, at least")
    return parser.parse_args()


def run(directory: Path, options: argparse.Namespace) -> Report:
    """Have the three phases happen to a fresh exporter."""
    store = {"url": f"sqlite:///{directory}/store.db"}
    remember(store["url"], _KNOWN)
    fleet = ManyInstances(options.instances)
    with _process(_list, fleet) as api, _process(_scrape) as scraper, open_door() as door:
        inventory = {"enabled": True, "endpoint": api.recv(), "interval_seconds": 86400}
        configured = configuration(directory, door, store=store, inventory=inventory, pubsub=_ANY)
        configured["projects"] = [_LISTED]
        with Exporter(directory, door, configured=configured) as exporter:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                course = _Course(exporter, door, options)
                phases, scrapes = runner.run(course.run(api, scraper))
            wrong = course.wrong()
        logs = [line for line in exporter.logs() if line["message"] in ("fleet listed", "fleet not listed")]
    return Report(phases, scrapes, wrong, logs)


class _Course:
    """The phases, one after the other."""

    def __init__(self, exporter: Exporter, door: Door, options: argparse.Namespace) -> None:
        self._exporter = exporter
        self._options = options
        self._pid = exporter.process.pid
        self._pushes = Pushes(int(exporter.url.rpartition(":")[2]), door.token)
        self._bodies = (body(number, _KNOWN) for number in itertools.count(1))
        self._outcomes: Counter[str] = Counter()

    async def run(self, api: Connection, scraper: Connection) -> tuple[Sequence[Phase], Sequence[Scrape]]:
        async with self._pushes.opened():
            # What the first ones cost is not the question. The listing's first page is held.
            await self._phase("warming up", 0, _passed(_WARM_UP_SECONDS, lambda _: None))
            alone = await self._timed("alone", 15)
            api.send("go on")
            listing = await self._listing("while the fleet is listed", 50, api)
            _make_series(self._exporter, self._options.series)
            scraper.send(f"http://{self._exporter.metrics_address}/metrics")
            scraped = await self._timed("while /metrics is scraped", 50)
            scraper.send(None)
        return [alone, listing, scraped], scraper.recv()

    def wrong(self) -> Sequence[str]:
        """What was not answered as it should be, and where more or less is shown than was answered."""
        found = [
            f"{number} x {outcome}" for outcome, number in self._outcomes.items() if outcome != "counted"
        ]
        shown = self._exporter.interruptions("shop")
        if shown != self._outcomes["counted"]:
            found.append(f"{self._outcomes['counted']} answered as counted, {shown} shown")
        return found

    async def _timed(self, name: str, limit_ms: float) -> Phase:
        seconds = self._options.seconds
        with progress(name, seconds) as done:
            return await self._phase(name, limit_ms, _passed(seconds, done))

    async def _listing(self, name: str, limit_ms: float, api: Connection) -> Phase:
        ready = f"http://{self._exporter.metrics_address}/readyz"
        with progress(name, self._options.instances) as done:
            async with httpx.AsyncClient(trust_env=False) as client:

                async def listed() -> None:
                    while (await client.get(ready)).status_code != 200:
                        while api.poll():
                            done(api.recv())
                        await asyncio.sleep(_SAMPLE_SECONDS)

                return await self._phase(name, limit_ms, listed)

    async def _phase(self, name: str, limit_ms: float, until: Callable[[], Awaitable[object]]) -> Phase:
        peak = 0.0

        async def watch() -> None:
            nonlocal peak
            while True:
                peak = max(peak, rss_mib(self._pid))
                await asyncio.sleep(_SAMPLE_SECONDS)

        watching = asyncio.create_task(watch())
        cpu = cpu_seconds(self._pid)
        seen = await self._pushes.run(self._options.rate, self._bodies, until)
        watching.cancel()
        self._outcomes += seen.outcomes
        return Phase(name, limit_ms, seen, cpu_seconds(self._pid) - cpu, peak, rss_mib(self._pid))


def _passed(seconds: float, done: Callable[[float], None]) -> Callable[[], Awaitable[None]]:
    async def wait() -> None:
        began = time.monotonic()
        while (passed := time.monotonic() - began) < seconds:
            done(passed)
            await asyncio.sleep(min(_SAMPLE_SECONDS, seconds - passed))

    return wait


def _make_series(exporter: Exporter, series: int) -> None:
    """Create instances of ever more clusters until so many samples are exposed."""
    numbers = itertools.count()
    with progress("of the series made", series) as done:
        while (shown := len(exporter.samples())) < series:
            done(shown)
            for number in itertools.islice(numbers, 50):
                outcome = exporter.outcome(insert(f"pool-{number}", cluster=f"cluster-{number}"))
                assert outcome == "tracked", outcome


@contextmanager
def _process(work: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """The work in a process of its own, which ends where it is told "end"."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(theirs, *arguments))
    process.start()
    try:
        yield ours
    finally:
        ours.send("end")
        process.join()


def _list(orders: Connection, fleet: ManyInstances) -> None:
    """The Compute API: tells its URL, holds the first page until told to go on, and tells how far it is."""
    os.nice(10)
    hold = Hold()
    with ComputeApi() as api:
        api.projects[_LISTED] = fleet
        api.fail(hold)
        orders.send(api.url)
        if orders.recv() == "end":
            return
        hold.until.set()
        told = 0
        while not orders.poll(_SAMPLE_SECONDS):
            # Nothing more once the fleet is read: nobody listens any longer, and the pipe would fill.
            if (read := len(api.requests) * api.page_size) != told:
                told = read
                orders.send(read)


def _scrape(orders: Connection) -> None:
    """The scraper: of the URL that it is told, until it is told more; then it tells what it has seen."""
    url = orders.recv()
    if url == "end":
        return
    scrapes: list[Scrape] = []
    with httpx.Client(headers=_AS_PROMETHEUS, trust_env=False) as client:
        due = time.monotonic()
        while not orders.poll(max(due - time.monotonic(), 0)):
            due += _SCRAPE_SECONDS
            began = time.monotonic()
            lines = client.get(url).raise_for_status().text.splitlines()
            series = sum(not line.startswith("#") for line in lines)
            scrapes.append(Scrape(time.monotonic() - began, series))
    orders.send(scrapes)
    while orders.recv() != "end":
        pass


def _print(report: Report, options: argparse.Namespace) -> None:
    say(
        f"{machine()}; {options.rate} pushes/s; {options.instances} instances listed;"
        " milliseconds from when a push was due"
    )
    columns = ("s", "pushes", "errors", "p50", "p99", "p99.9", "max")
    say(f"{'':27}" + "".join(f"{column:>8}" for column in columns) + "  CPU µs  RSS MiB: peak, end")
    for phase in report.phases:
        seen = phase.seen
        pushes = len(seen.latencies_ms)
        latencies = (percentile(seen.latencies_ms, share) for share in (0.5, 0.99, 0.999, 1))
        say(
            f"{phase.name:27}{seen.seconds:8.1f}{pushes:8}{pushes - seen.outcomes['counted']:8}"
            + "".join(f"{latency:8.2f}" for latency in latencies)
            + f"{phase.server_cpu_seconds / max(pushes, 1) * 1e6:8.0f}"
            f"  {phase.peak_rss_mib:.1f} {phase.end_rss_mib:.1f}"
        )
    for phase in report.phases:
        p99 = percentile(phase.seen.latencies_ms, 0.99)
        late = [percentile(phase.seen.late_ms, share) for share in (0.5, 0.99, 0.999)]
        say(
            f"{phase.name}: p99 {p99:.1f} ms {at_most(p99, phase.limit_ms)}; the load itself was late by"
            f" {late[0]:.1f} (p50) {late[1]:.1f} (p99) {late[2]:.1f} (p99.9),"
            f" and took {phase.seen.cpu_seconds / phase.seen.seconds:.0%} of a core"
        )
    took = [scrape.seconds for scrape in report.scrapes]
    say(
        f"{len(took)} scrapes of {min(scrape.series for scrape in report.scrapes)} series or more:"
        f" median {median(took) * 1000:.0f} ms, longest {max(took) * 1000:.0f} ms"
    )
    for line in report.logs:
        say(json.dumps(line))
    say("; ".join(report.wrong) or "all that was answered was counted, once")


if __name__ == "__main__":
    main()
