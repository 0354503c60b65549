"""A Redis that goes back to older data: restored, failed over to a lagging replica, or flushed."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import pytest

from app.domain.batch import Applied, Rollback
from app.domain.events import InterruptionDetails
from app.domain.outcomes import Counted, Duplicate
from app.domain.replicas import ReplicaSettings
from app.errors import NameTakenError, StoreUnavailableError
from app.store.opening import open_store
from app.store.port import OpenedStore, SharedStore, Store
from tests.store.conftest import LEASE_SECONDS, RULES
from tests.store.stories import interruptions, keep_running, lives, row_of, shared_store, until_done, until_up
from tests.store.stories import life as life_of
from tests.support.examples import DAY, GRACE, LABELS, NOW, created, interrupted
from tests.support.network import LOSSES, Loss, Network
from tests.support.process import LOOPBACK, eventually
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer, key

Client: TypeAlias = Any
"""redis-py's, whose types are those of two clients."""


class Opener(Protocol):
    def __call__(
        self, replica: str = ..., *, url: str = ..., hold: bool = ..., reset_totals: bool = ...
    ) -> SharedStore:
        """Begin a process of that replica."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that keeps on disk what was in its last snapshot."""
    with RedisServer(tmp_path / "redis", "--appendonly", "no") as server:
        yield server


@pytest.fixture
def client(server: RedisServer) -> Client:
    return server.client


@pytest.fixture
def start(server: RedisServer) -> Iterator[Opener]:
    opened: list[OpenedStore] = []

    def start(
        replica: str = "one", *, url: str = server.url, hold: bool = False, reset_totals: bool = False
    ) -> SharedStore:
        opened.append(
            open_store(
                url,
                RULES,
                replica=replica,
                hold=hold,
                reset_totals=reset_totals,
                lease_seconds=LEASE_SECONDS,
            )
        )
        return shared_store(opened[-1])

    yield start
    for one in opened:
        one.store.close()


def restore(server: RedisServer) -> None:
    """Kill the server, and start it from its snapshot."""
    server.process.kill()
    server.process.start()


def synced(store: SharedStore, now: float) -> Applied:
    """Return the effects of the first sync after the server has returned."""
    return until_up(lambda: store.sync(now))


def flush(server: RedisServer) -> None:
    server.client.flushall()


def count(store: Store, first: int, end: int, now: float) -> None:
    """Count an interruption each of the instances from `first` up to `end`."""
    store.apply(lives(*(life_of(number, at=now) for number in range(first, end))), now)


def test_a_process_that_is_younger_than_the_snapshot_keeps_its_name_and_its_counters(
    start: Opener, server: RedisServer, client: Client
) -> None:
    count(start(), 0, 5, NOW)
    client.save()
    store = start()
    count(store, 5, 8, NOW + 60)

    restore(server)
    applied = synced(store, NOW + 90)

    assert applied.rollback == Rollback(since=NOW, until=NOW + 60)
    assert interruptions(store) == {"tills": 8}
    assert store.sync(NOW + 95).rollback is None
    assert interruptions(start()) == {"tills": 8}


@pytest.mark.parametrize("go_back", [restore, flush])
def test_exported_totals_are_exported_again_and_the_lost_time_is_reported(
    start: Opener, server: RedisServer, client: Client, go_back: Callable[[RedisServer], None]
) -> None:
    store, other = start("one"), start("other")
    count(store, 0, 2, NOW)
    count(other, 10, 13, NOW)
    client.save()
    count(store, 2, 3, NOW + 10)
    count(other, 13, 14, NOW + 20)
    before = store.state().totals, other.state().totals
    go_back(server)

    reported = [synced(one, NOW + 30).rollback for one in (store, other)]

    since = NOW if go_back is restore else None
    assert reported == [Rollback(since, NOW + 10), Rollback(since, NOW + 20)]
    for one, totals in zip((store, other), before, strict=True):
        assert interruptions(one) == {
            row.cluster: row.interruptions for row in totals.clusters.values() if row.interruptions
        }
        assert one.state().totals.lifetimes == totals.lifetimes
    assert [interruptions(start(name)) for name in ("one", "other")] == [{"tills": 3}, {"tills": 4}]


def test_a_lagging_replica_that_is_promoted_is_noticed(
    start: Opener, server: RedisServer, tmp_path: Path
) -> None:
    quick = ("--repl-diskless-sync-delay", "0", "--appendonly", "no")
    with (
        Proxy(server.port) as replication,
        Proxy(server.port) as proxy,
        RedisServer(tmp_path / "replica", *quick, "--replicaof", f"{LOOPBACK} {replication.port}") as replica,
    ):
        lagging: Any = replica.client
        store = start(url=proxy.url)
        count(store, 0, 5, NOW)
        last = server.client.get(key("of", "one", "batch"))
        eventually(lambda: lagging.get(key("of", "one", "batch")) == last, within=10, what="a copy")
        replication.go_dark()
        count(store, 5, 8, NOW + 60)

        server.process.kill()
        lagging.replicaof("NO", "ONE")
        proxy.redirect(replica.port)
        applied = synced(store, NOW + 90)

        assert applied.rollback == Rollback(NOW, NOW + 60)
        assert interruptions(store) == {"tills": 8}
        assert interruptions(start(url=proxy.url)) == {"tills": 8}


