"""An hour of scrapes by Prometheus 2 and 3, in both formats, while a simulated week is pushed.

`python -m tests.chaos.scraped_hour [--seconds 3600] [--newer PROGRAM]`; needs prometheus. `--newer` is a
Prometheus 3; `python -m tests.support.prometheus_3` builds one. Without it, only the installed version
scrapes. The exporter's clock goes 168 times as fast as the real one, so an hour has the events of a week.
Every push succeeds and no exporter is killed, because here the scrapes are tested.
"""

import argparse
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPConnection
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self, TypeAlias

from app.demo.issuer import IssuerServer
from app.domain.changes import Rules
from app.domain.totals import LIFETIME_BOUNDS, Totals
from app.store.opening import open_store
from tests.simulation.exporter import SharedClock, SimulatedExporter
from tests.simulation.fleet import Event, Fleet, stamp
from tests.simulation.truth import LABELS
from tests.support.compute_api import ComputeApi
from tests.support.entries import preempted, push
from tests.support.exporter import OWN, issuer, subscription, token
from tests.support.output import exit_with, print_line
from tests.support.process import LOOPBACK, eventually
from tests.support.prometheus import Prometheus, Series, Target
from tests.support.prometheus_3 import built_prometheus
from tests.support.samples import Samples, parsed
from tests.support.tap import AnswerHead, Tap

Format: TypeAlias = Literal["text", "openmetrics"]
FORMATS: Final[Sequence[Format]] = ("text", "openmetrics")

SCRAPE_SECONDS: Final = 2.0
SPEED: Final = 168
"""The simulated seconds of a second."""
_STEP_SECONDS: Final = 1.0
_SEED: Final = 7
_MEDIA_TYPES: Final[Mapping[Format, str]] = {
    "text": "text/plain",
    "openmetrics": "application/openmetrics-text",
}
_PROTOCOLS: Final[Mapping[Format, str]] = {
    "text": "PrometheusText0.0.4",
    "openmetrics": "OpenMetricsText1.0.0",
}
_TEXT: Final = "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
"""The `Accept` header of a scraper that does not know OpenMetrics. Prometheus 2.42 has no setting for it."""
_REJECTED: Final = tuple(
    f"prometheus_target_scrapes_sample_{problem}_total"
    for problem in ("out_of_order", "duplicate_timestamp", "out_of_bounds")
)
"""Prometheus' counters of samples that it did not store."""
_PRODUCT: Final = '{__name__=~"interruption_events_total|spot_.+",__name__!~"spot_interruption_exporter_.+"}'
_GAUGES: Final = ("spot_instances", "spot_last_interruption_timestamp_seconds")


class Scraper(NamedTuple):
    """A Prometheus, and the format in which it scrapes."""

    name: str
    program: Path
    format: Format

    @property
    def is_newer(self) -> bool:
        """True if it is Prometheus 3, which can choose the format by its configuration."""
        return self.name.startswith("3")


@dataclass(slots=True)
class Scraped:
    """The scrapes of one Prometheus."""

    scrapes: int = 0
    series: int = 0
    answers: Mapping[AnswerHead, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """The scrapes by the name of their Prometheus, and the pushes."""

    scraped: dict[str, Scraped] = field(default_factory=dict)
    outcomes: Counter[int] = field(default_factory=Counter)
    """The number of pushes by status."""
    errors: list[str] = field(default_factory=list)


def main() -> None:
    """Run the long form, and print the results."""
    options = _options()
    installed = shutil.which("prometheus")
    if installed is None:
        sys.exit("this test needs prometheus: apt-get install prometheus")
    if options.newer is None:
        print_line("without Prometheus 3: build it, or name it by --newer")
    programs = {"2": Path(installed), **({"3": options.newer} if options.newer else {})}
    scrapers = [
        Scraper(f"{version} {format_}", program, format_)
        for version, program in programs.items()
        for format_ in FORMATS
    ]
    with TemporaryDirectory() as folder:
        report = run(Path(folder), scrapers, seconds=options.seconds, log=print_line)
    print_line(f"{options.seconds:g} s; pushes by status: {dict(report.outcomes)}")
    for name, scraped in report.scraped.items():
        print_line(f"Prometheus {name}: {scraped.scrapes} scrapes, {scraped.series} series at the end")
        for answer, times in scraped.answers.items():
            print_line(f"    {times} x {answer.status} {answer.content_type}, {answer.content_encoding}")
    exit_with(report.errors)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="An hour of scrapes by real Prometheus servers.")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument(
        "--newer", type=Path, default=built_prometheus(), metavar="PROGRAM", help="a Prometheus 3"
    )
    return parser.parse_args()


