"""Where an interruption's processor time goes: each layer alone, on the same messages, in one process.

`python -m tests.bench.layers [--events 4000] [--batch 32] [--instances 100000]`. Under load a layer costs
more: threads hand over the interpreter's lock, and the callers use the same caches. What uvicorn costs is the
processor time of the throughput benchmark's limit.
"""

import argparse
import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple, TypeVar

from app import logs
from app.domain.attribution import Rules
from app.domain.batch import Applied, Batch
from app.domain.events import Event, Ignored, InstanceInterrupted, Node
from app.domain.instances import Instance, Kind
from app.domain.outcomes import Counted, Outcome
from app.domain.totals import Tally, Totals
from app.gcp.auditlog import decode_entry
from app.gcp.pubsub import decode_push
from app.metrics import Metrics
from app.protocol import Answer
from app.recorder import Caller, Recorder, Result
from app.store import Prepared, Store, open_store
from app.web.body import BodyReader
from app.web.push import Gate, PushEndpoint
from tests.bench.load import body
from tests.bench.report import machine, progress, say
from tests.bench.throughput import remember

_T = TypeVar("_T")
_ROUNDS: Final = 3
_TOKEN: Final = "Bearer " + "x" * 900
_HEADERS: Final = [(b"host", b"exporter"), (b"authorization", _TOKEN.encode())]


class Sample(NamedTuple):
    """The same interruptions, as each layer is given them."""

    bodies: Sequence[bytes]
    events: Sequence[Event]


def main() -> None:
    """Measure, and print a table."""
    options = _options()
    with TemporaryDirectory() as folder, progress("of the rounds", _ROUNDS) as done:
        rounds = list(run(Path(folder), options, done))
    layers = {name: min(measured[name] for measured in rounds) for name in rounds[0]}
    total = sum(layers.values())
    say(
        f"{machine()}; batches of {options.batch}, best of {_ROUNDS} rounds of {options.events} interruptions"
    )
    for name, microseconds in layers.items():
        say(f"{name:82}{microseconds:7.1f} µs{microseconds / total:6.0%}")
    say(f"{'together':82}{total:7.1f} µs")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Processor time an interruption, layer by layer.")
    parser.add_argument("--events", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=32, help="how many share a commit")
    parser.add_argument("--instances", type=int, default=100_000)
    return parser.parse_args()


def run(
    directory: Path, options: argparse.Namespace, done: Callable[[float], None] = lambda _: None
) -> Iterator[Mapping[str, float]]:
    """Microseconds an interruption by layer, round by round."""
    url = f"sqlite:///{directory}/store.db"
    remember(url, options.instances)
    store = open_store(url, Rules()).store
    for number in range(_ROUNDS):
        yield _round(store, _sample(number * options.events, options), options.batch)
        done(number + 1)
    store.close()


def _sample(first: int, options: argparse.Namespace) -> Sample:
    # A prime step: neighbours in time are no neighbours in the file.
    numbers = [first + number for number in range(options.events)]
    bodies = [body(number * 7919, options.instances) for number in numbers]
    return Sample(bodies, [_decoded(one) for one in bodies])


def _decoded(one: bytes) -> Event:
    message = decode_push(one)
    event = decode_entry(message.data, message, 0.0)
    assert not isinstance(event, Ignored)
    return event


def _round(store: Store, sample: Sample, batch: int) -> Mapping[str, float]:
    envelopes = _measured(sample.bodies, decode_push)
    messages = [decode_push(one) for one in sample.bodies]
    entries = _measured(messages, lambda message: decode_entry(message.data, message, 0.0))
    batches = [sample.events[start : start + batch] for start in range(0, len(sample.events), batch)]
    applied: list[Applied] = []
    stored = _measured(batches, lambda events: applied.append(store.apply(events, time.time())))
    outcomes = [outcome for one in applied for outcome in one.outcomes]
    assert all(isinstance(outcome, Counted) for outcome in outcomes)
    endpoint = _endpoint(sample.bodies, outcomes)
    recorded = asyncio.run(_recorder(_Committed(applied), batches))
    rules = _rules(sample.events)
    layers = {
        "envelope (gcp/pubsub)": envelopes,
        "log entry (gcp/auditlog)": entries,
        "token, body, answer, own metrics (web/push)": endpoint - envelopes - entries,
        "queue, hand-over to the thread, log line, totals shown (recorder, logs, metrics)": recorded,
        "rules (domain)": rules,
        "rows, SQLite, the kernel's part of writing (store)": stored - rules,
    }
    return {name: seconds / len(sample.events) * 1e6 for name, seconds in layers.items()}


def _measured(things: Sequence[_T], work: Callable[[_T], object]) -> float:
    began = time.process_time()
    for thing in things:
        work(thing)
    return time.process_time() - began


def _rules(events: Sequence[Event]) -> float:
    node = Node("shop", "europe-west1", "spot-pool", "n2-standard-8")
    now = time.time()
    batch = Batch(Tally(Totals(), max_label_sets=10_000, revealed=True, now=now), Rules(), now)
    interruptions = [event for event in events if isinstance(event, InstanceInterrupted)]
    known = [
        Instance(
            event.name, event.id, Kind.NODE, node, now, spot=True, alive=True, announced=True, created_at=1.0
        )
        for event in interruptions
    ]
    batch.load((), known, ())
    return _measured(interruptions, batch.decide)


class _Known:
    """Says that every caller is known."""

    def cached(self, authorization: str) -> str:
        return authorization

    async def verify(self, authorization: str | None) -> str:
        return authorization or ""


class _Answers:
    """Gives the outcomes in their order, at once."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes = iter(outcomes)

    def submit(self, caller: Caller) -> None:
        caller.tell(next(self._outcomes))


def _endpoint(bodies: Sequence[bytes], outcomes: Sequence[Outcome]) -> float:
    push = PushEndpoint(
        "interruption",
        "",
        _Known(),
        _Answers(outcomes),  # type: ignore[arg-type]
        Metrics().pushes["interruption"],
        Gate(),
        ask=lambda _: None,
        bodies=BodyReader(1 << 20),
    )

    return _measured(bodies, lambda one: push.take(_HEADERS, one, _Unheard()))


class _Unheard:
    """Takes answers, and does nothing with them."""

    def expect(self, answer: Answer) -> None:
        pass

    def give(self, answer: Answer) -> None:
        pass


class _Waiting(Caller):
    """One of a batch, of which any may tell the end."""

    def __init__(self, event: Event, done: asyncio.Event) -> None:
        super().__init__(event)
        self._done = done

    def take(self, _result: Result) -> None:
        self._done.set()


class _Committed:
    """A store that has committed each batch before."""

    def __init__(self, applied: Sequence[Applied]) -> None:
        self._applied = iter(applied)

    def prepare(self, _events: Sequence[Event], _now: float) -> Prepared:
        applied = next(self._applied)
        return Prepared(lambda: applied, applied.outcomes)


async def _recorder(store: _Committed, batches: Sequence[Sequence[Event]]) -> float:
    recorder = Recorder(store, Metrics())  # type: ignore[arg-type]
    writer = asyncio.create_task(recorder.run())
    with _log_lines_to(os.devnull):
        began = time.process_time()
        for batch in batches:
            done = asyncio.Event()
            for event in batch:
                recorder.submit(_Waiting(event, done))
            await done.wait()
        spent = time.process_time() - began
    recorder.close()
    await writer
    return spent


@contextmanager
def _log_lines_to(path: str) -> Iterator[None]:
    """Have log lines written as the exporter writes them, but elsewhere."""
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
