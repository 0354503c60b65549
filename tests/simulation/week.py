"""A week of the simulated fleet, lived by a real exporter in seconds, and held by a real Prometheus.

The exporter's clock is set to a week ago and taken forward in steps. In each it is pushed what the fleet
tells, does its periodic work, and is scraped; the scrapes become blocks of Prometheus' data. Then its clock
is the real one, and Prometheus scrapes it on, so that series continue and "now" is now.
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
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

import httpx
from prometheus_client.utils import floatToGoString

from tests.simulation.fleet import DAY, HOUR, Event, Fleet
from tests.support.compute_api import FORBIDDEN, ComputeApi
from tests.support.entries import push
from tests.support.exporter import OWN, Exporter, subscription, token
from tests.support.process import LOOPBACK, eventually
from tests.support.prometheus import Prometheus, Target, backfill
from tests.support.requirement import require

LABELS: Final = {"job": "spot-interruption-exporter", "instance": "spot-interruption-exporter-0"}
"""The target's, in what was before and in what Prometheus scrapes."""
SECONDS: Final = 7 * DAY
STEP_SECONDS: Final = 288
"""Less than the 5 min after which Prometheus takes a series for ended."""

_SEED: Final = 7
_LEAD_IN_SECONDS: Final = 6 * HOUR
"""So much is lived before the week begins."""
_LAST_SECONDS, _LAST_STEP_SECONDS = 7200, 60
"""In the end the steps are shorter: rates over minutes need their samples."""
_CONNECTIONS: Final = 8
_TOGETHER_SECONDS: Final = 1.0
"""What is pushed within such a time is pushed at once."""
_SCRAPE_SECONDS: Final = 2


class Clock:
    """The exporter's: what it was set to, or the real time."""

    def __init__(self, at: float) -> None:
        self.at: float | None = at

    def __call__(self) -> float:
        return time.time() if self.at is None else self.at


class Week:
    """See above; for the time of a `with` block. All that is kept is in `directory`."""

    exporter: Exporter
    """It goes on by the real clock."""
    prometheus: Prometheus
    """It scrapes the exporter, and evaluates the rules."""

    def __init__(self, directory: Path, *, rules: Sequence[Path] = ()) -> None:
        self.ends = float(int(time.time()))
        """The end of the simulated time, for which all numbers are known."""
        self.begins = self.ends - SECONDS
        self.fleet = Fleet(_SEED, self.begins - _LEAD_IN_SECONDS, SECONDS + _LEAD_IN_SECONDS)
        self.truth = self.fleet.truth
        self._directory = directory
        self._rules = rules
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as running:
            history = running.enter_context(closing(_History(self._directory)))
            clock = Clock(self.fleet.begins)
            api = running.enter_context(ComputeApi())
            settings = {"projects": self.fleet.projects, "inventory.endpoint": api.url}
            self.exporter = Exporter(
                self._directory, settings, two_listeners=True, clock=clock, shortest_pause_seconds=HOUR
            )
            running.callback(self.exporter.stop)
            player = running.enter_context(closing(_Player(self.exporter, api, self.fleet)))
            self._live(clock, player, history)
            history.into_blocks()
            address = urlsplit(self.exporter.metrics_url).netloc
            self.prometheus = running.enter_context(
                Prometheus(
                    self._directory,
                    [Target(address, LABELS)],
                    scrape_interval=_SCRAPE_SECONDS,
                    rules=[self._often(path) for path in self._rules],
                )
            )
            self.prometheus.wait_for_scrapes()
            eventually(self._evaluated, within=30, what="all rules were evaluated")
            self._running = running.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def _often(self, rules: Path) -> Path:
        """The same rules, evaluated as often as is scraped: in their own interval they come minutes late."""
        path = self._directory / rules.name
        path.write_text(re.sub(r"(?m)^( +interval:).*$", rf"\1 {_SCRAPE_SECONDS}s", rules.read_text()))
        return path

    def _evaluated(self) -> bool:
        answer = httpx.get(f"{self.prometheus.url}/api/v1/rules", trust_env=False).json()
        return not any(group["lastEvaluation"].startswith("0001-") for group in answer["data"]["groups"])

    def _live(self, clock: Clock, player: "_Player", history: "_History") -> None:
        """Live the fleet's time, and go on by the real clock."""
        starts, events = deque(self.fleet.rescalings), deque(self.fleet.events)
        player.start(self.fleet.begins)
        for at in _steps(self.fleet.begins, self.ends):
            while events and events[0].at <= at:
                together = _together(events, at)
                clock.at = together[-1].at
                player.push(together)
            clock.at = at
            player.work()
            history.add(player.scrape(), at)
            if starts and starts[0] <= at:
                starts.popleft()
                player.start(at)
        player.show(self.ends)
        clock.at = None


