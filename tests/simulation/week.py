"""A week of the simulated fleet, processed by real exporters in seconds and stored in a real Prometheus.

One exporter has a SQLite file, or two replicas share a Redis. Their clock is set to a week ago and advanced
in steps. In each step they get the fleet's pushes, run their periodic work and are scraped. They are killed
several times while they get pushes, and once the fleet cannot be listed for two hours. They are moved to
other nodes several times: SIGTERM, pushes while they drain, and scrapes while they linger. Each day they
read the operations. A managed collector gets the same scrapes. The scrapes become blocks in Prometheus' data
directory. Then the exporters use the real clock and Prometheus scrapes them, so the series continue until
the present.
"""

import re
import shutil
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final, Literal, Self, TypeAlias

import httpx
from prometheus_client.utils import floatToGoString

from app.demo.issuer import IssuerServer
from tests.simulation.exporter import SharedClock, SimulatedExporter
from tests.simulation.fleet import DAY, Event, Fleet
from tests.simulation.truth import HOUR
from tests.support.collector import ManagedCollector
from tests.support.compute_api import FORBIDDEN, ComputeApi, Hold
from tests.support.entries import push
from tests.support.exporter import OWN, issuer, subscription, token
from tests.support.memory import MEMORY
from tests.support.process import LOOPBACK, NO_AUTHORITIES, eventually
from tests.support.prometheus import Prometheus, Target, backfill
from tests.support.redis import RedisServer, key
from tests.support.requirement import require
from tests.support.warm_python import COMPUTE, warm_python

SECONDS: Final = 7 * DAY
STEP_SECONDS: Final = 288
"""Less than the 5 minutes after which Prometheus treats a series as ended."""

HOLD_SECONDS: Final = 2 * STEP_SECONDS
"""Two scrapes, as in the shipped manifests. The replicas with the Redis do not hold."""

MOVES: Final = 5
"""The exporters move at each rescaling of the fleet, and in the steps with most interruptions."""

KILLS: Final = 5
"""The fleet cannot be listed between the second kill and the third, which are two hours apart."""

_SEED: Final = 7
_LEAD_IN_SECONDS: Final = 6 * HOUR
"""The simulated time before the week begins."""
_LAST_SECONDS, _LAST_STEP_SECONDS = 7200, 60
"""The steps at the end are shorter, because rates over minutes need more samples."""
_STEPS_PER_READING: Final = 300
_STEPS_WITHOUT_LISTING: Final = 25
_CONNECTIONS: Final = 8
"""The number of connections to each replica."""
_BATCH_SECONDS: Final = 1.0
"""Events within this time are pushed together."""
_SCRAPE_SECONDS: Final = 2
_LINGER_SCRAPES, _LINGER_SCRAPE_SECONDS = 2, 30
"""The scrapes during the linger period of the shipped manifests."""
_APART: Final = 5
"""The number of steps between a move and another move, a kill or a reading."""


StoreKind: TypeAlias = Literal["sqlite", "redis"]


