"""Replicas, Redis and pods come and go under load; in the end every event shows exactly once.

`python -m tests.chaos.replicas [--events 20000] [--seed 1]`; needs nginx, redis-server and prometheus.
"""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import httpx

from tests.chaos.traffic import Labels, Message, Traffic, traffic
from tests.support.process import eventually
from tests.support.prometheus import Prometheus, Series
from tests.support.replicas import REFRESH_SECONDS, SCRAPE_SECONDS, Replicas

SHORT: Final = ("kill", "redis", "5", "drop", "pause", "kill", "2", "power", "calm")
LONG: Final = (
    *("kill", "redis", "drop", "5", "kill", "pause", "redis", "drop", "2", "power"),
    *("3", "kill", "redis", "5", "pause", "drop", "2", "kill", "power", "calm"),
)
"""What happens, one after the other, each while an equal part of the messages is delivered."""

_CALLERS: Final = 24
_TIMEOUT_SECONDS: Final = 4
_FIRST_SHARE: Final = 4  # a part's step begins when a quarter of its messages are acknowledged
_DROPS: Final = 10
_COUNTERS: Final = (
    "interruption_events_total",
    "spot_interruptions_total",
    "spot_instances_created_total",
    "spot_instance_creations_failed_total",
    "spot_instance_seconds_total",
    "spot_instance_lifetime_seconds_count",
    "spot_instance_lifetime_seconds_sum",
    "spot_instance_lifetime_seconds_bucket",
)
_PENDING: Final = "spot_interruption_exporter_pending_interruptions"
_ONLY_THE_LEADERS: Final = ("spot_instances", _PENDING)
_HARDLY_APART: Final = 2.5
_PROGRAMS: Final = ("nginx", "redis-server", "prometheus")


@dataclass(slots=True)
class Report:
    """What was done, and what was wrong with the result."""

    delivered: int = 0
    acknowledged: int = 0
    repeated: Counter[str] = field(default_factory=Counter)
    """Requests that were not acknowledged, by what became of them."""
    slowest_refusal_seconds: float = 0.0
    steps: Counter[str] = field(default_factory=Counter)
    leaders: list[str] = field(default_factory=list)
    seconds: float = 0.0
    scrapes: int = 0
    wrong: list[str] = field(default_factory=list)


def main() -> None:
    """Run the long form, and print what was seen."""
    options = _options()
    if missing := [program for program in _PROGRAMS if shutil.which(program) is None]:
        sys.exit(f"this needs {', '.join(missing)}")
    with TemporaryDirectory() as folder:
        report = run(
            Path(folder), events=options.events, seed=options.seed, script=LONG, shortened=False, say=_say
        )
    _say(f"{options.events} interruptions, seed {options.seed}, {report.seconds:.0f} s")
    _say(f"steps: {dict(report.steps)}; led by: {', '.join(report.leaders)}")
    _say(
        f"{report.delivered} deliveries, {report.acknowledged} acknowledged; repeated {dict(report.repeated)}"
    )
    _say(f"slowest refusal: {report.slowest_refusal_seconds:.2f} s; {report.scrapes} scrapes looked at")
    for line in report.wrong:
        _say(f"WRONG: {line}")
    _say("not exact" if report.wrong else "exact")
    sys.exit(bool(report.wrong))


