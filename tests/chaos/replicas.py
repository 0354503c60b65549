"""Failing replicas, failing Redis, and scaling, all under load; every event must count exactly once.

`python -m tests.chaos.replicas [--events 20000] [--seed 1]`; needs nginx, redis-server and prometheus.
"""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.chaos.replica_comparison import PENDING, ReplicaComparison
from tests.chaos.replica_sender import CALLERS, ReplicaSender, Report
from tests.chaos.traffic import Traffic, disordered_traffic
from tests.support.output import exit_with, print_line
from tests.support.process import eventually
from tests.support.prometheus import Prometheus
from tests.support.replicas import REFRESH_SECONDS, SCRAPE_SECONDS, Replicas

SHORT: Final = ("kill", "redis", "5", "drop", "pause", "kill", "2", "power", "calm")
LONG: Final = (
    *("kill", "redis", "drop", "5", "kill", "pause", "redis", "drop", "2", "power"),
    *("3", "kill", "redis", "5", "pause", "drop", "2", "kill", "power", "calm"),
)
"""The steps in order. During each step an equal part of the messages is delivered. A number scales to it."""

_STEP_STARTS_AFTER: Final = 4  # a step starts when a quarter of its messages are acknowledged
_DROPS: Final = 10
_PROGRAMS: Final = ("nginx", "redis-server", "prometheus")


def main() -> None:
    """Run the long form, and print the results."""
    options = _options()
    if missing := [program for program in _PROGRAMS if shutil.which(program) is None]:
        sys.exit(f"this test needs {', '.join(missing)}: install what is missing")
    with TemporaryDirectory() as folder:
        report = run(
            Path(folder),
            events=options.events,
            seed=options.seed,
            steps=LONG,
            shortened=False,
            log=print_line,
        )
    print_line(f"{options.events} interruptions, seed {options.seed}, {report.seconds:.0f} s")
    print_line(f"steps: {dict(report.steps)}; led by: {', '.join(report.leaders)}")
    print_line(
        f"{report.delivered} deliveries, {report.acknowledged} acknowledged; repeated {dict(report.repeated)}"
    )
    print_line(f"slowest refusal: {report.slowest_refusal_seconds:.2f} s; {report.scrapes} scrapes checked")
    exit_with(report.errors)


def run(
    directory: Path,
    *,
    events: int,
    seed: int,
    steps: Sequence[str],
    shortened: bool,
    log: Callable[[str], None] = lambda _: None,
) -> Report:
    """Deliver this many interruptions to three replicas during the steps, and compare the counts.

    If `shortened`, end the lease of a leader that is killed or paused instead of waiting for it.
    """
    rng = random.Random(seed)  # noqa: S311  # reproducible, not secret
    traffic = disordered_traffic(rng, events)
    began = time.time()
    replicas = Replicas(directory, 3)
    # Prometheus is started first, because it needs 5 s to its first scrape.
    with replicas.prometheus(directory / "prometheus") as prometheus, replicas:
        injector = _FaultInjector(replicas, prometheus, rng, shortened=shortened)
        asyncio.run(_run_steps(injector, traffic, steps, log))
        log("waiting for the last scrapes")
        comparison = ReplicaComparison(replicas, prometheus, traffic, began, injector.lease_changes)
        comparison.wait_for_scrapes()
        report = injector.sender.report
        report.errors += comparison.errors()
        report.leaders, report.scrapes = comparison.leaders(), comparison.scrapes()
    report.seconds = time.time() - began
    return report


