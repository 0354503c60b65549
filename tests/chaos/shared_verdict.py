"""What several replicas show together in the end, beside what was sent to them."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Final

from tests.chaos.traffic import Labels, Traffic
from tests.chaos.verdict import COUNTERS, faults, in_ledger, own
from tests.support.process import eventually
from tests.support.prometheus import Prometheus, Series
from tests.support.replicas import SCRAPE_SECONDS, Replicas

PENDING: Final = "spot_interruption_exporter_pending_interruptions"
_ONLY_THE_LEADERS: Final = ("spot_instances", PENDING)
_HARDLY_APART: Final = 2.5


class SharedVerdict:
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
        self._prometheus.wait_for_scrapes(2)

    def wrong(self) -> list[str]:
        """What is not as it should be, a line each."""
        series = [one for name in COUNTERS for one in self._raw(name)]
        replica = self._replicas[self._replicas.names[-1]]
        return [
            *self._differences(),
            *faults(series),
            *in_ledger(self._made, replica.client, f"http://{replica.metrics_address}"),
            *self._in_the_end(),
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
                seen[own(one.labels)] += round(grown)
            for labels in sent.keys() | seen.keys():
                if seen[labels] != sent.get(labels, 0):
                    yield f"{name}{dict(sorted(labels))}: {sent.get(labels, 0)} sent, {seen[labels]} seen"

    def _in_the_end(self) -> list[str]:
        """What does not become as it should be: a scrape that fails on a busy machine shows nothing."""
        wrong: list[str] = []

        def settled() -> bool:
            wrong[:] = self._shared()
            return not wrong

        with suppress(TimeoutError):
            eventually(settled, within=30, what="one replica leads")
        return wrong

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
