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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.chaos.delivery import CALLERS, Delivery, Report
from tests.chaos.shared_verdict import PENDING, SharedVerdict
from tests.chaos.telling import conclude, say
from tests.chaos.traffic import Traffic, traffic
from tests.support.process import eventually
from tests.support.prometheus import Prometheus
from tests.support.replicas import REFRESH_SECONDS, SCRAPE_SECONDS, Replicas

SHORT: Final = ("kill", "redis", "5", "drop", "pause", "kill", "2", "power", "calm")
LONG: Final = (
    *("kill", "redis", "drop", "5", "kill", "pause", "redis", "drop", "2", "power"),
    *("3", "kill", "redis", "5", "pause", "drop", "2", "kill", "power", "calm"),
)
"""What happens, one after the other, each while an equal part of the messages is delivered."""

_FIRST_SHARE: Final = 4  # a part's step begins when a quarter of its messages are acknowledged
_DROPS: Final = 10
_PROGRAMS: Final = ("nginx", "redis-server", "prometheus")


def main() -> None:
    """Run the long form, and print what was seen."""
    options = _options()
    if missing := [program for program in _PROGRAMS if shutil.which(program) is None]:
        sys.exit(f"this needs {', '.join(missing)}")
    with TemporaryDirectory() as folder:
        report = run(
            Path(folder), events=options.events, seed=options.seed, script=LONG, shortened=False, say=say
        )
    say(f"{options.events} interruptions, seed {options.seed}, {report.seconds:.0f} s")
    say(f"steps: {dict(report.steps)}; led by: {', '.join(report.leaders)}")
    say(
        f"{report.delivered} deliveries, {report.acknowledged} acknowledged; repeated {dict(report.repeated)}"
    )
    say(f"slowest refusal: {report.slowest_refusal_seconds:.2f} s; {report.scrapes} scrapes looked at")
    conclude(report.wrong)


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
        verdict = SharedVerdict(replicas, prometheus, made, began, scene.unsettled)
        verdict.settle()
        report = scene.delivery.report
        report.wrong += verdict.wrong()
        report.leaders, report.scrapes = verdict.leaders(), verdict.scrapes()
    report.seconds = time.time() - began
    return report


async def _perform(scene: "_Scene", made: Traffic, script: Sequence[str], say: Callable[[str], None]) -> None:
    share = -(-len(made.messages) // len(script))
    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(scene.delivery.call()) for _ in range(CALLERS)]
        for number, step in enumerate(script):
            done = scene.delivery.report.acknowledged
            say(f"{number + 1}/{len(script)} {step}: {done} of {len(made.messages)} messages acknowledged")
            part = made.messages[number * share : (number + 1) * share]
            await scene.delivery.deliver(part, len(part) // _FIRST_SHARE)
            await asyncio.to_thread(scene.play, step)
            await scene.delivery.all_acknowledged()
        for caller in callers:
            caller.cancel()


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
            lambda: repeated.total() >= before + CALLERS or not self.delivery.unacknowledged,
            within=10,
            what="pushes are refused while Redis is away",
        )
        process.start()

    def _drop_connections(self) -> None:
        """Redis lives, and its replies do not come: what was executed is not known where it was asked for."""
        for _ in range(_DROPS):
            left = max(self.delivery.unacknowledged - CALLERS, 0)
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
        leaders = [sample.labels["instance"] for sample in self._prometheus.query(PENDING)]
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


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Exactly once, whatever happens to the replicas.")
    parser.add_argument("--events", type=int, default=20_000, help="interruptions, besides creations")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
