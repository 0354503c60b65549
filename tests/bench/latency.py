"""The latency of pushes at a constant rate: alone, during the listing of a large fleet, and during scrapes.

`python -m tests.bench.latency [--rate 1000] [--seconds 30] [--instances 100000] [--series 5000]`; needs two
cores or more. Latency counts from the scheduled time of a push, not from the time at which it was sent. The
Compute API and the scraper run in separate processes, like the exporter's listing process.
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

from tests.bench.constant_rate import ConstantRatePushes, PushResults
from tests.bench.prefilled_store import create_instances
from tests.bench.report import at_most, machine, progress
from tests.bench.wrk import ANY_SUBSCRIPTION, body
from tests.support.compute_api import ComputeApi, Hold, ManyInstances
from tests.support.entries import insert
from tests.support.measure import cpu_seconds, percentile, rss_mib
from tests.support.output import print_line
from tests.support.program import ExporterProcess, PushCredentials, configuration, issued_credentials

_LISTED_PROJECT: Final = "shop-prod"
_KNOWN_INSTANCES: Final = 10_000
"""Known instances, of a project that is not listed. The pushes interrupt them, and each counts at once."""
_WARM_UP_SECONDS: Final = 1
_SAMPLE_SECONDS: Final = 0.1
_SCRAPE_SECONDS: Final = 1.0
_AS_PROMETHEUS: Final = {"accept": "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "accept-encoding": "gzip"}


class Phase(NamedTuple):
    """The figures of one phase."""

    name: str
    limit_ms: float
    """The limit of the 99th percentile."""
    results: PushResults
    server_cpu_seconds: float
    peak_rss_mib: float
    end_rss_mib: float


class Scrape(NamedTuple):
    """The duration and the size of one scrape."""

    seconds: float
    series: int


class Report(NamedTuple):
    """The figures of all phases."""

    phases: Sequence[Phase]
    scrapes: Sequence[Scrape]
    errors: Sequence[str]
    """Unexpected answers, and a difference between counted answers and the exposed total."""
    logs: Sequence[dict[str, object]]
    """The exporter's log lines about the listing."""


