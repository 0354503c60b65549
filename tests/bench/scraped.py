"""The servers of `tests/bench/scrape.py`: exporters, and a program on client_golang, with the same series."""

import asyncio
import http.client
import itertools
import math
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Protocol, Self
from urllib.request import Request, urlopen

from tests.bench.constant_rate import ConstantRatePushes, PushResults
from tests.bench.report import progress
from tests.bench.wrk import ANY_SUBSCRIPTION
from tests.support.entries import JsonObject, insert, preempted, push
from tests.support.measure import cpu_seconds
from tests.support.process import LOOPBACK, Process, answers
from tests.support.program import ENVIRONMENT, configuration, written

SERIES_PER_CLUSTER: Final = 100
_LABEL_SETS_PER_CLUSTER: Final = 12
"""Four node pools in three zones: 60 series. Two machine types, a histogram each: 38. The cluster: 2."""
MINUTE_PERCENT: Final = 20
_FAST: Final = 100_000
"""More pushes per second than any server answers."""
_PUSHES_AT_ONCE: Final = 500
_IDLE_SECONDS: Final = 0.05
_SCRAPE_TIMEOUT_SECONDS: Final = 300
_PEER: Final = Path(__file__).parent / "client_golang"


class Scrape(NamedTuple):
    """The cost of one scrape."""

    cpu_ms: float
    """Processor time of the server."""
    wall_ms: float
    bytes_sent: int
    """The size of the body, as it was sent."""


class Server(Protocol):
    """A server with `/metrics`."""

    port: int

    @property
    def pid(self) -> int:
        """The process."""
        ...

    def change(self, percent: int) -> None:
        """Change this share of the series."""
        ...


def get(port: int, *, compressed: bool = False) -> bytes:
    """Return the body of a scrape, as it was sent."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_SCRAPE_TIMEOUT_SECONDS)
    connection.request("GET", "/metrics", headers={"accept-encoding": "gzip"} if compressed else {})
    body = connection.getresponse().read()
    connection.close()
    return body


def scrape(server: Server, *, compressed: bool) -> Scrape:
    """Scrape a server that is idle."""
    _wait_until_idle(server.pid)
    cpu, began = cpu_seconds(server.pid), time.perf_counter()
    body = get(server.port, compressed=compressed)
    wall = time.perf_counter() - began
    return Scrape((cpu_seconds(server.pid) - cpu) * 1000, wall * 1000, len(body))


def _wait_until_idle(pid: int) -> None:
    while True:
        before = cpu_seconds(pid)
        time.sleep(_IDLE_SECONDS)
        if cpu_seconds(pid) - before < 0.1 * _IDLE_SECONDS:
            return


class ExporterServer:
    """An exporter with the series of a fleet. Every label set has an instance that lives on, and another."""

    def __init__(self, directory: Path, command: Path, series: int, runner: asyncio.Runner) -> None:
        directory.mkdir(parents=True)
        self._label_sets = series // SERIES_PER_CLUSTER * _LABEL_SETS_PER_CLUSTER
        configured = configuration(
            directory,
            None,
            pubsub=ANY_SUBSCRIPTION,
            prometheus={"max_label_sets": 10 * self._label_sets},
        )
        self.port: int = configured["prometheus"]["port"]
        self._push_port: int = configured["server"]["port"]
        self._process = Process(
            [command, "--config", written(directory, configured)],
            output=directory / "exporter.log",
            ready=answers(f"http://{LOOPBACK}:{self.port}/healthz"),
            env=ENVIRONMENT,
        )
        self._runner = runner
        self._operations = itertools.count()
        self._interruptions = 0
        self._wrong: list[str] = []

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop(within=30)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def fill(self, label: str) -> None:
        """Create the instances."""
        numbers = range(self._label_sets)
        with progress(label, self._label_sets) as update:
            for first in range(0, self._label_sets, _PUSHES_AT_ONCE):
                some = numbers[first : first + _PUSHES_AT_ONCE]
                self._push_all((_created(kind, number) for number in some for kind in _KINDS), "tracked")
                update(first)

    def change(self, percent: int) -> None:
        """Interrupt an instance in this share of the label sets. A minute's change comes by itself."""
        if percent != MINUTE_PERCENT:
            chosen = [n for n in range(self._label_sets) if n * percent % 100 < percent]
            for first in range(0, len(chosen), _PUSHES_AT_ONCE):
                self._push_all(map(self._interruption, chosen[first : first + _PUSHES_AT_ONCE]), "counted")

    def push_meanwhile(self, rate: int, seconds: float) -> PushResults:
        """Interrupt instances at this rate for some time."""
        numbers = itertools.islice(itertools.cycle(range(self._label_sets)), math.ceil(rate * seconds))
        bodies = list(map(self._interruption, numbers))  # before the time begins, because it takes long
        return self._push_all(iter(bodies), "counted", rate=rate)

    def errors(self) -> list[str]:
        """Describe unexpected outcomes, and a difference between the answers and the exposed total."""
        lines = get(self.port).decode().splitlines()
        shown = sum(float(line.split()[-1]) for line in lines if line.startswith("spot_interruptions_total{"))
        differs = [] if shown == self._interruptions else [f"counted {self._interruptions}, shown {shown:g}"]
        return [*self._wrong, *differs]

    def _push_all(self, bodies: Iterator[bytes], outcome: str, rate: int = _FAST) -> PushResults:
        sent = asyncio.Event()

        def announced() -> Iterator[bytes]:
            yield from bodies
            sent.set()

        async def run() -> PushResults:
            pushes = ConstantRatePushes(self._push_port, "none")
            async with pushes.connected():
                return await pushes.run(rate, announced(), sent.wait)

        results = self._runner.run(run())
        self._interruptions += results.outcomes["counted"]
        self._wrong += [
            f"{number} x {other}" for other, number in results.outcomes.items() if other != outcome
        ]
        return results

    def _interruption(self, number: int) -> bytes:
        operation = f"systemevent-{next(self._operations)}"
        return push(preempted(_name("lost", number), operation=operation, timestamp=_now()))