def test_an_event_that_was_lost_counts_again_and_an_older_one_does_not(
    start: Opener, server: RedisServer, client: Client
) -> None:
    store = start()
    count(store, 0, 1, NOW)
    client.save()
    count(store, 1, 2, NOW + 60)
    restore(server)

    kept, lost = life_of(0, at=NOW), life_of(1, at=NOW + 60)
    applied = until_up(lambda: store.apply([*kept, *lost], NOW + 90))

    assert [type(outcome) for outcome in applied.outcomes[1::2]] == [Duplicate, Counted]
    assert interruptions(store) == {"tills": 3}


@pytest.mark.parametrize("go_back", [restore, flush])
def test_an_operation_from_before_the_rollback_moves_no_counter(
    start: Opener, server: RedisServer, client: Client, go_back: Callable[[RedisServer], None]
) -> None:
    store = start()
    store.sync(NOW - DAY)
    store.accrue_instance_seconds(NOW - DAY)
    client.save()
    count(store, 1, 2, NOW)
    go_back(server)
    synced(store, NOW + 60)
    lost, later = (
        replace(
            interrupted(str(number), at, name=life_of(number)[1].name),
            details=InterruptionDetails("operation"),
        )
        for number, at in ((1, NOW), (2, NOW + 90))
    )

    store.accrue_instance_seconds(NOW + 65)
    applied = store.recover([lost, later], -1, NOW + 600)

    assert [counted.key for counted in applied.counted] == []
    assert interruptions(store) == {"tills": 1}
    assert applied.pending == 1  # the later one counts like any other


def test_a_listing_is_requested_to_find_lost_instances_again(server: RedisServer) -> None:
    settings = ReplicaSettings.make(["shop-prod", "till-prod"], {})
    opened = open_store(server.url, RULES, replica="one", settings=settings, lease_seconds=LEASE_SECONDS)
    store = shared_store(opened)
    store.sync(NOW)
    flush(server)

    shared = store.sync(NOW).shared

    assert shared is not None
    assert sorted(shared.requested) == ["shop-prod", "till-prod"]
    store.close()


def test_instance_seconds_are_not_added_again(start: Opener, server: RedisServer, client: Client) -> None:
    store = start()
    store.sync(NOW)
    store.apply([created()], NOW)
    store.accrue_instance_seconds(NOW)
    client.save()
    store.accrue_instance_seconds(NOW + 60)
    restore(server)

    until_up(lambda: store.accrue_instance_seconds(NOW + 120))

    assert row_of(store).instance_seconds == 120.0
    assert float(client.get(key("clock"))) == NOW + 120


def test_a_jump_of_the_clock_that_the_server_has_lost_ends_no_grace(
    start: Opener, server: RedisServer, client: Client
) -> None:
    store = start()
    store.sync(NOW)
    store.accrue_instance_seconds(NOW)
    store.apply([interrupted()], NOW)
    client.save()
    jumped = NOW + DAY
    store.accrue_instance_seconds(jumped)
    restore(server)

    until_up(lambda: store.accrue_instance_seconds(jumped + 60))
    keep_running(store, jumped + 60, jumped + GRACE - 60)

    assert not store.expire(jumped + GRACE - 1).counted
    assert len(store.expire(jumped + GRACE).counted) == 1


def test_an_earlier_leader_whose_clock_is_ahead_ends_no_grace(
    start: Opener, server: RedisServer, client: Client
) -> None:
    earlier, leader = start("earlier"), start("leader")
    earlier.sync(NOW + DAY)
    earlier.accrue_instance_seconds(NOW + DAY)
    client.delete(key("lease"))
    leader.sync(NOW)
    leader.accrue_instance_seconds(NOW)
    client.save()
    leader.accrue_instance_seconds(NOW + 60)
    earlier.sync(NOW + DAY + 60)

    restore(server)
    synced(leader, NOW + 70)
    leader.apply([interrupted()], NOW + 70)
    synced(earlier, NOW + DAY + 75)
    leader.sync(NOW + 80)

    assert not leader.expire(NOW + 80).counted
    keep_running(leader, NOW + 80, NOW + 70 + GRACE)
    assert len(leader.expire(NOW + 70 + GRACE).counted) == 1


def test_counters_that_were_reset_do_not_return(start: Opener, server: RedisServer, client: Client) -> None:
    count(start(), 0, 5, NOW)
    client.save()
    store = start(reset_totals=True)

    restore(server)
    applied = synced(store, NOW + 60)

    assert applied.rollback is not None
    assert interruptions(store) == interruptions(start()) == {}


