"""The cost of scrapes by number of series, compared in one run with an earlier build and with client_golang.

`python -m tests.bench.scrape [--series 1000 50000] [--changed 0 1 20 100] [--rounds 5] [--before CHECKOUT]`;
needs two cores. `--before` names the checkout of an earlier build, with its `.venv`. The peer in
`tests/bench/client_golang` is built if Go is installed. All servers have the same series and take turns.

20 % is the change of each minute: the instance-seconds of every label set, one of its five series. The
exporters make it themselves, so each such round waits for a minute. The other changes are interruptions in
that share of the label sets.
"""

import argparse
import asyncio
import itertools
import multiprocessing
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import uvloop

from tests.bench.report import at_most, machine, progress
from tests.bench.scraped import (
    MINUTE_PERCENT,
    ExporterServer,
    PeerServer,
    Scrape,
    Server,
    built_peer,
    get,
    scrape,
)
from tests.support.measure import peak_rss_mib, percentile, rss_mib
from tests.support.output import print_line

_COMMAND: Final = "spot-interruption-exporter"
_MINUTE_SECONDS: Final = 61.0
_SCRAPE_SECONDS: Final = 1.0
_WARM_UP_SECONDS: Final = 1.0
_BEFORE, _PEER, _EXPORTER = "before", "client_golang", "exporter"
_NO, _PLAIN, _GZIP = "no scrapes", "plain", "gzip"
_LIMIT_SERIES: Final = 50_000
_LIMIT_CHANGED: Final = 1
"""The limits are for this many series; those of the processor time for this change, in per cent."""
_CPU_OF_BEFORE, _CPU_OF_PEER, _GZIP_CPU_OF_BEFORE = 0.1, 0.5, 0.33
_LATER_MS: Final = 25.0
_MORE_MIB: Final = 30.0


@dataclass(slots=True)
class Costs:
    """The figures of one server with some number of series."""

    scrapes: dict[tuple[str, int], list[Scrape]] = field(default_factory=dict)
    """By encoding and by the changed share, in per cent."""
    first: Scrape | None = None
    """The first scrape of all series."""
    latencies_ms: dict[str, Sequence[float]] = field(default_factory=dict)
    """The latencies of pushes, by the scrapes that came meanwhile."""
    resident_mib: float = 0.0
    peak_mib: float = 0.0

    def cpu_ms(self, encoding: str, changed: int) -> float:
        """Return the median of the processor time."""
        return median(measured.cpu_ms for measured in self.scrapes[encoding, changed])


class Report(NamedTuple):
    """The figures of all servers."""

    costs: Mapping[int, Mapping[str, Costs]]
    """By number of series, and by server."""
    errors: Sequence[str]
    """Pushes with an unexpected outcome, and totals that differ from the answers."""
    skipped: Sequence[str]
    """The servers that were left out, with the reasons."""


def main() -> None:
    """Measure and print a table for each number of series."""
    options = _options()
    for series in options.series:
        of_size = argparse.Namespace(**{**vars(options), "series": [series]})
        with TemporaryDirectory() as folder:
            _print_report(run(Path(folder), of_size), of_size)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The cost of scrapes.")
    parser.add_argument("--series", type=int, nargs="+", default=[1_000, 5_000, 50_000, 250_000])
    parser.add_argument("--changed", type=int, nargs="+", default=[0, 1, 20, 100], help="per cent")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=int, default=1000, help="pushes per second during scrapes")
    parser.add_argument("--seconds", type=float, default=20, help="length of each phase with pushes")
    parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="an earlier build, with its .venv")
    parser.add_argument("--go", default=shutil.which("go"), help="the command of Go")
    return parser.parse_args()


def run(directory: Path, options: argparse.Namespace) -> Report:
    """Measure every server with each number of series."""
    peer, reason = built_peer(directory, options.go)
    skipped = [f"{_PEER}: {reason}"] if peer is None else []
    commands = {_EXPORTER: Path(sys.executable).with_name(_COMMAND)}
    if options.before is None:
        skipped.append(f"{_BEFORE}: no --before")
    else:
        commands = {_BEFORE: options.before.absolute() / ".venv" / "bin" / _COMMAND, **commands}
    costs: dict[int, Mapping[str, Costs]] = {}
    errors: list[str] = []
    for series in options.series:
        with ExitStack() as stack, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            exporters = {
                name: stack.enter_context(
                    ExporterServer(directory / f"{series}-{name}", command, series, runner)
                )
                for name, command in commands.items()
            }
            for name, exporter in exporters.items():
                exporter.fill(f"{series:,} series created: {name}")
                exporter.change(100)
            servers: dict[str, Server] = {**exporters}
            costs[series] = measured = {name: Costs() for name in exporters}
            for name, exporter in exporters.items():
                measured[name].first = scrape(exporter, compressed=False)
            if peer is not None:
                exposition = get(exporters[_EXPORTER].port)
                servers[_PEER] = stack.enter_context(PeerServer(peer, exposition))
                measured[_PEER] = Costs(first=scrape(servers[_PEER], compressed=False))
            _take_turns(servers, measured, options, f"{series:,} series scraped")
            for name, server in servers.items():
                measured[name].resident_mib = rss_mib(server.pid)
                measured[name].peak_mib = peak_rss_mib(server.pid)
            for name, exporter in exporters.items():
                measured[name].latencies_ms = _latencies(exporter, options, f"{series:,} series, {name}")
                errors += [f"{series} series, {name}: {error}" for error in exporter.errors()]
    return Report(costs, errors, skipped)