def _steps(begins: float, ends: float) -> Iterator[float]:
    """When the exporter is pushed to and scraped; the week's beginning is one of the times."""
    last = ends - _LAST_SECONDS
    whole = int((last - begins) // STEP_SECONDS)
    yield from (last - STEP_SECONDS * number for number in range(whole, 0, -1))
    yield from (last + _LAST_STEP_SECONDS * number for number in range(_LAST_SECONDS // _LAST_STEP_SECONDS))
    yield ends


def _together(events: deque[Event], until: float) -> list[Event]:
    """Take the next ones that are pushed at nearly the same time."""
    until = min(until, events[0].at + _TOGETHER_SECONDS)
    together: list[Event] = []
    while events and events[0].at <= until and len(together) < _CONNECTIONS:
        together.append(events.popleft())
    return together


class _Player:
    """Does to the exporter what is done in one step, over connections of its own."""

    def __init__(self, exporter: Exporter, api: ComputeApi, fleet: Fleet) -> None:
        self._exporter = exporter
        self._api = api
        self._fleet = fleet
        self._connections: Sequence[HTTPConnection] = ()
        self._good = token()
        self._forged = token(audience="https://elsewhere.example.com")

    def start(self, at: float) -> None:
        """Start it, again if it runs, as when a new release is rolled out; and let it list the fleet."""
        self.close()
        self.show(at)
        self._exporter.stop()
        self._exporter.start()
        port, metrics_port = self._exporter.ports
        self._pushes = [HTTPConnection(LOOPBACK, port) for _ in range(_CONNECTIONS)]
        self._metrics = HTTPConnection(LOOPBACK, metrics_port)
        self._connections = [*self._pushes, self._metrics]
        eventually(lambda: self._listed(at), within=30, what="the fleet is listed")
        # What waits for its instance has the fleet listed: that takes a second, which is hours of this time.
        for project in self._fleet.projects:
            self._api.fail(FORBIDDEN, project=project)

    def show(self, at: float) -> None:
        """From now on, listings find the fleet as it is at that time."""
        self._api.recover()
        self._api.projects = dict(self._fleet.listed(at))

    def close(self) -> None:
        """End the connections."""
        for connection in self._connections:
            connection.close()

    def push(self, events: Sequence[Event]) -> None:
        """Push them at once."""
        pairs = list(zip(self._pushes, events, strict=False))
        for connection, event in pairs:
            body = push(event.entry, message_id=event.message_id, subscription=subscription(event.endpoint))
            authorization = {"authorization": self._forged if event.forged else self._good}
            connection.request("POST", f"/events/{event.endpoint}", body, authorization)
        for connection, event in pairs:
            response = connection.getresponse()
            answer = response.read()
            expected = HTTPStatus.UNAUTHORIZED if event.forged else HTTPStatus.OK
            assert response.status == expected, answer

    def work(self) -> None:
        """The periodic work."""
        recorder, metrics = self._exporter.parts.recorder, self._exporter.parts.metrics

        async def work() -> None:
            if metrics.pending:
                await recorder.perform(lambda store, now: store.expire(now))
            await recorder.perform(lambda store, now: store.account(now))

        self._exporter.perform(work()).result()

    def scrape(self) -> str:
        """As Prometheus does; what samples look like is the same in both of its formats."""
        self._metrics.request("GET", "/metrics")
        return self._metrics.getresponse().read().decode()

    def _listed(self, at: float) -> bool:
        name, value = f"{OWN}_inventory_last_success_timestamp_seconds", floatToGoString(at)
        scraped = self.scrape()
        return all(f'{name}{{project="{project}"}} {value}\n' in scraped for project in self._fleet.projects)


class _History:
    """Scrapes of the past, which become blocks of Prometheus' data."""

    def __init__(self, directory: Path) -> None:
        require("promtool", shutil.which("promtool"))
        self._directory = directory
        self._path = directory / "history.txt"
        self._file = self._path.open("w")
        self._series: dict[str, str] = {}
        self._target = ",".join(f'{name}="{value}"' for name, value in LABELS.items())

    def add(self, exposition: str, at: float) -> None:
        """Keep a scrape, but for what is told of the process."""
        lines = [f"up{{{self._target}}} 1 {at}\n"]
        for line in exposition.splitlines():
            if not line.startswith(("#", "process_", "python_")):
                series, _, value = line.rpartition(" ")
                lines.append(f"{self._labelled(series)} {value} {at}\n")
        self._file.writelines(lines)

    def close(self) -> None:
        """End."""
        self._file.close()

    def into_blocks(self) -> None:
        """End, and have the blocks made."""
        self._file.write("# EOF\n")
        self.close()
        backfill(self._path, self._directory)
        self._path.unlink()

    def _labelled(self, series: str) -> str:
        """The series with the target's labels, as a scrape adds them."""
        known = self._series.get(series)
        if known is None:
            name, _, labels = series.rstrip("}").partition("{")
            known = f"{name}{{{','.join(filter(None, (self._target, labels)))}}}"
            self._series[series] = known
        return known