def run(
    directory: Path,
    scrapers: Sequence[Scraper],
    *,
    seconds: float,
    log: Callable[[str], None] = lambda _: None,
) -> Report:
    """Push the simulated events for this time while each of them scrapes, and compare the results."""
    report = Report()
    begins = float(int(time.time())) - seconds * SPEED
    fleet = Fleet(_SEED, begins, seconds * SPEED)
    store = f"sqlite:///{directory / 'store.db'}"
    with ExitStack() as stack:
        exporter = stack.enter_context(_PushedExporter(directory, store, fleet))
        running = {
            scraper.name: stack.enter_context(_Running(directory, scraper, exporter.metrics_port))
            for scraper in scrapers
        }
        for scraping in running.values():
            scraping.prometheus.wait_for_scrapes()
        _push_at_speed(exporter, seconds, log)
        report.outcomes = exporter.outcomes
        shown = exporter.shown()
        for name, scraping in running.items():
            scraping.prometheus.wait_for_scrapes(2)
            report.scraped[name] = scraped = scraping.examine(shown)
            report.errors += [f"Prometheus {name}: {error}" for error in scraped.errors]
        exporter.stop()
    product = {sample: value for sample, value in shown.items() if not sample[0].startswith(OWN)}
    report.errors += [f"the store: {error}" for error in _differences(product, _stored(store))]
    return report


