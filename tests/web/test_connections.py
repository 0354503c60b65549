"""The connections of a server: which one ends when there are too many, or when they hold too much."""

import asyncio
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from app.web.connections import MAX_HELD_BYTES, ConnectionsLimit


class Wire(asyncio.Transport):
    """A transport that can be aborted."""

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False

    def abort(self) -> None:
        self.aborted = True


class Caller:
    """A connection, as its limits see it. It counts how often it was looked at."""

    looks = 0

    def __init__(self, loop: asyncio.AbstractEventLoop, since: float | None) -> None:
        self.loop = loop
        self.wire = Wire()
        self.transport: asyncio.Transport = self.wire
        self.since = since

    @property
    def idle_since(self) -> float | None:
        Caller.looks += 1
        return self.since

    def check(self, _now: float) -> None:
        """Owe nothing."""


def in_loop(scenario: Callable[[asyncio.AbstractEventLoop], None]) -> None:
    async def run() -> None:
        scenario(asyncio.get_running_loop())
        await asyncio.sleep(0)

    asyncio.run(run())


@given(st.lists(st.tuples(st.sampled_from(["open", "use", "ask", "close"]), st.integers(0, 5)), max_size=60))
def test_beyond_the_limit_always_the_one_that_was_idle_longest_ends(steps: list[tuple[str, int]]) -> None:
    def scenario(loop: asyncio.AbstractEventLoop) -> None:
        limit = ConnectionsLimit(4)
        living: list[Caller] = []
        for now, (step, which) in enumerate(steps):
            if step == "open":
                idle = [one.since for one in living if one.since is not None]
                limit.add(caller := Caller(loop, now))
                ended = [one for one in living if one.wire.aborted]
                assert len(ended) == (len(living) == 4)
                assert all(one.since == min(idle, default=None) for one in ended)
                living = [one for one in living if not one.wire.aborted] + [caller]
            elif which < len(living) and step == "close":
                limit.discard(living.pop(which))
            elif which < len(living):
                living[which].since = now if step == "use" else None
        for one in living:
            limit.discard(one)

    in_loop(scenario)


def test_a_flood_of_connections_does_not_look_at_all_the_others_each_time() -> None:
    most, flood = 500, 5000

    def scenario(loop: asyncio.AbstractEventLoop) -> None:
        limit = ConnectionsLimit(most)
        Caller.looks = 0
        callers = [Caller(loop, float(now)) for now in range(most + flood)]
        for caller in callers:
            limit.add(caller)
        assert [one.wire.aborted for one in callers] == [True] * flood + [False] * most
        assert Caller.looks <= 3 * flood
        for caller in callers:
            limit.discard(caller)

    in_loop(scenario)


def test_beyond_the_limit_of_waiting_data_the_connection_that_waits_longest_ends() -> None:
    callers: list[Caller] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        limit = ConnectionsLimit(10)
        callers.extend(Caller(loop, 0.0) for _ in range(4))
        for caller in callers:
            limit.add(caller)
        half = MAX_HELD_BYTES // 2
        limit.note_held(callers[0], half)
        limit.note_held(callers[0], 0)
        limit.note_held(callers[1], 1)
        limit.note_held(callers[2], half)
        limit.note_held(callers[1], half)
        await asyncio.sleep(0)
        assert not any(one.wire.aborted for one in callers)
        limit.note_held(callers[3], 1)
        await asyncio.sleep(0)
        for caller in callers:
            limit.discard(caller)

    asyncio.run(scenario())
    assert [one.wire.aborted for one in callers] == [False, True, False, False]
