"""The time that instances live, of a pool that is scaled often."""

from collections import defaultdict
from collections.abc import Iterator
from random import Random
from typing import Final

import pytest

from app.domain.events import Event, InstanceName, Listed
from app.store.port import Store
from tests.store.stories import list_fleet, row_of
from tests.support.examples import NAME, NOW, created, deleted, listed

HOURS: Final = 3
SCALED_SECONDS: Final = 600
SIZES: Final = (10, 100)
LISTED_SECONDS: Final = 600
BEAT_SECONDS: Final = 60


class ScaledPool:
    """A pool that grows to 100 nodes and shrinks to 10, every ten minutes; and its true instance-seconds.

    A node comes within a minute, and goes within two. Its events are pushed seconds later.
    """

    def __init__(self, seed: int) -> None:
        random = Random(seed)  # noqa: S311 - no secret
        self.ends = NOW + HOURS * 3600
        self.pushes: dict[int, list[Event]] = defaultdict(list)
        """By the second in which they arrive."""
        self.lives: dict[str, tuple[float, float]] = {}
        living: list[str] = []
        for number in range(HOURS * 3600 // SCALED_SECONDS):
            at, size = NOW + number * SCALED_SECONDS, SIZES[(number + 1) % 2]
            while len(living) < size:
                instance_id = str(len(self.lives))
                living.append(instance_id)
                since = at + random.uniform(5, 60)
                self.lives[instance_id] = (since, self.ends)
                self._push(created(instance_id, since, name=self._name(instance_id)), since, random)
            while len(living) > size:
                instance_id = living.pop(0)
                until = at + random.uniform(5, 120)
                self.lives[instance_id] = (self.lives[instance_id][0], until)
                self._push(deleted(instance_id, until, name=self._name(instance_id)), until, random)

    @property
    def instance_seconds(self) -> float:
        """The truth."""
        return sum(until - since for since, until in self.lives.values())

    def alive(self, at: float) -> list[Listed]:
        """Return what a listing returns."""
        return [
            listed(instance_id, since, name=self._name(instance_id))
            for instance_id, (since, until) in self.lives.items()
            if since <= at < until
        ]

    def seconds(self) -> Iterator[tuple[float, list[Event]]]:
        """Yield each second, with the events that arrive in it."""
        for second in range(HOURS * 3600 + 1):
            yield NOW + second, self.pushes[second]

    def _push(self, event: Event, at: float, random: Random) -> None:
        self.pushes[int(at + random.uniform(1, 4) - NOW)].append(event)

    def _name(self, instance_id: str) -> InstanceName:
        return NAME._replace(instance=f"node-{instance_id}")


def test_the_instance_seconds_of_a_pool_that_is_scaled_often_are_true(store: Store) -> None:
    pool = ScaledPool(1)

    for now, events in pool.seconds():
        if events:
            store.apply(events, now)
        if (now - NOW) % LISTED_SECONDS == LISTED_SECONDS / 2:
            list_fleet(store, pool.alive(now), now)
        if (now - NOW) % BEAT_SECONDS == 0:
            store.accrue_instance_seconds(now)

    assert row_of(store).instance_seconds == pytest.approx(pool.instance_seconds, rel=0.01)
