"""The processor time of an interruption by layer: each layer alone, on the same messages, in one process.

`python -m tests.bench.layers [--events 4000] [--batch 32] [--instances 100000]`. Under load a layer costs
more, because threads hand over the interpreter's lock and the callers use the same caches. For uvicorn's
cost see the processor time of the limit in the throughput benchmark.
"""

import argparse
import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple, TypeVar

from app import logs
from app.domain.batch import Applied, Batch
from app.domain.changes import Rules
from app.domain.events import Event, Ignored, InstanceInterrupted, Node
from app.domain.instances import Instance, Kind
from app.domain.outcomes import Counted, Outcome
from app.domain.totals import Totals, TotalsDelta
from app.gcp.auditlog import decode_entry
from app.gcp.pubsub import decode_push
from app.intake import Intake
from app.metrics import Metrics
from app.recorder import Recorder
from app.store.opening import open_store
from app.store.port import Store
from app.web.push import Gate, PushEndpoint
from tests.bench.prefilled_store import create_instances
from tests.bench.report import machine, progress
from tests.bench.wrk import body
from tests.support.output import print_line

_T = TypeVar("_T")
_ROUNDS: Final = 3
_TOKEN: Final = "Bearer " + "x" * 900
_HEADERS: Final = [(b"host", b"exporter"), (b"authorization", _TOKEN.encode())]


class Sample(NamedTuple):
    """The same interruptions in the form that each layer takes."""

    bodies: Sequence[bytes]
    events: Sequence[Event]


def main() -> None:
    """Measure, and print a table."""
    options = _options()
    with TemporaryDirectory() as folder, progress("of the rounds", _ROUNDS) as update:
        rounds = list(run(Path(folder), options, update))
    layers = {name: min(measured[name] for measured in rounds) for name in rounds[0]}
    total = sum(layers.values())
    print_line(
        f"{machine()}; batches of {options.batch}, best of {_ROUNDS} rounds of {options.events} interruptions"
    )
    for name, microseconds in layers.items():
        print_line(f"{name:82}{microseconds:7.1f} µs{microseconds / total:6.0%}")
    print_line(f"{'together':82}{total:7.1f} µs")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Processor time per interruption, layer by layer.")
    parser.add_argument("--events", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32, help="interruptions per commit")
    parser.add_argument("--instances", type=int, default=100_000)
    return parser.parse_args()


def run(
    directory: Path, options: argparse.Namespace, update: Callable[[float], None] = lambda _: None
) -> Iterator[Mapping[str, float]]:
    """Yield, for each round, the microseconds per interruption by layer."""
    url = f"sqlite:///{directory}/store.db"
    create_instances(url, options.instances)
    store = open_store(url, Rules()).store
    for number in range(_ROUNDS):
        yield _round(store, _sample(number * options.events, options), options.batch)
        update(number + 1)
    store.close()


def _sample(first: int, options: argparse.Namespace) -> Sample:
    # A prime step, so that consecutive events are far from each other in the file.
    numbers = [first + number for number in range(options.events)]
    bodies = [body(number * 7919, options.instances) for number in numbers]
    return Sample(bodies, [_decoded(push) for push in bodies])


def _decoded(push: bytes) -> Event:
    message = decode_push(push)
    event = decode_entry(message.data, message, 0.0)
    assert not isinstance(event, Ignored)
    return event