def _push_at_speed(exporter: "_PushedExporter", seconds: float, log: Callable[[str], None]) -> None:
    """Push in steps of the real time. The simulated time of a step is the same also if a step is late."""
    steps = round(seconds / _STEP_SECONDS)
    due = time.monotonic()
    for step in range(1, steps + 1):
        exporter.advance(step * _STEP_SECONDS * SPEED)
        if step % (steps // 10 or 1) == 0:
            log(f"{step * _STEP_SECONDS:.0f} s of {seconds:.0f} s, {exporter.outcomes.total()} pushes")
        due = max(due + _STEP_SECONDS, time.monotonic())
        time.sleep(max(due - time.monotonic(), 0))


class _PushedExporter:
    """An exporter, its Compute API, and the pushes of the fleet."""

    def __init__(self, directory: Path, store: str, fleet: Fleet) -> None:
        self.outcomes: Counter[int] = Counter()
        self._directory = directory
        self._store = store
        self._fleet = fleet
        self._events = deque(fleet.events)
        self._clock = SharedClock(fleet.begins)
        expires_at = int(time.time() + fleet.seconds)
        self._valid_token = token(exp=expires_at)
        self._forged_token = token(audience="https://elsewhere.example.com", exp=expires_at)
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as running:
            api = running.enter_context(ComputeApi())
            api.projects = dict(self._fleet.listed(self._fleet.begins))
            certificates = running.enter_context(IssuerServer(issuer()))
            settings = {
                "projects": self._fleet.projects,
                "inventory.endpoint": api.url,
                "inventory.interval_seconds": 86400,
                "pubsub.certs_url": certificates.url,
                "store.url": self._store,
            }
            self._exporter = SimulatedExporter(self._directory, settings, self._clock)
            self._exporter.start()
            running.callback(self._exporter.stop)
            push_port, self.metrics_port = self._exporter.ports
            self._connection = HTTPConnection(LOOPBACK, push_port)
            running.callback(self._connection.close)
            eventually(self._is_listed, within=60, what="the fleet is listed")
            # A pending interruption requests a listing. It must not end between the last scrapes, so it
            # fails now, and the next one is due in an hour.
            api.projects = {}
            for project in self._fleet.projects:
                self._push(_stranger(project, self._fleet.begins))
            eventually(self._has_failed, within=60, what="the requested listings have failed")
            self._running = running.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def stop(self) -> None:
        """Stop the exporter."""
        self._exporter.stop()

    def advance(self, seconds: float) -> None:
        """Push what happens until that many simulated seconds from the beginning."""
        until = self._fleet.begins + seconds
        while self._events and self._events[0].at <= until:
            event = self._events.popleft()
            self._clock.set(event.at)
            self._push(event)
        self._clock.set(until)
        self._exporter.begin_periodic_work()
        self._exporter.end_periodic_work()

    def shown(self) -> Samples:
        """Return the samples of a scrape, without those of the process and of Python."""
        body = self._exporter.client.get(f"{self._exporter.metrics_url}/metrics").text
        samples = _with_float_bounds(parsed(body))
        return {
            sample: value
            for sample, value in samples.items()
            if not sample[0].startswith(("process_", "python_"))
        }

    def _push(self, event: Event) -> None:
        body = push(event.entry, message_id=event.message_id, subscription=subscription(event.endpoint))
        authorization = {"authorization": self._forged_token if event.forged else self._valid_token}
        self._connection.request("POST", f"/events/{event.endpoint}", body, authorization)
        response = self._connection.getresponse()
        answer = response.read()
        self.outcomes[response.status] += 1
        expected = HTTPStatus.UNAUTHORIZED if event.forged else HTTPStatus.OK
        assert response.status == expected, answer

    def _is_listed(self) -> bool:
        name = f"{OWN}_inventory_last_success_timestamp_seconds"
        return self._sum(name) == len(self._fleet.projects) * self._fleet.begins

    def _has_failed(self) -> bool:
        return self._sum(f"{OWN}_inventory_failures_total") == len(self._fleet.projects)

    def _sum(self, metric: str) -> float:
        return sum(value for (name, _), value in self.shown().items() if name == metric)


def _stranger(project: str, at: float) -> Event:
    """Return the interruption of an unknown instance."""
    entry = preempted("stranger", project=project, zone="europe-west1-b", timestamp=stamp(at))
    return Event(at, "interruption", entry)


class _Running:
    """A Prometheus that scrapes through a tap."""

    def __init__(self, directory: Path, scraper: Scraper, port: int) -> None:
        folder = directory / scraper.name.replace(" ", "-")
        folder.mkdir()
        by_header = scraper.format == "text" and not scraper.is_newer
        self._tap = Tap(port, accept=_TEXT if by_header else None)
        self._format = scraper.format
        self._began = time.time()
        self.prometheus = Prometheus(
            folder,
            [Target(f"{LOOPBACK}:{self._tap.port}")],
            scrape_interval=SCRAPE_SECONDS,
            program=scraper.program,
            scraping={"scrape_protocols": [_PROTOCOLS[scraper.format]]} if scraper.is_newer else None,
        )
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._tap)
            stack.enter_context(self.prometheus)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def examine(self, shown: Samples) -> Scraped:
        """Compare its last scrape with the samples that the exporter shows now, and look for failures."""
        seconds = time.time() - self._began
        [up] = self.prometheus.raw("up", seconds)
        series = self.prometheus.raw(_PRODUCT, seconds)
        stored = self._last_samples(up.samples[-1][0])
        scraped = Scraped(len(up.samples), len(stored), dict(self._tap.answers))
        scraped.errors += _differences(stored, shown)
        scraped.errors += [f"a scrape failed at {at:.3f}" for at, succeeded in up.samples if not succeeded]
        scraped.errors += [
            f"an answer was {answer}, {times} times"
            for answer, times in scraped.answers.items()
            if not self._is_expected(answer)
        ]
        scraped.errors += _faults(series, up)
        own = self.prometheus.own_samples()
        rejected = {name: own[name, frozenset()] for name in _REJECTED}
        scraped.errors += [f"{name} is {number:g}" for name, number in rejected.items() if number]
        scraped.errors += [line for line in self.prometheus.log().splitlines() if _is_warning(line)]
        return scraped

    def _is_expected(self, answer: AnswerHead) -> bool:
        media_type = answer.content_type.partition(";")[0]
        expected = ("200", _MEDIA_TYPES[self._format], "gzip")
        return (answer.status, media_type, answer.content_encoding) == expected

    def _last_samples(self, at: float) -> Samples:
        """Return the exporter's samples of a scrape."""
        ignored = {"__name__", "job", "instance"}
        selector = '{job="exporter", __name__!~"up|scrape_.+|process_.+|python_.+"}'
        return _with_float_bounds(
            {
                (
                    one.labels["__name__"],
                    frozenset((k, v) for k, v in one.labels.items() if k not in ignored),
                ): (one.value)
                for one in self.prometheus.query(selector, at)
            }
        )


