"""A week of the simulated fleet, processed by a real exporter in seconds and stored in a real Prometheus.

The exporter's clock is set to a week ago and advanced in steps. In each step the exporter gets the fleet's
pushes, runs its periodic work and is scraped. The scrapes become blocks in Prometheus' data directory. Then
the exporter uses the real clock and Prometheus scrapes it, so the series continue until the present.
"""

import re
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import httpx
from prometheus_client.utils import floatToGoString

from tests.simulation.fleet import DAY, Event, Fleet
from tests.simulation.truth import HOUR
from tests.support.clock import Clock
from tests.support.compute_api import FORBIDDEN, ComputeApi
from tests.support.entries import push
from tests.support.exporter import OWN, Exporter, subscription, token
from tests.support.memory import MEMORY
from tests.support.process import LOOPBACK, eventually
from tests.support.prometheus import Prometheus, Target, backfill
from tests.support.requirement import require

LABELS: Final = {"job": "spot-interruption-exporter", "instance": "spot-interruption-exporter-0"}
"""The target's labels, in the backfilled blocks and in Prometheus' own scrapes."""
SECONDS: Final = 7 * DAY
STEP_SECONDS: Final = 288
"""Less than the 5 minutes after which Prometheus treats a series as ended."""

_SEED: Final = 7
_LEAD_IN_SECONDS: Final = 6 * HOUR
"""The simulated time before the week begins."""
_LAST_SECONDS, _LAST_STEP_SECONDS = 7200, 60
"""The steps at the end are shorter, because rates over minutes need more samples."""
_CONNECTIONS: Final = 8
_BATCH_SECONDS: Final = 1.0
"""Events within this time are pushed together."""
_SCRAPE_SECONDS: Final = 2


class Week:
    """A simulated week, available during a `with` block. All files except the store are in `directory`."""

    exporter: Exporter
    """The exporter after the week; it uses the real clock."""
    prometheus: Prometheus
    """The Prometheus server that scrapes the exporter and evaluates the rules."""

    def __init__(self, directory: Path, *, rules: Sequence[Path] = ()) -> None:
        self.ends = float(int(time.time()))
        """The end of the simulated time, up to which the ground truth is known."""
        self.begins = self.ends - SECONDS
        self.fleet = Fleet(_SEED, self.begins - _LEAD_IN_SECONDS, SECONDS + _LEAD_IN_SECONDS)
        self.truth = self.fleet.truth
        self._directory = directory
        self._rules = rules
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as running:
            past = running.enter_context(closing(_PastScrapes(self._directory)))
            clock = Clock(self.fleet.begins)
            api = running.enter_context(ComputeApi())
            store = Path(running.enter_context(TemporaryDirectory(dir=MEMORY))) / "store.db"
            settings = {
                "projects": self.fleet.projects,
                "inventory.endpoint": api.url,
                "store.url": f"sqlite:///{store}",
            }
            self.exporter = Exporter(
                self._directory, settings, two_listeners=True, clock=clock, shortest_pause_seconds=HOUR
            )
            running.callback(self.exporter.stop)
            driver = running.enter_context(closing(_Driver(self.exporter, api, self.fleet)))
            self._simulate(clock, driver, past)
            past.write_blocks()
            address = urlsplit(self.exporter.metrics_url).netloc
            self.prometheus = running.enter_context(
                Prometheus(
                    self._directory,
                    [Target(address, LABELS)],
                    scrape_interval=_SCRAPE_SECONDS,
                    rules=[self._with_short_interval(path) for path in self._rules],
                )
            )
            self.prometheus.wait_for_scrapes()
            eventually(self._is_evaluated, within=30, what="all rules were evaluated")
            self._running = running.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def _with_short_interval(self, rules: Path) -> Path:
        """Copy the rules with the scrape interval, because their own interval delays results by minutes."""
        path = self._directory / rules.name
        path.write_text(re.sub(r"(?m)^( +interval:).*$", rf"\1 {_SCRAPE_SECONDS}s", rules.read_text()))
        return path

    def _is_evaluated(self) -> bool:
        answer = httpx.get(f"{self.prometheus.url}/api/v1/rules", trust_env=False, timeout=60).json()
        return not any(group["lastEvaluation"].startswith("0001-") for group in answer["data"]["groups"])

    def _simulate(self, clock: Clock, driver: "_Driver", past: "_PastScrapes") -> None:
        """Run through the simulated time, then switch to the real clock."""
        starts, events = deque(self.fleet.rescalings), deque(self.fleet.events)
        driver.start(self.fleet.begins)
        for at in _steps(self.fleet.begins, self.ends):
            while events and events[0].at <= at:
                batch = _next_batch(events, at)
                clock.at = batch[-1].at
                driver.push(batch)
            clock.at = at
            driver.run_periodic_work()
            past.add(driver.scrape(), at)
            if starts and starts[0] <= at:
                starts.popleft()
                driver.start(at)
        driver.set_listing(self.ends)
        clock.at = None