def test_a_reset_replica_that_leads_only_later_adds_no_time_from_before_it_led(start: Opener) -> None:
    leader, other = start("leader"), start("other", reset_totals=True)
    leader.sync(NOW)
    leader.apply([created()], NOW)
    leader.accrue_instance_seconds(NOW)
    other.sync(NOW + 60)
    other.accrue_instance_seconds(NOW + 60)
    leader.close()
    other.sync(NOW + 600)

    lived = []
    for elapsed in (600, 660):
        other.accrue_instance_seconds(NOW + elapsed)
        lived.append(other.state().totals.label_sets[LABELS].instance_seconds)
    assert lived == [0, 60]


def test_counters_that_were_dropped_do_not_return(start: Opener, server: RedisServer, client: Client) -> None:
    store = start()
    store.sync(NOW)
    count(store, 0, 5, NOW)
    client.save()
    until_done(store.prune, NOW + 40 * DAY)
    restore(server)

    synced(store, NOW + 40 * DAY)

    assert interruptions(store) == interruptions(start()) == {}


def test_a_series_that_was_released_is_not_held_again(
    start: Opener, server: RedisServer, client: Client
) -> None:
    store = start(hold=True)
    count(store, 0, 1, NOW)
    client.save()
    store.release_held(store.state().totals, NOW)
    restore(server)

    synced(store, NOW + 60)

    assert row_of(store).released
    assert row_of(start(hold=True)).released


def test_a_process_that_starts_after_the_rollback_has_the_name(
    start: Opener, server: RedisServer, client: Client
) -> None:
    start()
    client.save()
    for _ in range(3):
        old = start()
    count(old, 0, 5, NOW)
    restore(server)
    new = start()

    eventually(lambda: is_taken(old), within=10, what="the older process has noticed")
    assert isinstance(new.apply([created(), interrupted()], NOW).outcomes[1], Counted)


def is_taken(store: SharedStore) -> bool:
    try:
        store.sync(NOW)
    except NameTakenError:
        return True
    except StoreUnavailableError:
        return False
    return False


def test_a_newer_process_keeps_the_name_when_the_server_has_lost_both_claims(
    start: Opener, server: RedisServer
) -> None:
    old, new = start(), start()
    flush(server)

    old.sync(NOW)  # it does not know of the newer process yet
    new.sync(NOW)

    with pytest.raises(NameTakenError):
        old.sync(NOW)
    assert new.sync(NOW).rollback is None


@pytest.mark.parametrize("trouble", [Proxy.lose_reply, Proxy.lose_request, Proxy.cut])
def test_a_broken_connection_is_not_a_rollback(
    start: Opener, server: RedisServer, trouble: Callable[[Proxy], None]
) -> None:
    with Proxy(server.port) as proxy:
        store = start(url=proxy.url)
        count(store, 0, 1, NOW)
        trouble(proxy)

        applied = until_up(lambda: store.sync(NOW))
        again = until_up(lambda: store.sync(NOW))

        assert (applied.rollback, again.rollback) == (None, None)
        assert interruptions(store) == {"tills": 1}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("after", range(5, 9))
def test_a_connection_that_breaks_while_idle_series_are_dropped_is_not_a_rollback(
    start: Opener, server: RedisServer, loss: Loss, after: int
) -> None:
    later = NOW + 40 * DAY
    with Network(server.port) as network:
        store = start(url=network.url)
        store.sync(NOW)
        count(store, 0, 2, NOW)
        store.sync(later)
        network.lose(loss, after=after)
        with suppress(StoreUnavailableError):
            store.prune(later)

        applied = until_up(lambda: store.sync(later))
        until_done(store.prune, later)

        assert applied.rollback is None
        assert interruptions(store) == interruptions(start()) == {}


def test_a_rollback_during_a_lost_reply_is_noticed(start: Opener, server: RedisServer) -> None:
    with Proxy(server.port) as proxy:
        store = start(url=proxy.url)
        count(store, 0, 2, NOW)

        def flush_and_cut() -> None:
            flush(server)
            proxy.cut()

        proxy.before_exec(flush_and_cut)

        applied = until_up(lambda: store.apply([created(), interrupted()], NOW + 60))

        assert applied.rollback == Rollback(None, NOW)
        assert interruptions(store) == {"tills": 3}


def test_counters_that_the_server_has_evicted_are_written_again(
    start: Opener, server: RedisServer, client: Client
) -> None:
    with Proxy(server.port) as proxy:
        store = start(url=proxy.url)
        count(store, 0, 2, NOW)
        client.delete(key("of", "one", "totals"))
        proxy.cut()

        applied = until_up(lambda: store.sync(NOW + 60))

        assert applied.rollback == Rollback(None, NOW)
        assert interruptions(store) == interruptions(start()) == {"tills": 2}


def test_the_gauge_of_a_series_that_was_lost_is_zero_and_not_gone(start: Opener, server: RedisServer) -> None:
    store = start()
    store.apply([created()], NOW)
    flush(server)

    applied = store.sync(NOW)

    assert applied.changed.label_sets[LABELS].instances == 0
    assert not applied.removed