def _is_warning(line: str) -> bool:
    return "level=warn" in line.lower() or "level=error" in line.lower()


def _faults(series: Sequence[Series], up: Series) -> Iterator[str]:
    """Yield a line for each counter that goes down, and for each series that misses a scrape."""
    times = [at for at, _ in up.samples]
    for one in series:
        name = one.labels["__name__"]
        first = one.samples[0][0]
        if [at for at, _ in one.samples if at <= times[-1]] != [at for at in times if at >= first]:
            yield f"{one.labels} has {len(one.samples)} samples since {first:.3f}"
        if name not in _GAUGES and any(later < before for (_, before), (_, later) in pairwise(one.samples)):
            yield f"{one.labels} went down"


def _stored(url: str) -> Samples:
    """Return the samples that the totals of the store make."""
    opened = open_store(url, Rules())
    try:
        return dict(_samples(opened.store.state().totals))
    finally:
        opened.store.close()


def _samples(totals: Totals) -> Iterator[tuple[tuple[str, frozenset[tuple[str, str]]], float]]:
    for labels, row in totals.label_sets.items():
        six = frozenset(zip(LABELS, labels, strict=True))
        yield ("spot_interruptions_total", six), row.interruptions
        yield ("spot_instances_created_total", six), row.created
        yield ("spot_instance_creations_failed_total", six), row.failed
        yield ("spot_instances", six), row.instances
        yield ("spot_instance_seconds_total", six), row.instance_seconds
    for name, cluster in totals.clusters.items():
        by_cluster = frozenset({("kubernetes_cluster", name)})
        yield ("interruption_events_total", by_cluster), cluster.interruptions
        if cluster.last_interruption_at is not None:
            yield ("spot_last_interruption_timestamp_seconds", by_cluster), cluster.last_interruption_at
    for (name, machine_type), lifetime in totals.lifetimes.items():
        both = frozenset({("kubernetes_cluster", name), ("machine_type", machine_type)})
        bounds = [*(f"{bound:g}" for bound in LIFETIME_BOUNDS), "inf"]
        for bound, count in zip(bounds, accumulate(lifetime.buckets), strict=True):
            yield ("spot_instance_lifetime_seconds_bucket", both | {("le", bound)}), count
        yield ("spot_instance_lifetime_seconds_count", both), sum(lifetime.buckets)
        yield ("spot_instance_lifetime_seconds_sum", both), lifetime.sum


def _with_float_bounds(samples: Samples) -> Samples:
    """Return the samples with each bucket's bound written in one way."""
    return {
        (
            name,
            frozenset((label, f"{float(value):g}" if label == "le" else value) for label, value in labels),
        ): (number)
        for (name, labels), number in samples.items()
    }


def _differences(found: Samples, expected: Samples) -> Iterator[str]:
    """Yield a line for each sample that differs; a sample of `expected` must be there."""
    for sample in expected.keys() | found.keys():
        if found.get(sample) != expected.get(sample):
            name, labels = sample
            yield f"{name}{dict(sorted(labels))}: {found.get(sample)} instead of {expected.get(sample)}"


if __name__ == "__main__":
    main()