def _steps(begins: float, ends: float) -> Iterator[float]:
    """Yield the end of each step, at which the exporter is scraped. The week's beginning is such a time."""
    last = ends - _LAST_SECONDS
    whole = int((last - begins) // STEP_SECONDS)
    yield from (last - STEP_SECONDS * number for number in range(whole, 0, -1))
    yield from (last + _LAST_STEP_SECONDS * number for number in range(_LAST_SECONDS // _LAST_STEP_SECONDS))
    yield ends


def _next_batch(events: deque[Event], until: float) -> list[Event]:
    """Remove and return the next events that are pushed at nearly the same time."""
    until = min(until, events[0].at + _BATCH_SECONDS)
    batch: list[Event] = []
    while events and events[0].at <= until and len(batch) < _CONNECTIONS:
        batch.append(events.popleft())
    return batch


class _Driver:
    """Drives the exporter through a step, over its own connections."""

    def __init__(self, exporter: Exporter, api: ComputeApi, fleet: Fleet) -> None:
        self._exporter = exporter
        self._api = api
        self._fleet = fleet
        self._connections: Sequence[HTTPConnection] = ()
        self._valid_token = token()
        self._forged_token = token(audience="https://elsewhere.example.com")

    def start(self, at: float) -> None:
        """Start or restart the exporter, like a new release, and wait for its listing."""
        self.close()
        self.set_listing(at)
        self._exporter.stop()
        self._exporter.start()
        port, metrics_port = self._exporter.ports
        self._pushes = [HTTPConnection(LOOPBACK, port) for _ in range(_CONNECTIONS)]
        self._metrics = HTTPConnection(LOOPBACK, metrics_port)
        self._connections = [*self._pushes, self._metrics]
        eventually(lambda: self._is_listed(at), within=30, what="the fleet is listed")
        # A pending interruption would cause a listing, which takes a second: hours of the simulated time.
        for project in self._fleet.projects:
            self._api.fail(FORBIDDEN, project=project)

    def set_listing(self, at: float) -> None:
        """Let listings return the fleet at this time."""
        self._api.recover()
        self._api.projects = dict(self._fleet.listed(at))

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()

    def push(self, events: Sequence[Event]) -> None:
        """Push the events together, each over its own connection."""
        pairs = list(zip(self._pushes, events, strict=False))
        for connection, event in pairs:
            body = push(event.entry, message_id=event.message_id, subscription=subscription(event.endpoint))
            authorization = {"authorization": self._forged_token if event.forged else self._valid_token}
            connection.request("POST", f"/events/{event.endpoint}", body, authorization)
        for connection, event in pairs:
            response = connection.getresponse()
            answer = response.read()
            expected = HTTPStatus.UNAUTHORIZED if event.forged else HTTPStatus.OK
            assert response.status == expected, answer

    def run_periodic_work(self) -> None:
        """Run the exporter's periodic work once."""
        recorder, metrics = self._exporter.parts.recorder, self._exporter.parts.metrics

        async def work() -> None:
            if metrics.pending:
                await recorder.perform(lambda store, now: store.expire(now))
            await recorder.perform(lambda store, now: store.accrue_instance_seconds(now))

        self._exporter.perform(work()).result()

    def scrape(self) -> str:
        """Scrape the exporter. Sample lines are the same in both of Prometheus' formats."""
        self._metrics.request("GET", "/metrics")
        return self._metrics.getresponse().read().decode()

    def _is_listed(self, at: float) -> bool:
        name, value = f"{OWN}_inventory_last_success_timestamp_seconds", floatToGoString(at)
        scraped = self.scrape()
        return all(f'{name}{{project="{project}"}} {value}\n' in scraped for project in self._fleet.projects)


class _PastScrapes:
    """Scrapes of the simulated time, which become blocks of Prometheus' data.

    https://prometheus.io/docs/prometheus/latest/storage/#backfilling-from-openmetrics-format
    """

    def __init__(self, directory: Path) -> None:
        require("promtool", shutil.which("promtool"))
        self._directory = directory
        self._path = directory / "scrapes.txt"
        self._file = self._path.open("w")
        self._series: dict[str, str] = {}
        self._target = ",".join(f'{name}="{value}"' for name, value in LABELS.items())

    def add(self, exposition: str, at: float) -> None:
        """Add a scrape, without the metrics of the process and of Python."""
        lines = [f"up{{{self._target}}} 1 {at}\n"]
        for line in exposition.splitlines():
            if not line.startswith(("#", "process_", "python_")):
                series, _, value = line.rpartition(" ")
                lines.append(f"{self._labelled(series)} {value} {at}\n")
        self._file.writelines(lines)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def write_blocks(self) -> None:
        """Close the file, and convert it to blocks."""
        self._file.write("# EOF\n")
        self.close()
        backfill(self._path, self._directory)
        self._path.unlink()

    def _labelled(self, series: str) -> str:
        """Return the series with the target's labels, as a scrape adds them."""
        labelled = self._series.get(series)
        if labelled is None:
            name, _, labels = series.rstrip("}").partition("{")
            labelled = f"{name}{{{','.join(filter(None, (self._target, labels)))}}}"
            self._series[series] = labelled
        return labelled