class PeerServer:
    """The program on client_golang. It begins with the series of an exposition."""

    def __init__(self, program: Path, exposition: bytes) -> None:
        self._popen = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        with self._popen.stdin as sink:
            sink.write(exposition)
        self.port = int(self._popen.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._popen.kill()
        with self._popen:  # closes its pipes, and waits
            pass

    @property
    def pid(self) -> int:
        """The process."""
        return self._popen.pid

    def change(self, percent: int) -> None:
        """Change this share of the series."""
        request = Request(f"http://{LOOPBACK}:{self.port}/change?percent={percent}", method="POST")
        with urlopen(request) as answer:  # noqa: S310 - loopback
            answer.read()


def built_peer(directory: Path, go: str | None) -> tuple[Path | None, str]:
    """Build the program on client_golang. Return it, or the reason for which there is none."""
    if go is None:
        return None, "Go is not installed"
    program = directory / "peer"
    built = subprocess.run(
        [go, "build", "-o", program, "."], cwd=_PEER, capture_output=True, text=True, check=False
    )
    return (None, built.stderr.strip()) if built.returncode else (program, "")


_KINDS: Final = ("kept", "lost")


def _name(kind: str, number: int) -> str:
    return f"gke-{kind}-{number:06d}"


def _created(kind: str, number: int) -> bytes:
    cluster, place = divmod(number, _LABEL_SETS_PER_CLUSTER)
    pool = place // 3
    entry: JsonObject = insert(
        _name(kind, number),
        cluster=f"cluster-{cluster:04d}",
        node_pool=f"spot-{place}",
        machine_type=("n2-standard-8", "e2-standard-4")[pool // 2],
        timestamp=_now(),
    )
    return push(entry)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"
