"""The loads beside which the latency of pushes is measured: readings of the Compute API, and scrapes.

The Compute API and the scraper run in separate processes.
"""

import asyncio
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias

import httpx

from tests.support.children import children_of
from tests.support.compute_api import Answer, ComputeApi, ManyInstances, ManyOperations
from tests.support.entries import insert
from tests.support.program import ExporterProcess

PROJECT: Final = "shop-prod"
"""The project that is read. The pushes are for instances of another project."""

_NEVER: Final = {"enabled": True, "interval_seconds": 86400}
_PAST_SECONDS: Final = 86400.0
"""The age of the operations. It is less than the retention, and more than that of the store."""
_SAMPLE_SECONDS: Final = 0.05
_SCRAPE_SECONDS: Final = 1.0
_AS_PROMETHEUS: Final = {"accept": "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", "accept-encoding": "gzip"}

_Subject: TypeAlias = Literal["instances", "operations"]
_Entries: TypeAlias = ManyInstances | ManyOperations


class Load(Protocol):
    """A load that comes in rounds of several phases. Before each phase there is a time without it."""

    phases: Sequence[str]
    """The name of each phase of a round."""

    def sections(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the sections of the exporter's configuration that it needs."""
        ...

    async def prepare(self, exporter: ExporterProcess) -> None:
        """Prepare the first round. Pushes come meanwhile."""
        ...

    async def begins(self) -> None:
        """Wait until the next phase begins, for `seconds` or so."""
        ...

    async def ends(self) -> None:
        """Wait until the phase ends."""
        ...

    def figures(self) -> Sequence[str]:
        """Return lines about the load itself."""
        ...

    def errors(self) -> Sequence[str]:
        """Return what went wrong with the load."""
        ...

    def peak_mib(self) -> float:
        """Return the largest resident memory of the exporter's child processes."""
        ...


class _Lines(NamedTuple):
    """The messages of the exporter's log lines about the end of a reading, good or bad."""

    succeeded: str
    failed: str


_LINES: Final[Mapping[str, _Lines]] = {
    "instances": _Lines("fleet listed", "fleet not listed"),
    "operations": _Lines("operations read", "operations not read"),
}


class Readings:
    """Readings of instances or operations: in each round, new ones, and then the same ones again.

    The exporter itself begins a reading `seconds` after the one before, with its usual jitter.
    """

    def __init__(self, subject: _Subject, api: Connection, *, entries: int, seconds: float) -> None:
        """`api` is the pipe to `serve_compute_api`. `entries`: the number of instances or operations."""
        self.phases: Sequence[str] = (f"{subject} read first", f"{subject} read again")
        self._subject = subject
        self._api = api
        self._entries = entries
        self._seconds = seconds
        self._url = api.recv()
        self._pid = 0
        self._log: _Log | None = None
        self._read: list[Mapping[str, Any]] = []
        """The log lines of all phases."""

    def sections(self) -> Mapping[str, Mapping[str, Any]]:
        repeated = {"enabled": True, "interval_seconds": self._seconds}
        if self._subject == "instances":
            return {"inventory": {**repeated, "endpoint": self._url}, "recovery": {"enabled": False}}
        return {"inventory": {**_NEVER, "endpoint": self._url}, "recovery": repeated}

    async def prepare(self, exporter: ExporterProcess) -> None:
        self._pid = exporter.process.pid
        self._log = _Log(exporter.process.output, _LINES[self._subject])
        await self._log.next()  # of no entries; it shows the query
        await self._ask("prepare")
        self._log.read()
        await self._log.next()
        await self._ask("next")

    async def begins(self) -> None:
        while not children_of(self._pid):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(_SAMPLE_SECONDS)

    async def ends(self) -> None:
        assert self._log is not None
        self._read.append(await self._log.next())
        if len(self._read) % len(self.phases) == 0:
            await self._ask("next")

    def figures(self) -> Sequence[str]:
        return [f"{len(self._read)} readings of {self._entries:,} {self._subject}"]

    def errors(self) -> Sequence[str]:
        return [
            f"not a complete reading: {line}"
            for line in self._read
            if line.get(self._subject) != self._entries or line["invalid"]
        ]

    def peak_mib(self) -> float:
        return max((line.get("child_peak_mib", 0.0) for line in self._read), default=0.0)

    async def _ask(self, message: str) -> None:
        """Send the message to the process of the Compute API, and wait for its answer."""
        self._api.send(message)
        await asyncio.to_thread(self._api.recv)


class _Log:
    """The exporter's log lines about readings. The log also has a line per commit."""

    def __init__(self, path: Path, lines: _Lines) -> None:
        self._path = path
        self._position = 0
        self._marks = tuple(f'"{message}"'.encode() for message in lines)
        self._rest = b""

    async def next(self) -> Mapping[str, Any]:
        """Wait for the line of the next reading that ends."""
        while not (lines := self.read()):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(_SAMPLE_SECONDS)
        return lines[-1]

    def read(self) -> list[Mapping[str, Any]]:
        """Return the new lines."""
        with self._path.open("rb") as file:
            file.seek(self._position)
            written = file.read()
        self._position += len(written)
        *lines, self._rest = (self._rest + written).split(b"\n")
        return [json.loads(line) for line in lines if any(mark in line for mark in self._marks)]


@dataclass(slots=True)
class Scrapes:
    """A scrape of /metrics every second, for `seconds`."""

    scraper: Connection
    """The pipe to `scrape_repeatedly`."""
    series: int
    """The smallest number of samples in the exposition."""
    seconds: float
    phases: Sequence[str] = ("metrics scraped",)
    _url: str = ""
    _scrapes: "list[Scrape]" = field(default_factory=list)

    def sections(self) -> Mapping[str, Mapping[str, Any]]:
        return {}

    async def prepare(self, exporter: ExporterProcess) -> None:
        self._url = f"http://{exporter.metrics_address}/metrics"
        await asyncio.to_thread(self._create_series, exporter)

    async def begins(self) -> None:
        await asyncio.sleep(self.seconds)
        self.scraper.send(self._url)

    async def ends(self) -> None:
        await asyncio.sleep(self.seconds)
        self.scraper.send("stop")
        self._scrapes += await asyncio.to_thread(self.scraper.recv)

    def figures(self) -> Sequence[str]:
        longest = max(scrape.seconds for scrape in self._scrapes) * 1000
        smallest = min(scrape.series for scrape in self._scrapes)
        return [f"{len(self._scrapes)} scrapes of at least {smallest} series, the longest {longest:.0f} ms"]

    def errors(self) -> Sequence[str]:
        few = [scrape.series for scrape in self._scrapes if scrape.series < self.series]
        return [f"{len(few)} scrapes of less than {self.series} series"] if few else []

    def peak_mib(self) -> float:
        return 0.0

    def _create_series(self, exporter: ExporterProcess) -> None:
        """Create instances of new clusters until the exposition has enough samples."""
        number = 0
        while len(exporter.samples()) < self.series:
            for _ in range(50):
                outcome = exporter.outcome(insert(f"pool-{number}", cluster=f"cluster-{number}"))
                assert outcome == "tracked", outcome
                number += 1


class Scrape(NamedTuple):
    """The duration and the size of a scrape."""

    seconds: float
    series: int


@contextmanager
def in_process(work: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """Run the work in a separate process, which gets "end" over its pipe at the end of the block."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=work, args=(theirs, *arguments))
    process.start()
    try:
        yield ours
    finally:
        ours.send("end")
        process.join()


class _PreparedApi(ComputeApi):
    """An API that keeps its answers: those of Google take no time of the exporter's machine either."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[tuple[object, ...], Answer] = {}

    def prepare(self, subject: _Subject, entries: _Entries) -> None:
        """Make the pages of these entries, for the query of the last request."""
        query = (self.requests if subject == "instances" else self.operation_requests)[-1].query
        self.serve(entries)
        for start in range(0, len(entries), self.page_size):
            self._page(subject, PROJECT, start, start + self.page_size, query)
        self.serve(None)

    def serve(self, entries: _Entries | None) -> None:
        """Answer with these entries from now on, or with none."""
        self.projects[PROJECT] = entries if isinstance(entries, ManyInstances) else ()
        self.operations[PROJECT] = entries if isinstance(entries, ManyOperations) else ()

    def _page(self, of: str, project: str, start: int, stop: int, query: Mapping[str, str]) -> Answer:
        entries = self.projects.get(project) if of == "instances" else self.operations.get(project)
        key = (of, entries, start)
        if key not in self._kept:
            self._kept[key] = super()._page(of, project, start, stop, query)
        return self._kept[key]


def serve_compute_api(pipe: Connection, subject: _Subject, entries: int, rounds: int) -> None:
    """Serve the Compute API; send its URL over the pipe.

    It has no entries at first. "prepare" makes the pages of all rounds, "next" serves those of the next
    round.
    """
    os.nice(10)
    sets = [_entries(subject, entries, first=number * entries) for number in range(rounds)]
    with _PreparedApi() as api:
        api.serve(None)
        pipe.send(api.url)
        following = iter(sets)
        while (message := pipe.recv()) != "end":
            if message == "prepare":
                for some in sets:
                    api.prepare(subject, some)
            else:
                api.serve(next(following, None))
            pipe.send("done")


def _entries(subject: _Subject, count: int, *, first: int) -> _Entries:
    if subject == "instances":
        return ManyInstances(count, first=first)
    inserted = f"{datetime.fromtimestamp(time.time() - _PAST_SECONDS, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
    return ManyOperations(count, inserted, first=first)


def scrape_repeatedly(pipe: Connection) -> None:
    """Scrape the URL from the pipe every second until the next message, at least once, and send the scrapes.

    Then do the same for the next URL.
    """
    with httpx.Client(headers=_AS_PROMETHEUS, trust_env=False) as client:
        while (url := pipe.recv()) != "end":
            scrapes: list[Scrape] = []
            due = time.monotonic()
            while not scrapes or not pipe.poll(max(due - time.monotonic(), 0)):
                due += _SCRAPE_SECONDS
                scrapes.append(_scrape(client, url))
            if pipe.recv() == "end":
                return
            pipe.send(scrapes)


def _scrape(client: httpx.Client, url: str) -> Scrape:
    started = time.monotonic()
    lines = client.get(url).raise_for_status().text.splitlines()
    return Scrape(time.monotonic() - started, sum(not line.startswith("#") for line in lines))


LOADS: Final = ("instances", "operations", "scrapes")


@contextmanager
def opened(name: str, *, entries: int, rounds: int, seconds: float, series: int) -> Iterator[Load]:
    """Yield the load of that name; its process runs during the block."""
    if name == "scrapes":
        with in_process(scrape_repeatedly) as scraper:
            yield Scrapes(scraper, series, seconds)
    else:
        subject: _Subject = "instances" if name == "instances" else "operations"
        with in_process(partial(serve_compute_api), subject, entries, rounds) as api:
            yield Readings(subject, api, entries=entries, seconds=seconds)