def _round(store: Store, sample: Sample, batch: int) -> Mapping[str, float]:
    envelopes = _measured(sample.bodies, decode_push)
    messages = [decode_push(push) for push in sample.bodies]
    entries = _measured(messages, lambda message: decode_entry(message.data, message, 0.0))
    batches = [sample.events[start : start + batch] for start in range(0, len(sample.events), batch)]
    applied: list[Applied] = []
    stored = _measured(batches, lambda events: applied.append(store.apply(events, time.time())))
    outcomes = [outcome for result in applied for outcome in result.outcomes if isinstance(outcome, Counted)]
    assert len(outcomes) == len(sample.events)
    endpoint = _endpoint(sample.bodies, outcomes)
    recorded = asyncio.run(_recorder(_CommittedStore(outcomes, applied[-1].changed), batches))
    rules = _rules(sample.events)
    layers = {
        "envelope (gcp/pubsub)": envelopes,
        "log entry (gcp/auditlog)": entries,
        "token, body, answer, own metrics (web/push)": endpoint - envelopes - entries,
        "queue, hand-over to the thread, log line, metrics (recorder, logs, metrics)": recorded,
        "rules (domain)": rules,
        "rows, SQLite, the kernel's share of the writes (store)": stored - rules,
    }
    return {name: seconds / len(sample.events) * 1e6 for name, seconds in layers.items()}


def _measured(inputs: Sequence[_T], work: Callable[[_T], object]) -> float:
    began = time.process_time()
    for value in inputs:
        work(value)
    return time.process_time() - began


def _rules(events: Sequence[Event]) -> float:
    node = Node("shop", "europe-west1", "spot-pool", "n2-standard-8")
    now = time.time()
    batch = Batch(TotalsDelta(Totals(), max_label_sets=10_000, released=True, now=now), Rules(), now)
    interruptions = [event for event in events if isinstance(event, InstanceInterrupted)]
    known = [
        Instance(
            event.name, event.id, Kind.NODE, node, now, spot=True, alive=True, announced=True, created_at=1.0
        )
        for event in interruptions
    ]
    batch.load((), known, ())
    return _measured(interruptions, batch.decide)


class _AcceptingVerifier:
    """A token verifier that accepts every caller."""

    def cached(self, authorization: str) -> str:
        return authorization

    async def verify(self, authorization: str | None) -> str:
        return authorization or ""


class _ImmediateRecorder:
    """A recorder that answers with the given outcomes, in order and at once."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes = iter(outcomes)

    def submit(self, _event: Event, respond: Callable[[Outcome], None]) -> None:
        respond(next(self._outcomes))


def _endpoint(bodies: Sequence[bytes], outcomes: Sequence[Outcome]) -> float:
    intake = Intake(
        "interruption",
        _ImmediateRecorder(outcomes),  # type: ignore[arg-type]
        Metrics().pushes["interruption"],
        request_listing=lambda _: None,
    )
    push = PushEndpoint(intake, "", _AcceptingVerifier(), Gate(), max_body_bytes=1 << 20)

    def answer(request: bytes) -> None:
        if push.admits(_HEADERS):
            push.receive(_HEADERS, request, lambda _answer: None)

    return _measured(bodies, answer)


class _CommittedStore:
    """A store whose events are already committed, with these outcomes."""

    def __init__(self, outcomes: Sequence[Counted], changed: Totals) -> None:
        self._outcomes = iter(outcomes)
        self._changed = changed

    def apply(self, events: Sequence[Event], _now: float) -> Applied:
        # On a busy machine the recorder may commit a batch in two parts.
        counted = list(islice(self._outcomes, len(events)))
        return Applied(counted, counted, self._changed)


async def _recorder(store: _CommittedStore, batches: Sequence[Sequence[Event]]) -> float:
    recorder = Recorder(store, Metrics())  # type: ignore[arg-type]
    writer = asyncio.create_task(recorder.run())
    with _log_lines_to(os.devnull):
        began = time.process_time()
        for batch in batches:
            for event in batch[:-1]:
                recorder.submit(event, lambda _: None)
            answered = asyncio.Event()
            recorder.submit(batch[-1], partial(_set, answered))
            await answered.wait()
        used = time.process_time() - began
    recorder.close()
    await writer
    return used


def _set(event: asyncio.Event, _result: object) -> None:
    event.set()


@contextmanager
def _log_lines_to(path: str) -> Iterator[None]:
    """Write log lines in the exporter's format to this path during the block."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    with Path(path).open("w") as file, redirect_stderr(file):
        logs.configure("info")
        try:
            yield
        finally:
            root.handlers = handlers
            root.setLevel(level)


if __name__ == "__main__":
    main()