def run(
    directory: Path,
    *,
    events: int,
    seed: int,
    script: Sequence[str],
    shortened: bool,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Deliver so many interruptions to three replicas while the script happens to them.

    `shortened`: the lease of a leader that is killed or paused is ended, and not waited for.
    """
    chance = random.Random(seed)  # noqa: S311  # to be repeated, not to be secret
    made = traffic(chance, events)
    began = time.time()
    with Replicas(directory, 3) as replicas, replicas.prometheus(directory / "prometheus") as prometheus:
        scene = _Scene(replicas, prometheus, chance, shortened=shortened)
        asyncio.run(_perform(scene, made, script, say))
        say("waiting for the last scrapes")
        verdict = _Verdict(replicas, prometheus, made, began, scene.unsettled)
        verdict.settle()
        report = scene.delivery.report
        report.wrong += verdict.wrong()
        report.leaders, report.scrapes = verdict.leaders(), verdict.scrapes()
    report.seconds = time.time() - began
    return report


async def _perform(scene: "_Scene", made: Traffic, script: Sequence[str], say: Callable[[str], None]) -> None:
    share = -(-len(made.messages) // len(script))
    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(scene.delivery.call()) for _ in range(_CALLERS)]
        for number, step in enumerate(script):
            done = scene.delivery.report.acknowledged
            say(f"{number + 1}/{len(script)} {step}: {done} of {len(made.messages)} messages acknowledged")
            part = made.messages[number * share : (number + 1) * share]
            await scene.delivery.deliver(part, len(part) // _FIRST_SHARE)
            await asyncio.to_thread(scene.play, step)
            await scene.delivery.all_acknowledged()
        for caller in callers:
            caller.cancel()


class Delivery:
    """Delivers messages as Pub/Sub does, again and again until each is acknowledged."""

    def __init__(self, replicas: Replicas, chance: random.Random) -> None:
        self.report = Report()
        self.unacknowledged = 0
        self._replicas = replicas
        self._chance = chance
        self._waiting: asyncio.Queue[Message] = asyncio.Queue()
        self._progress = asyncio.Condition()

    async def deliver(self, messages: Sequence[Message], wait_for: int) -> None:
        """Have these delivered; returns once so many of them are acknowledged."""
        self.report.delivered += len(messages)
        self.unacknowledged += len(messages)
        for message in messages:
            self._waiting.put_nowait(message)
        left = len(messages) - wait_for
        async with self._progress:
            await self._progress.wait_for(lambda: self.unacknowledged <= left)

    async def all_acknowledged(self) -> None:
        """Wait until nothing is under way."""
        async with self._progress:
            await self._progress.wait_for(lambda: not self.unacknowledged)

    async def call(self) -> None:
        """Deliver one message after the other."""
        limits = httpx.Limits(max_connections=2)
        async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_SECONDS, limits=limits) as client:
            while True:
                message = await self._waiting.get()
                urls = self._two_replicas() if message.twice else [self._replicas.nginx.url]
                await asyncio.gather(*(self._repeat(client, message, url) for url in urls))
                self.report.acknowledged += 1
                self.unacknowledged -= 1
                async with self._progress:
                    self._progress.notify_all()

    def _two_replicas(self) -> list[str]:
        return [self._replicas[name].url for name in self._chance.sample(self._replicas.names, 2)]

    async def _repeat(self, client: httpx.AsyncClient, message: Message, url: str) -> None:
        """Push to the URL, and then to whomever nginx chooses, until it is acknowledged."""
        while (refusal := await self._refusal(client, message, url)) is not None:
            self.report.repeated[refusal] += 1
            url = self._replicas.nginx.url
            await asyncio.sleep(self._chance.uniform(0.05, 0.2))  # as Pub/Sub backs off

    async def _refusal(self, client: httpx.AsyncClient, message: Message, url: str) -> str | None:
        began = time.monotonic()
        try:
            answer = await client.post(f"{url}/events/{message.endpoint}", content=message.body)
        except httpx.HTTPError as exc:
            return type(exc).__name__
        if answer.status_code == httpx.codes.OK:
            return None
        if "problem+json" not in answer.headers["content-type"]:
            return f"{answer.status_code} of nginx"
        took = time.monotonic() - began
        self.report.slowest_refusal_seconds = max(self.report.slowest_refusal_seconds, took)
        return f"{answer.status_code} {answer.json()['reason']}"


class _Scene:
    """What happens to the replicas, while messages are delivered to them."""

    def __init__(
        self, replicas: Replicas, prometheus: Prometheus, chance: random.Random, *, shortened: bool
    ) -> None:
        self.delivery = Delivery(replicas, chance)
        self.unsettled: list[tuple[float, float]] = []
        """When a lease was taken from a leader that could not know of it."""
        self._replicas = replicas
        self._prometheus = prometheus
        self._chance = chance
        self._shortened = shortened
        self._acts: Mapping[str, Callable[[], None]] = {
            "kill": self._kill,
            "redis": self._kill_redis,
            "drop": self._drop_connections,
            "pause": self._pause,
            "power": self._cut_power,
            "calm": lambda: None,
        }

    def play(self, step: str) -> None:
        """Do what the step says: a number is how many replicas there are to be."""
        self.delivery.report.steps[step] += 1
        if step.isdecimal():
            self._scale(int(step))
        else:
            self._acts[step]()

    def _kill(self) -> None:
        name = self._chance.choice(self._replicas.names)
        led = self._leader() == name
        process = self._replicas[name].process
        process.kill()
        if led and self._shortened:
            self._replicas.end_lease()
        process.start()

    def _kill_redis(self) -> None:
        process, repeated = self._replicas.redis.process, self.delivery.report.repeated
        before = repeated.total()
        process.kill()
        eventually(
            lambda: repeated.total() >= before + _CALLERS or not self.delivery.unacknowledged,
            within=10,
            what="pushes are refused while Redis is away",
        )
        process.start()

    def _drop_connections(self) -> None:
        """Redis lives, and its replies do not come: what was executed is not known where it was asked for."""
        for _ in range(_DROPS):
            left = max(self.delivery.unacknowledged - _CALLERS, 0)
            self._replicas.redis.client.client_kill_filter(_type="normal", skipme=True)
            eventually(partial(self._at_most, left), within=20, what="messages are acknowledged")

    def _at_most(self, unacknowledged: int) -> bool:
        return self.delivery.unacknowledged <= unacknowledged

    def _cut_power(self) -> None:
        """Everything dies at the same time, and comes back in no order."""
        redis = self._replicas.redis.process
        processes = [redis, *(self._replicas[name].process for name in self._replicas.names)]
        for process in processes:
            process.kill()
        redis.start()  # an exporter that finds no store at its start ends, and would be started again
        if self._shortened:
            self._replicas.end_lease()
        with ThreadPoolExecutor(len(processes)) as threads:
            list(threads.map(lambda process: process.start(), processes[1:]))

    def _pause(self) -> None:
        """The leader stands still for longer than its lease, with requests in its hands, and goes on."""
        leader = eventually(self._leader, within=30, what="a replica leads")
        process = self._replicas[leader].process
        began = time.time()
        process.send(signal.SIGSTOP)
        try:
            if self._shortened:
                self._replicas.end_lease()
            eventually(lambda: self._leader() not in (None, leader), within=40, what="another replica leads")
        finally:
            process.send(signal.SIGCONT)
        if self._shortened:
            self.unsettled.append((began - SCRAPE_SECONDS, time.time() + REFRESH_SECONDS + SCRAPE_SECONDS))

    def _leader(self) -> str | None:
        """As Prometheus sees it: a scrape by us would begin the hold of what is new."""
        leaders = [sample.labels["instance"] for sample in self._prometheus.query(_PENDING)]
        return leaders[0] if len(leaders) == 1 else None

    def _scale(self, count: int) -> None:
        if count > len(self._replicas.names):
            self._replicas.scale_out(count, self._prometheus)
            # A pod that is gone before Prometheus has found it was never seen.
            eventually(self._all_scraped, within=30, what=f"all {count} replicas are scraped")
            return
        statuses = self._replicas.scale_in(count, self._prometheus)
        if any(statuses):
            self.delivery.report.wrong.append(f"replicas that were scaled in have ended with {statuses}")

    def _all_scraped(self) -> bool:
        up = {sample.labels["instance"] for sample in self._prometheus.query("up == 1")}
        return up.issuperset(self._replicas.names)


class _Verdict:
    """What Prometheus and the ledger have in the end, beside what was sent."""

    def __init__(
        self,
        replicas: Replicas,
        prometheus: Prometheus,
        made: Traffic,
        began: float,
        unsettled: Sequence[tuple[float, float]],
    ) -> None:
        self._replicas = replicas
        self._prometheus = prometheus
        self._made = made
        self._began = began
        self._unsettled = unsettled
        self._sent: Mapping[str, Mapping[Labels, float]] = {
            "interruption_events_total": made.by_cluster,
            "spot_interruptions_total": made.interruptions,
            "spot_instances_created_total": made.created,
            "spot_instance_lifetime_seconds_count": made.lifetimes,
        }

    def settle(self) -> None:
        """Wait until everything is scraped, and then two scrapes more: there might come too much."""
        with suppress(TimeoutError):
            eventually(lambda: not list(self._differences()), within=20, what="everything is scraped")
        with suppress(TimeoutError):
            eventually(lambda: not list(self._shared()), within=30, what="one replica leads")
        self._prometheus.wait_for_scrapes(2)

    def wrong(self) -> list[str]:
        """What is not as it should be, a line each."""
        series = [one for name in _COUNTERS for one in self._raw(name)]
        return [
            *self._differences(),
            *_faults(series),
            *self._in_ledger(),
            *self._shared(),
            *self._led_at_once(),
        ]

    def leaders(self) -> list[str]:
        """Who led, one after the other."""
        led = [name for _, name in self._led()]
        return [name for before, name in pairwise(["", *led]) if name != before]

    def scrapes(self) -> int:
        """How often a replica was scraped with success."""
        return sum(int(up) for one in self._raw("up") for _, up in one.samples)

    def _raw(self, name: str) -> list[Series]:
        return self._prometheus.raw(name, time.time() - self._began)

    def _differences(self) -> Iterator[str]:
        """Per series and over all replicas: what Prometheus saw it grow, and what was sent."""
        for name, sent in self._sent.items():
            seen: Counter[Labels] = Counter()
            for one in self._raw(name):
                grown = sum(max(later - before, 0) for (_, before), (_, later) in pairwise(one.samples))
                seen[_own_labels(one)] += round(grown)
            for labels in sent.keys() | seen.keys():
                if seen[labels] != sent.get(labels, 0):
                    yield f"{name}{dict(sorted(labels))}: {sent.get(labels, 0)} sent, {seen[labels]} seen"

    def _in_ledger(self) -> Iterator[str]:
        rows: Counter[tuple[str, str]] = Counter()
        replica, page = self._replicas[self._replicas.names[-1]], {"limit": "1000"}
        while True:
            answer = replica.client.get(f"http://{replica.metrics_address}/interruptions", params=page).json()
            for row in answer["interruptions"]:
                at = datetime.fromisoformat(row["interrupted_at"]).isoformat()
                rows[row["instance_id"], at] += 1
            if answer["next"] is None:
                break
            page["cursor"] = answer["next"]
        if rows != self._made.ledger:
            missing, excess = self._made.ledger - rows, rows - self._made.ledger
            yield f"the ledger lacks {missing.total()} and has {excess.total()} too many"

    def _shared(self) -> Iterator[str]:
        """All instances are interrupted, nothing waits, and one replica at a time says so."""
        for name in _ONLY_THE_LEADERS:
            now = self._prometheus.query(name)
            if any(sample.value for sample in now) or len({one.labels["instance"] for one in now}) != 1:
                yield f"in the end {name} should be 0, on one replica: {now}"

    def _led_at_once(self) -> Iterator[str]:
        """Scrapes that saw a replica lead between two, hardly apart, that saw another."""
        led = self._led()
        for name in {name for _, name in led}:
            for before, after in pairwise(at for at, one in led if one == name):
                between = [(at, other) for at, other in led if before < at < after]
                settled = not any(begin <= before <= end for begin, end in self._unsettled)
                if between and settled and after - before < _HARDLY_APART * SCRAPE_SECONDS:
                    yield f"{name} and {between[0][1]} both lead at {before:.1f}"

    def _led(self) -> list[tuple[float, str]]:
        """At which scrapes a replica showed what only one may, and which."""
        return sorted(
            {
                (at, one.labels["instance"])
                for name in _ONLY_THE_LEADERS
                for one in self._raw(name)
                for at, _ in one.samples
            }
        )


def _own_labels(series: Series) -> Labels:
    return frozenset(
        (label, value)
        for label, value in series.labels.items()
        if label not in ("__name__", "job", "instance")
    )


def _faults(series: Sequence[Series]) -> Iterator[str]:
    """What no durable counter may do: go down, or begin above 0, where nobody sees it grow."""
    for one in series:
        if one.samples[0][1] != 0:
            yield f"{one.labels} begins with {one.samples[0][1]:g}"
        for (_, before), (at, later) in pairwise(one.samples):
            if later < before:
                yield f"{one.labels} went down from {before:g} to {later:g} at {at:.3f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Exactly once, whatever happens to the replicas.")
    parser.add_argument("--events", type=int, default=20_000, help="interruptions, besides creations")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