class Week:
    """A simulated week, available during a `with` block. All files except the store are in `directory`."""

    exporter: SimulatedExporter
    """The exporter after the week, or one of the replicas; it uses the real clock."""
    prometheus: Prometheus
    """The Prometheus server that scrapes the exporters and evaluates the rules."""
    collector: ManagedCollector
    """A collector of the first exporter, which is replaced at each move."""
    collector_new_after_kills: ManagedCollector
    """The same, and it is replaced after each kill too."""
    unscraped: Sequence[tuple[float, float]]
    """The last scrape before each kill, and the time of the kill."""

    def __init__(self, directory: Path, *, store: StoreKind = "sqlite", rules: Sequence[Path] = ()) -> None:
        """`redis`: two replicas; otherwise one exporter."""
        self.ends = float(int(time.time()))
        """The end of the simulated time, up to which the ground truth is known."""
        self.begins = self.ends - SECONDS
        begins = self.begins - _LEAD_IN_SECONDS
        self._steps = list(_steps(begins, self.ends))
        long_steps = self._steps[: -_LAST_SECONDS // _LAST_STEP_SECONDS]
        readings = long_steps[_STEPS_PER_READING::_STEPS_PER_READING]
        self.fleet = Fleet(_SEED, begins, self.ends - begins, readings)
        self.truth = self.fleet.truth
        self.kills = _kills(len(readings), self._steps)
        """The last scrapes before the exporters are killed."""
        self.moves = _moves(self.fleet, self._steps, self.kills)
        """The last scrapes before the exporters are moved."""
        self.restarts = sum(at >= self.begins for at in (*self.moves, *self.kills))
        self._directory = directory
        self._store = store
        self._rules = rules
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as running:
            clock = SharedClock(self.fleet.begins)
            driver = running.enter_context(_Driver(self._directory, self._store, self.fleet, clock))
            self._simulate(clock, driver)
            driver.write_blocks()
            self.exporter = driver.exporters[0]
            self.collector, self.collector_new_after_kills = (
                driver.collector,
                driver.collector_new_after_kills,
            )
            self.unscraped = driver.unscraped
            self.prometheus = running.enter_context(
                Prometheus(
                    self._directory,
                    driver.targets,
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
        url = f"{self.prometheus.url}/api/v1/rules"
        answer = httpx.get(url, trust_env=False, timeout=60, verify=NO_AUTHORITIES).json()
        return not any(group["lastEvaluation"].startswith("0001-") for group in answer["data"]["groups"])

    def _simulate(self, clock: SharedClock, driver: "_Driver") -> None:
        """Run through the simulated time, then switch to the real clock."""
        readings, events = deque(self.fleet.readings), deque(self.fleet.events)
        kills, moves = deque(self.kills), deque(self.moves)
        driver.start(self.fleet.begins)
        for at in self._steps:
            while events and events[0].at <= at:
                batch = _next_batch(events, at)
                clock.set(max(clock(), batch[-1].at))
                if moves and moves[0] < at:
                    moves.popleft()
                    driver.move(batch)
                    continue
                if kills and kills[0] < at:
                    kills.popleft()
                    driver.kill(batch)
                    driver.start(clock(), listable=len(kills) != KILLS - 2)
                driver.push(batch)
            if clock() >= at:
                continue  # a move has taken longer than the step, and was scraped
            clock.set(at)
            if readings and readings[0] == at:
                readings.popleft()
                driver.read_operations(at)
            driver.run_periodic_work()
            if at == self.begins:
                driver.begin_collecting()
            driver.scrape(at)
        clock.set(None)


def _steps(begins: float, ends: float) -> Iterator[float]:
    """Yield the end of each step, at which the exporter is scraped. The week's beginning is such a time."""
    last = ends - _LAST_SECONDS
    whole = int((last - begins) // STEP_SECONDS)
    yield from (last - STEP_SECONDS * number for number in range(whole, 0, -1))
    yield from (last + _LAST_STEP_SECONDS * number for number in range(_LAST_SECONDS // _LAST_STEP_SECONDS))
    yield ends


def _kills(readings: int, steps: Sequence[float]) -> Sequence[float]:
    """Return random times, each well apart from the readings."""
    random = Random(_SEED)  # noqa: S311  # no secret
    chosen = sorted(random.sample(range(readings), KILLS - 1))
    indexes = [number * _STEPS_PER_READING + random.randrange(10, 250) for number in chosen]
    indexes.insert(2, indexes[1] + _STEPS_WITHOUT_LISTING)
    return [steps[index] for index in indexes]


def _moves(fleet: Fleet, steps: Sequence[float], kills: Sequence[float]) -> Sequence[float]:
    """Return the first steps after the rescalings, and the steps before most interruptions are pushed."""
    interruptions = Counter(
        bisect_left(steps, event.at) - 1 for event in fleet.events if event.endpoint == "interruption"
    )
    chosen = [bisect_left(steps, rescaling) for rescaling in fleet.rescalings]
    _, unlistable, listable, *_ = (steps.index(kill) for kill in kills)
    others = [
        *(steps.index(at) for at in (*kills, *fleet.readings)),
        *range(unlistable, listable),
        *range(bisect_left(steps, fleet.begins + _LEAD_IN_SECONDS)),
    ]
    for index, _ in interruptions.most_common():
        if len(chosen) < MOVES and all(abs(index - other) > _APART for other in (*chosen, *others)):
            chosen.append(index)
    return sorted(steps[index] for index in chosen)


def _next_batch(events: deque[Event], until: float) -> list[Event]:
    """Remove and return the next events that are pushed at nearly the same time."""
    until = min(until, events[0].at + _BATCH_SECONDS)
    batch: list[Event] = []
    while events and events[0].at <= until and len(batch) < _CONNECTIONS:
        batch.append(events.popleft())
    return batch


class _Driver:
    """Runs the exporters, their store and the Compute API, and drives them through a step."""

    def __init__(self, directory: Path, store: StoreKind, fleet: Fleet, clock: SharedClock) -> None:
        self._fleet = fleet
        self._directory = directory
        self._clock = clock
        self._names = [
            f"spot-interruption-exporter-{number}" for number in range(2 if store == "redis" else 1)
        ]
        self._redis = RedisServer(directory / "redis") if store == "redis" else None
        self._connections: Sequence[HTTPConnection] = ()
        self.collector, self.collector_new_after_kills = ManagedCollector(), ManagedCollector()
        self.unscraped: list[tuple[float, float]] = []
        self._scraped_at = fleet.begins
        self._reading = Hold()
        """Holds the answers to the requests of the next reading."""
        self._valid_token = token()
        self._forged_token = token(audience="https://elsewhere.example.com")

    def __enter__(self) -> Self:
        with ExitStack() as running:
            self._past = {
                name: running.enter_context(closing(_PastScrapes(self._directory, name)))
                for name in self._names
            }
            self._api = running.enter_context(ComputeApi())
            certificates = running.enter_context(IssuerServer(issuer()))
            python = running.enter_context(warm_python(*COMPUTE))
            settings = {
                "projects": self._fleet.projects,
                "inventory.endpoint": self._api.url,
                "recovery.enabled": True,
                "recovery.interval_seconds": 0.05,
                "pubsub.certs_url": certificates.url,
                # Signals end both, after the scrapes that the shipped seconds allow.
                "server.drain_seconds": HOUR,
                "prometheus.linger_seconds": HOUR,
            }
            if self._redis is not None:
                running.enter_context(self._redis)
                settings["store.url"] = self._redis.url
            else:
                folder = running.enter_context(TemporaryDirectory(dir=MEMORY))
                settings["store.url"] = f"sqlite:///{folder}/store.db"
                settings["prometheus.hold_seconds"] = HOLD_SECONDS
            self.exporters = [
                SimulatedExporter(
                    self._directory, {**settings, "store.replica": name}, self._clock, python=python
                )
                for name in self._names
            ]
            running.callback(self.stop)
            self._running = running.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    @property
    def targets(self) -> Sequence[Target]:
        """The targets of Prometheus. Its own scrapes have the labels of the backfilled blocks."""
        return [
            Target(exporter.metrics_url.removeprefix("http://"), _labels(name))
            for name, exporter in zip(self._names, self.exporters, strict=True)
        ]

    def start(self, at: float, *, listable: bool = True) -> None:
        """Start the exporters and wait for their listing, which fails if the fleet is not listable."""
        self._reading = Hold()
        self._set_api(at, listable=listable)
        requests = len(self._api.requests)
        for exporter in self.exporters:
            exporter.start()
        self._pushes = [
            HTTPConnection(LOOPBACK, exporter.ports[0])
            for _ in range(_CONNECTIONS)
            for exporter in self.exporters
        ]
        self._metrics = [HTTPConnection(LOOPBACK, exporter.ports[1]) for exporter in self.exporters]
        self._connections = [*self._pushes, *self._metrics]
        if listable:
            self._wait_until_shown("inventory_last_success_timestamp_seconds", at)
        else:
            # The counter of failures is held.
            eventually(lambda: self._listed(requests), within=60, what="each listing was refused")
        # A pending interruption requests a listing, and the answer would be of the past.
        self._set_api(at, listable=False)

    def stop(self) -> None:
        """Stop the exporters at once."""
        self._close_connections()
        for exporter in self.exporters:
            exporter.stop()

    def move(self, events: Sequence[Event]) -> None:
        """Move the exporters to other nodes by SIGTERM; push the events while the old processes drain."""
        for exporter in self.exporters:
            exporter.begin_drain()
        self.push(events)
        for exporter in self.exporters:
            exporter.begin_linger()
        for _ in range(_LINGER_SCRAPES):
            self._clock.set(self._clock() + _LINGER_SCRAPE_SECONDS)
            self.scrape(self._clock())
        self._close_connections()
        for exporter in self.exporters:
            exporter.end_linger()
        self.collector.replace()
        self.collector_new_after_kills.replace()
        self.start(self._clock())

    def kill(self, events: Sequence[Event]) -> None:
        """Push the events together, and kill the exporters before they answer."""
        self._send(events)
        for exporter in self.exporters:
            exporter.kill()
        self._close_connections()
        self.collector_new_after_kills.replace()
        self.unscraped.append((self._scraped_at, self._clock()))
        if self._redis is not None:
            self._redis.client.delete(key("lease"))  # it would end after 15 s

    def push(self, events: Sequence[Event]) -> None:
        """Push the events together, each over its own connection."""
        for connection, event in self._send(events):
            response = connection.getresponse()
            answer = response.read()
            expected = HTTPStatus.UNAUTHORIZED if event.forged else HTTPStatus.OK
            assert response.status == expected, answer

    def read_operations(self, at: float) -> None:
        """Let the exporter read the operations of all projects."""
        reading, self._reading = self._reading, Hold()
        self._set_api(at, listable=False, readable=True)
        reading.until.set()
        self._wait_until_shown("recovery_last_success_timestamp_seconds", at)
        self._set_api(at, listable=False)

    def run_periodic_work(self) -> None:
        """Run the periodic work of each exporter once."""
        for exporter in self.exporters:
            exporter.begin_periodic_work()
        for exporter in self.exporters:
            exporter.end_periodic_work()

    def scrape(self, at: float) -> None:
        """Scrape the exporters."""
        expositions = self._scrape()
        for name, exposition in zip(self._names, expositions, strict=True):
            self._past[name].add(exposition, at)
        self.collector.scrape(expositions[0])
        self.collector_new_after_kills.scrape(expositions[0])
        self._scraped_at = at

    def begin_collecting(self) -> None:
        """Let the next scrape be the first of new managed collectors."""
        self.collector, self.collector_new_after_kills = ManagedCollector(), ManagedCollector()

    def write_blocks(self) -> None:
        """Convert all scrapes to blocks."""
        for past in self._past.values():
            past.write_blocks()

    def _set_api(self, at: float, *, listable: bool, readable: bool = False) -> None:
        """Let listings return the fleet at this time, or fail; hold the readings, or let them end."""
        self._api.projects = dict(self._fleet.listed(at))
        self._api.operations = dict(self._fleet.operations(at))
        self._api.recover()
        if not listable:
            self._api.fail(FORBIDDEN, times=1000)
        for project in () if readable else self._fleet.projects:
            self._api.fail(self._reading, times=1000, project=project, of="operations")

    def _close_connections(self) -> None:
        for connection in self._connections:
            connection.close()

    def _send(self, events: Sequence[Event]) -> Sequence[tuple[HTTPConnection, Event]]:
        pairs = list(zip(self._pushes, events, strict=False))
        for connection, event in pairs:
            body = push(event.entry, message_id=event.message_id, subscription=subscription(event.endpoint))
            authorization = {"authorization": self._forged_token if event.forged else self._valid_token}
            connection.request("POST", f"/events/{event.endpoint}", body, authorization)
        return pairs

    def _scrape(self) -> Sequence[str]:
        """Scrape the exporters. Sample lines are the same in both of Prometheus' formats."""
        for connection in self._metrics:
            connection.request("GET", "/metrics")
        return [connection.getresponse().read().decode() for connection in self._metrics]

    def _listed(self, answered: int) -> bool:
        """Return whether all projects were listed after this number of requests."""
        return {request.project for request in self._api.requests[answered:]} >= {*self._fleet.projects}

    def _wait_until_shown(self, name: str, value: float) -> None:
        """Wait until one of the exporters shows this value for each project."""
        lines = [
            f'{OWN}_{name}{{project="{project}"}} {floatToGoString(value)}\n'
            for project in self._fleet.projects
        ]

        def are_shown() -> bool:
            return any(all(line in scraped for line in lines) for scraped in self._scrape())

        eventually(are_shown, within=60, what=f"{name} is {value}")


def _labels(name: str) -> Mapping[str, str]:
    return {"job": "spot-interruption-exporter", "instance": name}


class _PastScrapes:
    """Scrapes of an exporter in the simulated time, which become blocks of Prometheus' data.

    https://prometheus.io/docs/prometheus/latest/storage/#backfilling-from-openmetrics-format
    """

    def __init__(self, directory: Path, name: str) -> None:
        require("promtool", shutil.which("promtool"))
        self._directory = directory
        self._path = directory / f"{name}.txt"
        self._file = self._path.open("w")
        self._lines: Mapping[str, str] = {}
        """The lines of the last scrape, most of which come again, with the target's labels."""
        self._target = ",".join(f'{label}="{value}"' for label, value in _labels(name).items())

    def add(self, exposition: str, at: float) -> None:
        """Add a scrape, without the metrics of the process and of Python."""
        lines = [
            line for line in exposition.splitlines() if not line.startswith(("#", "process_", "python_"))
        ]
        labelled = [self._lines.get(line) or self._labelled(line) for line in lines]
        self._lines = dict(zip(lines, labelled, strict=True))
        end = f" {at}\n"
        self._file.write(end.join([f"up{{{self._target}}} 1", *labelled, ""]))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def write_blocks(self) -> None:
        """Close the file, and convert it to blocks."""
        self._file.write("# EOF\n")
        self.close()
        backfill(self._path, self._directory)
        self._path.unlink()

    def _labelled(self, line: str) -> str:
        """Return the line with the target's labels, as a scrape adds them."""
        series, _, value = line.rpartition(" ")
        name, _, labels = series.rstrip("}").partition("{")
        return f"{name}{{{','.join(filter(None, (self._target, labels)))}}} {value}"