def main() -> None:
    """Measure, and print a table."""
    options = _options()
    with TemporaryDirectory() as folder:
        _print_report(run(Path(folder), options), options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The latency of pushes at a constant rate.")
    parser.add_argument("--rate", type=int, default=1000, help="pushes per second")
    # The first page of the listing is held during a phase, and the exporter's timeout per page is 90 s.
    parser.add_argument(
        "--seconds", type=float, default=30, help="length of each phase without a listing, 80 at most"
    )
    parser.add_argument("--instances", type=int, default=100_000, help="size of the listed fleet")
    parser.add_argument("--series", type=int, default=5_000, help="minimum of samples in the exposition")
    return parser.parse_args()


def run(directory: Path, options: argparse.Namespace) -> Report:
    """Run the three phases against a new exporter."""
    store = {"url": f"sqlite:///{directory}/store.db"}
    create_instances(store["url"], _KNOWN_INSTANCES)
    fleet = ManyInstances(options.instances)
    with (
        _process(_serve_compute_api, fleet) as api,
        _process(_scrape_repeatedly) as scraper,
        issued_credentials() as credentials,
    ):
        inventory = {"enabled": True, "endpoint": api.recv(), "interval_seconds": 86400}
        configured = configuration(
            directory, credentials, store=store, inventory=inventory, pubsub=ANY_SUBSCRIPTION
        )
        configured["projects"] = [_LISTED_PROJECT]
        with ExporterProcess(directory, credentials, configured=configured) as exporter:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                measurement = _Measurement(exporter, credentials, options)
                phases, scrapes = runner.run(measurement.run(api, scraper))
            errors = measurement.errors()
        logs = [line for line in exporter.logs() if line["message"] in ("fleet listed", "fleet not listed")]
    return Report(phases, scrapes, errors, logs)


class _Measurement:
    """Runs the phases, one after the other."""

    def __init__(
        self, exporter: ExporterProcess, credentials: PushCredentials, options: argparse.Namespace
    ) -> None:
        self._exporter = exporter
        self._options = options
        self._pid = exporter.process.pid
        self._pushes = ConstantRatePushes(int(exporter.url.rpartition(":")[2]), credentials.token)
        self._bodies = (body(number, _KNOWN_INSTANCES) for number in itertools.count(1))
        self._outcomes: Counter[str] = Counter()

    async def run(self, api: Connection, scraper: Connection) -> tuple[Sequence[Phase], Sequence[Scrape]]:
        async with self._pushes.connected():
            # The first pushes are not measured. The first page of the listing is held until `go on`.
            await self._phase("warming up", 0, _wait_seconds(_WARM_UP_SECONDS, lambda _: None))
            alone = await self._timed("alone", 15)
            api.send("go on")
            listing = await self._listing("while the fleet is listed", 50, api)
            _create_series(self._exporter, self._options.series)
            scraper.send(f"http://{self._exporter.metrics_address}/metrics")
            scraped = await self._timed("while /metrics is scraped", 50)
            scraper.send(None)
        return [alone, listing, scraped], scraper.recv()

    def errors(self) -> Sequence[str]:
        """Describe unexpected answers, and a difference between counted answers and the exposed total."""
        found = [
            f"{number} x {outcome}" for outcome, number in self._outcomes.items() if outcome != "counted"
        ]
        shown = self._exporter.interruptions("shop")
        if shown != self._outcomes["counted"]:
            found.append(f"{self._outcomes['counted']} answered as counted, {shown} shown")
        return found

    async def _timed(self, name: str, limit_ms: float) -> Phase:
        seconds = self._options.seconds
        with progress(name, seconds) as update:
            return await self._phase(name, limit_ms, _wait_seconds(seconds, update))

    async def _listing(self, name: str, limit_ms: float, api: Connection) -> Phase:
        ready = f"http://{self._exporter.metrics_address}/readyz"
        with progress(name, self._options.instances) as update:
            async with httpx.AsyncClient(trust_env=False) as client:

                async def listed() -> None:
                    while (await client.get(ready)).status_code != 200:
                        while api.poll():
                            update(api.recv())
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
        results = await self._pushes.run(self._options.rate, self._bodies, until)
        watching.cancel()
        self._outcomes += results.outcomes
        return Phase(name, limit_ms, results, cpu_seconds(self._pid) - cpu, peak, rss_mib(self._pid))


def _wait_seconds(seconds: float, update: Callable[[float], None]) -> Callable[[], Awaitable[None]]:
    async def wait() -> None:
        started = time.monotonic()
        while (passed := time.monotonic() - started) < seconds:
            update(passed)
            await asyncio.sleep(min(_SAMPLE_SECONDS, seconds - passed))

    return wait


def _create_series(exporter: ExporterProcess, series: int) -> None:
    """Create instances of new clusters until the exposition has this many samples."""
    numbers = itertools.count()
    with progress("of the series created", series) as update:
        while (shown := len(exporter.samples())) < series:
            update(shown)
            for number in itertools.islice(numbers, 50):
                outcome = exporter.outcome(insert(f"pool-{number}", cluster=f"cluster-{number}"))
                assert outcome == "tracked", outcome


@contextmanager
def _process(work: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """Run the work in a separate process, which gets "end" over its pipe at the end of the block."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(theirs, *arguments))
    process.start()
    try:
        yield ours
    finally:
        ours.send("end")
        process.join()


def _serve_compute_api(pipe: Connection, fleet: ManyInstances) -> None:
    """Serve the Compute API.

    Sends its URL over the pipe, holds the first page until a message arrives, then sends its progress.
    """
    os.nice(10)
    hold = Hold()
    with ComputeApi() as api:
        api.projects[_LISTED_PROJECT] = fleet
        api.fail(hold)
        pipe.send(api.url)
        if pipe.recv() == "end":
            return
        hold.until.set()
        reported = 0
        while not pipe.poll(_SAMPLE_SECONDS):
            # Send changes only. After the listing nobody reads the pipe any more, and it would fill.
            if (read := len(api.requests) * api.page_size) != reported:
                reported = read
                pipe.send(read)


def _scrape_repeatedly(pipe: Connection) -> None:
    """Scrape the URL from the pipe every second until the next message, at least once. Send all scrapes."""
    url = pipe.recv()
    if url == "end":
        return
    scrapes: list[Scrape] = []
    with httpx.Client(headers=_AS_PROMETHEUS, trust_env=False) as client:
        due = time.monotonic()
        while not scrapes or not pipe.poll(max(due - time.monotonic(), 0)):
            due += _SCRAPE_SECONDS
            started = time.monotonic()
            lines = client.get(url).raise_for_status().text.splitlines()
            series = sum(not line.startswith("#") for line in lines)
            scrapes.append(Scrape(time.monotonic() - started, series))
    pipe.send(scrapes)
    while pipe.recv() != "end":
        pass


def _print_report(report: Report, options: argparse.Namespace) -> None:
    print_line(
        f"{machine()}; {options.rate} pushes/s; {options.instances} instances listed;"
        " milliseconds from the scheduled time of a push"
    )
    columns = ("s", "pushes", "errors", "p50", "p99", "p99.9", "max")
    print_line(f"{'':27}" + "".join(f"{column:>8}" for column in columns) + "  CPU µs  RSS MiB: peak, end")
    for phase in report.phases:
        results = phase.results
        pushes = len(results.latencies_ms)
        latencies = (percentile(results.latencies_ms, share) for share in (0.5, 0.99, 0.999, 1))
        print_line(
            f"{phase.name:27}{results.seconds:8.1f}{pushes:8}{pushes - results.outcomes['counted']:8}"
            + "".join(f"{latency:8.2f}" for latency in latencies)
            + f"{phase.server_cpu_seconds / max(pushes, 1) * 1e6:8.0f}"
            f"  {phase.peak_rss_mib:.1f} {phase.end_rss_mib:.1f}"
        )
    for phase in report.phases:
        p99 = percentile(phase.results.latencies_ms, 0.99)
        late = [percentile(phase.results.late_ms, share) for share in (0.5, 0.99, 0.999)]
        print_line(
            f"{phase.name}: p99 {p99:.1f} ms {at_most(p99, phase.limit_ms)}; the load generator was late by"
            f" {late[0]:.1f} (p50) {late[1]:.1f} (p99) {late[2]:.1f} (p99.9),"
            f" and used {phase.results.cpu_seconds / phase.results.seconds:.0%} of a core"
        )
    durations = [scrape.seconds for scrape in report.scrapes]
    print_line(
        f"{len(durations)} scrapes of at least {min(scrape.series for scrape in report.scrapes)} series:"
        f" median {median(durations) * 1000:.0f} ms, longest {max(durations) * 1000:.0f} ms"
    )
    for line in report.logs:
        print_line(json.dumps(line))
    print_line("; ".join(report.errors) or "every counted answer is in the total once")


if __name__ == "__main__":
    main()