async def _run_steps(
    injector: "_FaultInjector", traffic: Traffic, steps: Sequence[str], log: Callable[[str], None]
) -> None:
    share = -(-len(traffic.messages) // len(steps))
    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(injector.sender.run_caller()) for _ in range(CALLERS)]
        for number, step in enumerate(steps):
            done = injector.sender.report.acknowledged
            log(f"{number + 1}/{len(steps)} {step}: {done} of {len(traffic.messages)} messages acknowledged")
            part = traffic.messages[number * share : (number + 1) * share]
            await injector.sender.deliver(part, len(part) // _STEP_STARTS_AFTER)
            await asyncio.to_thread(injector.apply, step)
            await injector.sender.wait_until_acknowledged()
        for caller in callers:
            caller.cancel()


class _FaultInjector:
    """Applies faults and changes of scale to the replicas during deliveries."""

    def __init__(
        self, replicas: Replicas, prometheus: Prometheus, rng: random.Random, *, shortened: bool
    ) -> None:
        self.sender = ReplicaSender(replicas, rng)
        self.lease_changes: list[tuple[float, float]] = []
        """Periods in which a paused leader lost its lease, so two replicas may seem to lead."""
        self._replicas = replicas
        self._prometheus = prometheus
        self._rng = rng
        self._shortened = shortened
        self._actions: Mapping[str, Callable[[], None]] = {
            "kill": self._kill,
            "redis": self._kill_redis,
            "drop": self._drop_connections,
            "pause": self._pause,
            "power": self._cut_power,
            "calm": lambda: None,
        }

    def apply(self, step: str) -> None:
        """Apply a step. A number scales to this many replicas."""
        self.sender.report.steps[step] += 1
        if step.isdecimal():
            self._scale(int(step))
        else:
            self._actions[step]()

    def _kill(self) -> None:
        name = self._rng.choice(self._replicas.names)
        led = self._leader() == name
        process = self._replicas[name].process
        process.kill()
        if led and self._shortened:
            self._replicas.end_lease()
        process.start()

    def _kill_redis(self) -> None:
        process, repeated = self._replicas.redis.process, self.sender.report.repeated
        before = repeated.total()
        process.kill()
        eventually(
            lambda: repeated.total() >= before + CALLERS or not self.sender.unacknowledged,
            within=10,
            what="pushes are refused while Redis is away",
        )
        process.start()

    def _drop_connections(self) -> None:
        """Close the connections to Redis, so replicas miss the replies to their transactions."""
        for _ in range(_DROPS):
            left = max(self.sender.unacknowledged - CALLERS, 0)
            self._replicas.redis.client.client_kill_filter(_type="normal", skipme=True)
            eventually(partial(self._has_at_most, left), within=20, what="messages are acknowledged")

    def _has_at_most(self, unacknowledged: int) -> bool:
        return self.sender.unacknowledged <= unacknowledged

    def _cut_power(self) -> None:
        """Kill all processes at the same time, and restart them in any order."""
        redis = self._replicas.redis.process
        processes = [redis, *(self._replicas[name].process for name in self._replicas.names)]
        for process in processes:
            process.kill()
        redis.start()  # first: an exporter that cannot reach its store at the start ends
        if self._shortened:
            self._replicas.end_lease()
        with ThreadPoolExecutor(len(processes)) as threads:
            list(threads.map(lambda process: process.start(), processes[1:]))

    def _pause(self) -> None:
        """Pause the leader for longer than its lease, during its requests, and continue it."""
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
            self.lease_changes.append(
                (began - SCRAPE_SECONDS, time.time() + REFRESH_SECONDS + SCRAPE_SECONDS)
            )

    def _leader(self) -> str | None:
        """Return the leader according to Prometheus. Our own scrape would start the hold of new series."""
        leaders = [sample.labels["instance"] for sample in self._prometheus.query(PENDING)]
        return leaders[0] if len(leaders) == 1 else None

    def _scale(self, count: int) -> None:
        if count > len(self._replicas.names):
            self._replicas.scale_out(count, self._prometheus)
            # Prometheus would miss a replica that ends before its first scrape.
            eventually(self._all_scraped, within=30, what=f"all {count} replicas are scraped")
            return
        statuses = self._replicas.scale_in(count, self._prometheus)
        if any(statuses):
            self.sender.report.errors.append(
                f"replicas that were scaled in ended with exit statuses {statuses}"
            )

    def _all_scraped(self) -> bool:
        up = {sample.labels["instance"] for sample in self._prometheus.query("up == 1")}
        return up.issuperset(self._replicas.names)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Exactly-once counts over failing replicas.")
    parser.add_argument("--events", type=int, default=20_000, help="interruptions; creations are additional")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