def _take_turns(
    servers: Mapping[str, Server], measured: Mapping[str, Costs], options: argparse.Namespace, label: str
) -> None:
    steps = list(itertools.product(range(options.rounds), options.changed, (_PLAIN, _GZIP)))
    with progress(label, len(steps)) as update:
        for number, (_, changed, encoding) in enumerate(steps, 1):
            if changed == MINUTE_PERCENT:
                time.sleep(_MINUTE_SECONDS)
            for name, server in servers.items():
                server.change(changed)
                cost = scrape(server, compressed=encoding == _GZIP)
                measured[name].scrapes.setdefault((encoding, changed), []).append(cost)
            update(number)


def _latencies(
    exporter: ExporterServer, options: argparse.Namespace, label: str
) -> dict[str, Sequence[float]]:
    """Return the latencies of pushes alone, and while the exporter is scraped every second."""
    found: dict[str, Sequence[float]] = {}
    exporter.push_meanwhile(options.rate, _WARM_UP_SECONDS)
    for encoding in (_NO, _PLAIN, _GZIP):
        with progress(f"{label}, pushes with {encoding}", 1) as update:
            with _Scraper(exporter.port, encoding):
                results = exporter.push_meanwhile(options.rate, options.seconds)
            update(1)
        found[encoding] = results.latencies_ms
        found[f"{encoding}, lateness of the load"] = results.late_ms
    return found


class _Scraper:
    """A process that scrapes every second during a `with` block, at least once."""

    def __init__(self, port: int, encoding: str) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_scrape_repeatedly, args=(theirs, port, encoding)
        )

    def __enter__(self) -> None:
        self._process.start()
        self._pipe.recv()  # it has started, which takes processor time

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):  # it has failed, with a trace
            self._pipe.send("end")
        self._process.join()


def _scrape_repeatedly(pipe: Connection, port: int, encoding: str) -> None:
    pipe.send("started")
    due = time.monotonic()
    while not pipe.poll(max(due - time.monotonic(), 0)):
        due += _SCRAPE_SECONDS
        if encoding != _NO:
            get(port, compressed=encoding == _GZIP)


def _print_report(report: Report, options: argparse.Namespace) -> None:
    print_line(f"{machine()}; medians of {options.rounds} rounds; processor time of the server alone")
    for line in report.skipped:
        print_line(f"left out: {line}")
    for series, measured in report.costs.items():
        print_line(f"\n{series:,} series")
        columns = (f"{changed} %" for changed in options.changed)
        print_line(
            f"{'CPU ms by share that changed':30}{'first':>8}"
            + "".join(f"{column:>8}" for column in columns)
            + f"{'wall ms':>9}{'kB':>8}{'MiB':>7}{'at most':>8}"
        )
        for name, costs in measured.items():
            for encoding in (_PLAIN, _GZIP):
                _print_costs(f"{name} {encoding}", encoding, costs, options)
        _print_latencies(measured)
        for line in _limits(series, measured, options):
            print_line(line)
    print_line("; ".join(report.errors) or "every push was counted once")


def _print_costs(name: str, encoding: str, costs: Costs, options: argparse.Namespace) -> None:
    first = f"{costs.first.cpu_ms:8.1f}" if costs.first is not None and encoding == _PLAIN else f"{'':8}"
    scrapes = [scrape for changed in options.changed for scrape in costs.scrapes[encoding, changed]]
    print_line(
        f"{name:30}{first}"
        + "".join(f"{costs.cpu_ms(encoding, changed):8.1f}" for changed in options.changed)
        + f"{median(scrape.wall_ms for scrape in scrapes):9.1f}"
        f"{median(scrape.bytes_sent for scrape in scrapes) / 1000:8.0f}"
        f"{costs.resident_mib:7.0f}{costs.peak_mib:8.0f}"
    )


def _print_latencies(measured: Mapping[str, Costs]) -> None:
    for name, costs in measured.items():
        for scrapes, latencies in costs.latencies_ms.items():
            p50, p99, p999, most = (percentile(latencies, share) for share in (0.5, 0.99, 0.999, 1))
            print_line(
                f"{name}, pushes with {scrapes}: p50 {p50:.1f} ms, p99 {p99:.1f} ms, p99.9 {p999:.1f} ms,"
                f" longest {most:.1f} ms"
            )


def _limits(series: int, measured: Mapping[str, Costs], options: argparse.Namespace) -> Sequence[str]:
    """Return the figures that have a limit at some number of series."""
    ours, lines = measured[_EXPORTER], []

    def add(what: str, value: float, limit: float, at: Sequence[int] = (_LIMIT_SERIES,)) -> None:
        lines.append(f"{what}: {value:.3g} {at_most(value, limit) if series in at else ''}")

    if _LIMIT_CHANGED in options.changed:
        plain, gzip = (ours.cpu_ms(encoding, _LIMIT_CHANGED) for encoding in (_PLAIN, _GZIP))
        if before := measured.get(_BEFORE):
            theirs = before.cpu_ms(_PLAIN, _LIMIT_CHANGED)
            add("plain, of the earlier build's processor time", plain / theirs, _CPU_OF_BEFORE)
            add("gzip, of the earlier build's plain", gzip / theirs, _GZIP_CPU_OF_BEFORE)
        if peer := measured.get(_PEER):
            add("plain, of client_golang's", plain / peer.cpu_ms(_PLAIN, _LIMIT_CHANGED), _CPU_OF_PEER)
    if before := measured.get(_BEFORE):
        more = ours.peak_mib - before.peak_mib
        add("MiB more than the earlier build, at most", more, _MORE_MIB, options.series)
    p99 = {name: percentile(ours.latencies_ms[name], 0.99) for name in (_NO, _PLAIN, _GZIP)}
    for encoding in (_PLAIN, _GZIP):
        add(f"p99 of the pushes, ms later by {encoding} scrapes", p99[encoding] - p99[_NO], _LATER_MS)
    return lines


if __name__ == "__main__":
    main()
