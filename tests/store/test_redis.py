"""The shared store alone: broken connections, replicas that write at once, servers that fail."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import pytest

from app.domain.changes import Rules
from app.domain.events import UNKNOWN, Event, InstanceName
from app.domain.ledger import Query
from app.domain.outcomes import Counted, Duplicate, Pending
from app.domain.replicas import ReplicaSettings
from app.errors import NameTakenError, StartError, StoreLostError, StoreUnavailableError
from app.metrics import Metrics
from app.store.opening import inspect_store, open_store, store_warnings
from app.store.port import SharedStore, Store
from app.store.redis.connection import Link
from app.store.redis.ledger import RedisLedger
from app.store.redis.rows import SCHEMA
from tests.store.conftest import LEASE_SECONDS, RULES
from tests.store.stories import (
    NUMBERED,
    TEACHES,
    interruptions,
    keep_running,
    list_fleet,
    living,
    name,
    name_all,
    row_of,
    shared_store,
    until_done,
    until_up,
)
from tests.support.examples import (
    DAY,
    GRACE,
    LAB,
    LABELS,
    NAME,
    NOW,
    OTHER_NAME,
    TILLS,
    created,
    failed,
    interrupted,
    listed,
)
from tests.support.process import LOOPBACK, eventually, free_port
from tests.support.proxy import Proxy
from tests.support.redis import RedisServer, key

Client: TypeAlias = Any
"""redis-py's, whose types are those of two clients."""

T = TypeVar("T")

LEASE: Final = key("lease")


class Opener(Protocol):
    def __call__(
        self,
        replica: str = ...,
        *,
        url: str = ...,
        rules: Rules = ...,
        hold: bool = ...,
        projects: Sequence[str] = ...,
    ) -> SharedStore:
        """Begin a process of that replica."""


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    redis_server.client.flushall()
    return redis_server


@pytest.fixture
def client(server: RedisServer) -> Client:
    return server.client


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with Proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def start(server: RedisServer) -> Iterator[Opener]:
    opened: list[SharedStore] = []

    def start(
        replica: str = "one",
        *,
        url: str = server.url,
        rules: Rules = RULES,
        hold: bool = False,
        projects: Sequence[str] = (NAME.project,),
    ) -> SharedStore:
        store = shared_store(
            open_store(
                url,
                rules,
                replica=replica,
                hold=hold,
                settings=ReplicaSettings.make(projects, {"store.retention_days": 31}),
                lease_seconds=LEASE_SECONDS,
            )
        )
        opened.append(store)
        store.sync(NOW)
        return store

    yield start
    for one in opened:
        one.close()


def ledger(url: str) -> list[str]:
    """The keys of everything counted."""
    reader = open_store(url, RULES, replica="reader").ledger
    return [entry.counted.key for entry in reader.interruptions(Query(limit=2000))]


def everything(client: Client) -> dict[str, bytes]:
    return {one: client.dump(one) for one in client.keys("*")}


# replies that are lost


@pytest.mark.parametrize("trouble", [Proxy.lose_reply, Proxy.lose_request, Proxy.delay])
def test_a_transaction_whose_reply_is_lost_is_executed_once(
    start: Opener, proxy: Proxy, server: RedisServer, trouble: Callable[[Proxy], None]
) -> None:
    store = start(url=proxy.url)
    store.apply([created()], NOW)

    connections = proxy.accepted
    trouble(proxy)
    applied = store.apply([interrupted()], NOW)

    assert [type(outcome) for outcome in applied.outcomes] == [Counted]
    assert proxy.accepted == connections + 1
    assert applied.changed.clusters["tills"].interruptions == 1
    assert isinstance(store.apply([interrupted()], NOW).outcomes[0], Duplicate)
    assert interruptions(store) == interruptions(start(url=server.url)) == {"tills": 1}
    assert len(ledger(server.url)) == 1


def test_a_transaction_that_arrives_after_its_process_has_reconnected_is_refused(
    start: Opener, proxy: Proxy, client: Client
) -> None:
    store = start(url=proxy.url, hold=True)
    store.apply([created(), interrupted()], NOW)
    proxy.delay()
    store.release_held(store.state().totals, NOW)
    before = everything(client)

    assert proxy.deliver().endswith(b"*-1\r\n")
    assert everything(client) == before
    assert row_of(store).released


def test_a_reconnection_whose_reply_is_lost_is_made_again(start: Opener, proxy: Proxy) -> None:
    store = start(url=proxy.url)
    store.apply([created()], NOW)
    proxy.lose_reply()
    proxy.cut()

    with pytest.raises(StoreUnavailableError):
        store.apply([interrupted()], NOW)
    until_up(lambda: store.apply([interrupted()], NOW))
    assert interruptions(store) == {"tills": 1}


@pytest.mark.parametrize("trouble", [Proxy.lose_reply, Proxy.lose_request])
def test_periodic_work_whose_reply_is_lost_is_done_once(
    start: Opener, proxy: Proxy, trouble: Callable[[Proxy], None]
) -> None:
    store = start(url=proxy.url)
    store.apply([created(), interrupted(name=OTHER_NAME)], NOW)
    store.accrue_instance_seconds(NOW)

    trouble(proxy)
    store.accrue_instance_seconds(NOW + 60)
    assert row_of(store).instance_seconds == 60.0
    keep_running(store, NOW + 120, NOW + GRACE)
    trouble(proxy)
    store.expire(NOW + GRACE)

    assert interruptions(store) == {UNKNOWN: 1}
    assert store.state().pending == 0


def test_an_event_whose_reply_is_lost_is_a_duplicate_when_it_is_redelivered(
    start: Opener, proxy: Proxy
) -> None:
    store = start(url=proxy.url)
    store.apply([created()], NOW)
    proxy.lose_reply(and_go_dark=True)

    with pytest.raises(StoreUnavailableError):
        store.apply([interrupted()], NOW)
    proxy.light_up()

    (outcome,) = until_up(lambda: store.apply([interrupted()], NOW)).outcomes
    assert isinstance(outcome, Duplicate)
    assert interruptions(store) == {"tills": 1}


# replicas that meet


def test_an_event_pushed_to_all_replicas_at_once_counts_once(start: Opener, server: RedisServer) -> None:
    stores = [start(replica) for replica in ("one", "two", "three")]
    numbers = range(150)
    stores[0].apply([created(str(number), name=name(number % 5)) for number in numbers], NOW)
    events = [interrupted(str(number), name=name(number % 5)) for number in numbers]
    failures: list[Exception] = []

    def hammer(store: Store, seed: int) -> None:
        shuffled = random.Random(seed).sample(events, len(events))  # noqa: S311 - no secret
        try:
            for first in range(0, len(shuffled), 3):
                store.apply(shuffled[first : first + 3], NOW)
        except Exception as exc:  # noqa: BLE001 - the test reports it
            failures.append(exc)

    threads = [threading.Thread(target=hammer, args=one) for one in zip(stores, (1, 2, 3), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failures
    counted = [interruptions(store).get("tills", 0) for store in stores]
    assert sum(counted) == len(events)
    assert all(counted)
    assert sorted(ledger(server.url)) == sorted(event.key for event in events)
    for store in stores:
        store.sync(NOW)
        assert living(store) == 0


@pytest.mark.parametrize("name", [NAME, OTHER_NAME], ids=["one-name", "two-names"])
def test_an_event_that_another_replica_counted_between_read_and_commit_is_a_duplicate(
    start: Opener, proxy: Proxy, name: InstanceName
) -> None:
    store, other = start(url=proxy.url), start("other")
    store.apply([created(), created("1", name=OTHER_NAME)], NOW)

    proxy.before_exec(lambda: other.apply([replace(interrupted(), name=name)], NOW))
    (outcome,) = store.apply([interrupted()], NOW).outcomes

    assert isinstance(outcome, Duplicate)
    assert (interruptions(store), interruptions(other)) == ({}, {"tills": 1})


def test_an_instance_that_another_replica_changes_between_read_and_commit_is_read_again(
    start: Opener, proxy: Proxy
) -> None:
    store, other = start(url=proxy.url), start("other")
    store.apply([created()], NOW)

    proxy.before_exec(lambda: other.apply([interrupted(at=1000)], NOW))
    store.apply([interrupted(at=2000)], NOW)

    assert (interruptions(store), interruptions(other)) == ({"tills": 1}, {"tills": 1})
    assert [observed(one) for one in (store, other)] == [0, 1]


def observed(store: Store) -> int:
    """The number of lifetimes."""
    return sum(sum(row.buckets) for row in store.state().totals.lifetimes.values())


def test_a_number_that_another_replica_learns_between_read_and_commit_is_translated(
    start: Opener, proxy: Proxy, client: Client
) -> None:
    store, other = start(url=proxy.url), start("other")

    proxy.before_exec(lambda: other.apply([TEACHES], NOW))
    store.apply([created(name=NUMBERED)], NOW)

    assert not client.keys(key("name", NUMBERED.project, "*"))
    assert not client.exists(key("names", NUMBERED.project))
    store.sync(NOW)
    assert row_of(store).instances == 2


def test_series_that_one_replica_knows_the_others_show_at_zero(start: Opener) -> None:
    one, other = start("one"), start("other")
    one.apply([created(), interrupted()], NOW)

    changed = other.sync(NOW).changed

    assert changed.label_sets[LABELS].interruptions == 0
    assert changed.clusters["tills"].interruptions == 0
    assert not any(changed.lifetimes["tills", TILLS.machine_type].buckets)
    assert not other.sync(NOW).changed


def test_each_replica_holds_and_releases_its_own_rows(start: Opener) -> None:
    one, other = start("one", hold=True), start("other", hold=True)
    one.apply([created(), interrupted()], NOW)
    one.release_held(one.state().totals, NOW)
    other.sync(NOW)

    assert row_of(one).released
    assert not row_of(other).released
    other.apply([interrupted(at=2000)], NOW)
    other.release_held(other.state().totals, NOW)
    assert row_of(start("other", hold=True)).released


def test_counters_stay_with_their_replicas_name(start: Opener) -> None:
    for replica, count in (("one", 1), ("other", 2)):
        events: list[Event] = [created()]
        events += [interrupted(at=1000.0 * count + number) for number in range(count)]
        start(replica).apply(events, NOW)

    for replica, count in (("other", 2), ("one", 1)):
        assert interruptions(start(replica)) == {"tills": count}
    assert interruptions(start("third")) == {}


def test_a_name_has_one_living_holder_the_newest(start: Opener, client: Client) -> None:
    old = start()
    old.apply([created()], NOW)
    new = start()
    before = everything(client)

    works: list[Callable[[], object]] = [
        lambda: old.apply([interrupted()], NOW),
        lambda: old.sync(NOW),
        lambda: old.prune(NOW),
        old.state,
    ]
    for work in works:
        with pytest.raises(NameTakenError):
            work()
    assert everything(client) == before
    assert isinstance(new.apply([interrupted()], NOW).outcomes[0], Counted)

    client.flushall()
    with pytest.raises(NameTakenError):
        old.apply([created()], NOW)


def test_a_name_that_is_taken_between_read_and_commit_is_not_written_under(
    start: Opener, proxy: Proxy
) -> None:
    old = start(url=proxy.url)
    old.apply([created()], NOW)
    proxy.before_exec(start)

    with pytest.raises(NameTakenError):
        old.apply([interrupted()], NOW)
    assert interruptions(start()) == {}


# leading


def leads(store: Store) -> bool:
    return store.state().lease_ends_at > time.monotonic()


def test_another_replica_leads_once_the_one_that_led_has_ended(start: Opener) -> None:
    one, other = start("one"), start("other")
    assert (leads(one), leads(other)) == (True, False)

    one.close()
    other.sync(NOW)
    assert leads(other)


@pytest.mark.parametrize("behind", [-60.0, -600.0, -2 * DAY, 600.0, 2 * DAY])
def test_the_grace_does_not_depend_on_the_clock_of_the_replica_that_received_the_interruption(
    start: Opener, behind: float
) -> None:
    leader, other = start("leader"), start("other")
    leader.sync(NOW)
    leader.accrue_instance_seconds(NOW)
    other.sync(NOW + behind)
    other.apply([interrupted()], NOW + behind)

    keep_running(leader, NOW, NOW + GRACE - 360)
    assert not leader.expire(NOW + GRACE - 301).counted
    keep_running(leader, NOW + GRACE - 300, NOW + GRACE + 300)
    assert len(leader.expire(NOW + GRACE + 301).counted) == 1


def test_a_replica_whose_lease_ran_out_does_nothing_that_another_does(start: Opener, client: Client) -> None:
    old, new = start("old"), start("new")
    old.apply([created(), interrupted(name=OTHER_NAME)], NOW)
    old.accrue_instance_seconds(NOW)
    old.begin_listing(NAME.project, NOW)
    client.delete(LEASE)
    new.sync(NOW)
    before = everything(client)

    assert leads(old)  # as far as it knows
    assert not old.expire(NOW + GRACE).outcomes
    assert not leads(old)
    assert not old.accrue_instance_seconds(NOW + GRACE).changed
    assert not old.prune(NOW + 40 * DAY).changed
    works: list[Callable[[], object]] = [
        lambda: old.begin_listing(NAME.project, NOW),
        lambda: old.record_listed(NAME.project, NOW, [listed()], NOW),
        lambda: old.end_listing(NAME.project, NOW, (), NOW),
    ]
    for work in works:
        with pytest.raises(StoreUnavailableError):
            work()
    assert everything(client) == before

    new.accrue_instance_seconds(NOW + 60)
    assert row_of(new).instance_seconds == 60.0
    assert interruptions(new) == {}
    keep_running(new, NOW + 120, NOW + GRACE)
    new.expire(NOW + GRACE)
    assert interruptions(new) == {UNKNOWN: 1}


def test_a_lease_that_runs_out_between_read_and_commit_is_noticed(
    start: Opener, proxy: Proxy, client: Client
) -> None:
    store = start(url=proxy.url)
    store.apply([interrupted()], NOW)

    def run_out() -> None:
        client.pexpire(LEASE, 1)
        eventually(lambda: not client.exists(LEASE), within=20, what="the lease has run out")

    proxy.before_exec(run_out)
    assert not store.expire(NOW + GRACE).outcomes
    assert interruptions(store) == {}


def test_a_listing_that_another_leader_began_meanwhile_is_lost(start: Opener, client: Client) -> None:
    one, other = start("one"), start("other")
    one.apply([created("1"), created("2", name=OTHER_NAME)], NOW)
    name_all(one, [listed("1")], NOW + 600)
    client.delete(LEASE)
    other.sync(NOW)
    name_all(other, [], NOW + 660)
    client.delete(LEASE)
    one.sync(NOW)

    with pytest.raises(StoreUnavailableError):
        one.record_listed(NAME.project, NOW + 600, [listed("2", name=OTHER_NAME)], NOW + 700)
    with pytest.raises(StoreUnavailableError):
        one.end_listing(NAME.project, NOW + 600, (), NOW + 700)
    one.sync(NOW)
    assert living(one) == 2


def test_an_instance_that_the_last_leader_has_just_listed_is_not_ended(start: Opener, client: Client) -> None:
    one, other = start("one"), start("other")
    one.apply([created()], NOW)
    list_fleet(one, [listed()], NOW + 600)
    client.delete(LEASE)
    other.sync(NOW)

    list_fleet(other, [], NOW + 630)
    assert living(other) == 1
    list_fleet(other, [], NOW + 670)
    assert living(other) == 0


def test_a_replica_knows_the_settings_of_the_others_as_long_as_they_live(
    start: Opener, client: Client
) -> None:
    one, other = start("one", projects=["a", "b"]), start("other", projects=["b", "c"])

    assert replicas(one) == {"other": ["b", "c"]}
    assert replicas(other) == {"one": ["a", "b"]}
    assert 0 < client.pttl(key("of", "one", "settings")) <= 60_000

    client.delete(key("of", "one", "settings"))  # as a minute after its last sign of life
    assert replicas(other) == {}
    assert replicas(one) == {"other": ["b", "c"]}
    assert replicas(other) == {"one": ["a", "b"]}


def replicas(store: SharedStore) -> dict[str, Sequence[str]]:
    """Return the projects of the other living replicas."""
    shared = store.sync(NOW).shared
    assert shared is not None
    return {name: settings.projects for name, settings in shared.replicas.items()}


def test_the_state_of_a_project_that_no_living_replica_lists_is_not_shown(
    start: Opener, client: Client
) -> None:
    one, other = start("one", projects=["a"]), start("other", projects=["b"])
    for project in ("a", "b"):
        one.sync(NOW)
        list_fleet(one, [], NOW, project=project)
    other.apply([interrupted(name=NAME._replace(project="b"))], NOW)

    assert known_of(one) == ({"a": NOW, "b": NOW}, ["b"])
    client.delete(key("of", "other", "settings"))
    assert known_of(one) == ({"a": NOW}, [])
    applied = one.apply([created()], NOW)
    assert applied.shared is not None
    assert applied.shared.last_listed_at == {"a": NOW}
    assert not client.exists(key("requested"))


def known_of(store: SharedStore) -> tuple[dict[str, float], list[str]]:
    shared = store.sync(NOW).shared
    assert shared is not None
    return dict(shared.last_listed_at), list(shared.requested)


def test_only_the_replica_that_leads_shows_what_is_shared(start: Opener) -> None:
    one, other = start("one"), start("other")
    applied = one.apply([created(), interrupted(), interrupted(name=OTHER_NAME)], NOW)
    shown = [metrics_of(store) for store in (one, other)]
    shared = ("spot_instances{", "spot_last_interruption_timestamp_seconds{", "pending_interruptions ")

    assert applied.pending == 1
    assert [all(name in text for name in shared) for text in shown] == [True, False]
    assert not any(name in shown[1] for name in shared)
    assert all("interruption_events_total{" in text for text in shown)
    shown_later = metrics_of(one, later=LEASE_SECONDS - 0.5)
    assert not any(name in shown_later for name in shared)


def metrics_of(store: SharedStore, *, later: float = 0.0) -> str:
    """The samples of a replica some seconds after its sync."""
    metrics = Metrics(monotonic=lambda: time.monotonic() + later)
    metrics.restore(store.state())
    metrics.show(store.sync(NOW))
    return metrics.render("")[0].decode()


def test_a_replica_that_does_not_lead_asks_the_leading_one_for_a_listing(start: Opener) -> None:
    leader, other = start("leader"), start("other")
    (outcome,) = other.apply([interrupted()], NOW).outcomes
    assert isinstance(outcome, Pending)

    assert requested(other) == []
    assert requested(leader) == [NAME.project]

    name_all(leader, [], NOW)
    assert requested(leader) == []


def requested(store: SharedStore) -> list[str]:
    shared = store.sync(NOW).shared
    assert shared is not None
    return list(shared.requested)


@pytest.mark.parametrize("began", [False, True], ids=["before-it-began", "before-it-ended"])
def test_a_requested_listing_survives_its_leader(start: Opener, client: Client, began: bool) -> None:  # noqa: FBT001 - a row
    leader, other = start("leader"), start("other")
    leader.apply([interrupted()], NOW)
    if began:
        name_all(leader, [], NOW)
    assert requested(leader) == ([] if began else [NAME.project])
    client.delete(LEASE)  # its end, 15 s after its last sign of life

    assert requested(other) == [NAME.project]
    list_fleet(other, [], NOW)
    client.delete(LEASE)
    assert requested(leader) == []


def test_a_listing_that_is_requested_while_another_is_running_is_made_after_it(start: Opener) -> None:
    store = start()
    name_all(store, [], NOW)
    store.apply([interrupted()], NOW)
    until_done(lambda now: store.end_listing(NAME.project, NOW, (), now), NOW)

    assert requested(store) == [NAME.project]


# servers that fail


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


def test_an_absent_server_is_reported_at_once_and_used_again_when_it_is_back(
    start: Opener, own_server: RedisServer
) -> None:
    store = start(url=own_server.url)
    store.apply([created(), interrupted()], NOW)
    own_server.process.kill()

    began = time.monotonic()
    for _ in range(20):
        with pytest.raises(StoreUnavailableError):
            store.apply([interrupted(at=2000)], NOW)
    assert time.monotonic() - began < 10  # one of them alone might try for so long

    own_server.process.start()
    until_up(lambda: store.apply([interrupted(at=2000)], NOW))
    assert isinstance(store.apply([interrupted()], NOW).outcomes[0], Duplicate)
    assert interruptions(store) == {"tills": 2}


def test_a_server_that_is_away_is_asked_again_after_a_quarter_of_a_second() -> None:
    now = 100.0
    link = Link(f"redis://{LOOPBACK}:{free_port()}", monotonic=lambda: now)

    with pytest.raises(StoreUnavailableError, match=r"refused; look at Redis itself, and at store\.url$"):
        link.connect()
    now += 0.2
    with pytest.raises(StoreUnavailableError, match=r"^redis cannot be reached; look at Redis"):
        link.connect()
    now += 0.1
    with pytest.raises(StoreUnavailableError, match="refused"):
        link.connect()


def test_a_server_that_does_not_answer_is_not_waited_for_long(start: Opener, proxy: Proxy) -> None:
    store = start(url=proxy.url)
    store.apply([created()], NOW)
    proxy.go_dark()
    proxy.cut()

    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(StoreUnavailableError):
            store.apply([interrupted()], NOW)
    assert time.monotonic() - began < 10  # one of them alone might try for so long
    proxy.light_up()

    until_up(lambda: store.apply([interrupted()], NOW))
    assert interruptions(store) == {"tills": 1}


def test_a_server_that_became_a_replica_is_as_one_that_is_away(
    start: Opener, server: RedisServer, client: Client
) -> None:
    store = start()
    client.replicaof(LOOPBACK, free_port())
    try:
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                store.apply([created(), interrupted()], NOW)
    finally:
        client.replicaof("NO", "ONE")

    until_up(lambda: store.apply([created(), interrupted()], NOW))
    assert interruptions(store) == {"tills": 1}


def test_a_server_without_room_takes_nothing_half(start: Opener, client: Client) -> None:
    store = start()
    store.apply([created()], NOW)
    before = everything(client)
    client.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreUnavailableError, match="maxmemory"):
            store.apply([interrupted()], NOW)
        with pytest.raises(StoreUnavailableError):
            store.sync(NOW)
    finally:
        client.config_set("maxmemory", 0)

    assert everything(client) == before
    until_up(lambda: store.apply([interrupted()], NOW))
    assert interruptions(store) == {"tills": 1}


def test_a_server_that_reads_its_file_is_as_one_that_is_away(start: Opener, tmp_path: Path) -> None:
    slow = ("--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024")
    with RedisServer(tmp_path / "redis", "--appendonly", "no", "--rdbcompression", "no", *slow) as server:
        store = start(url=server.url)
        store.apply([created()], NOW)
        for number in range(50):
            server.client.set(f"another program's {number}", "x" * 500)
        server.client.save()
        server.process.kill()
        starting = threading.Thread(target=server.process.start)
        starting.start()
        said = set()

        def works() -> bool:
            try:
                store.apply([interrupted()], NOW)
            except StoreUnavailableError as exc:
                said.add("loading" in str(exc).lower())
                return False
            return True

        eventually(works, within=10, what="the file is read")
        starting.join()
        assert interruptions(store) == {"tills": 1}
    assert True in said


def test_a_key_of_another_type_is_an_error_and_not_a_success(start: Opener, client: Client) -> None:
    store = start()
    store.apply([created()], NOW)
    client.delete(key("ledger"))
    client.set(key("ledger"), "something else")

    with pytest.raises(StoreUnavailableError, match="WRONGTYPE"):
        store.apply([interrupted()], NOW)


# servers that forget


def test_totals_that_were_exported_are_written_again_when_the_server_has_lost_them(
    start: Opener, client: Client
) -> None:
    store, other = start("one"), start("other")
    store.apply([created(), interrupted()], NOW)
    other.sync(NOW)
    client.flushall()

    applied = store.sync(NOW)
    other.sync(NOW)

    assert interruptions(store) == {"tills": 1}
    assert applied.changed.label_sets[LABELS].instances == 0
    assert sum(applied.changed.lifetimes["tills", TILLS.machine_type].buckets) == 1
    assert interruptions(start("one")) == {"tills": 1}
    assert "tills" in other.state().totals.clusters


def test_an_older_state_behind_an_unbroken_connection_is_noticed(start: Opener, client: Client) -> None:
    in_lab = LABELS._replace(cluster="lab", node_pool="lab-pool", machine_type="n2-standard-4")
    store = start(hold=True)
    store.apply([created(), interrupted(), created(name=OTHER_NAME, node=LAB)], NOW)
    older = everything(client)
    store.apply([interrupted(name=OTHER_NAME)], NOW)
    store.release_held(store.state().totals, NOW)
    client.flushall()
    for one, value in older.items():
        client.restore(one, 0, value)

    store.sync(NOW)

    for again in (store, start(hold=True)):
        assert interruptions(again) == {"tills": 1, "lab": 1}
        assert row_of(again).released
        assert row_of(again, in_lab).released
    assert isinstance(start().apply([interrupted(name=OTHER_NAME)], NOW).outcomes[0], Counted)  # forgotten


def test_series_that_are_gone_after_a_loss_are_reported(start: Opener, client: Client) -> None:
    store = start()
    store.apply([created()], NOW)
    store.apply([created(name=OTHER_NAME, node=None)], NOW)
    metrics = Metrics()
    metrics.restore(store.state())
    client.flushall()

    metrics.show(store.sync(NOW))
    assert row_of(store).created == 1  # it was shown
    assert 'spot_instances{cluster_location="europe-west1"' in metrics.render("")[0].decode()
    assert row_of(store).instances == 0


def test_counters_of_dropped_rows_do_not_return(start: Opener, client: Client) -> None:
    leader = start("leader")
    start("other").apply([created(), interrupted()], NOW)
    leader.sync(NOW)
    until_done(leader.prune, NOW + 32 * DAY)

    other = start("other")
    leader.apply([created("2", name=OTHER_NAME)], NOW + 33 * DAY)
    other.sync(NOW)
    assert interruptions(other) == interruptions(start("other")) == {}


# what is kept, and for how long


def test_keys_go_by_themselves(start: Opener, client: Client) -> None:
    store = start()
    store.apply([created(), interrupted(), interrupted(name=OTHER_NAME)], NOW)
    name_all(store, [listed()], NOW)
    store.sync(NOW)

    lives = {one.removeprefix(key()): client.ttl(one) for one in client.keys("*")}
    assert 0 < lives.pop("of:one:settings") <= 60
    of_events = [seconds for one, seconds in lives.items() if one.startswith(("seen:", "of:"))]
    assert len(of_events) == 6
    assert all(30 * DAY < seconds <= 31 * DAY for seconds in of_events)
    assert 0 < lives["lease"] <= LEASE_SECONDS
    assert 0 < lives[f"named:{NAME.project}"] <= 7200


def test_a_lease_that_is_not_renewed_ends_within_15_seconds(server: RedisServer, client: Client) -> None:
    store = shared_store(open_store(server.url, RULES))
    store.sync(NOW)

    assert 0 < client.ttl(LEASE) <= 15
    assert time.monotonic() < store.state().lease_ends_at < time.monotonic() + 15
    store.close()


def test_rows_older_than_the_retention_leave_no_key_behind(start: Opener, client: Client) -> None:
    rules = replace(RULES, retention_seconds=DAY)
    store, other = start("one", rules=rules), start("other", rules=rules)
    other.apply([interrupted(name=NUMBERED), interrupted("7", name=name(7)), failed("8", name=name(8))], NOW)
    store.expire(NOW + GRACE)
    store.apply([TEACHES, created(), interrupted(), created("2", name=OTHER_NAME)], NOW)
    other.apply([interrupted("", 2000), created("1", name=NUMBERED)], NOW)
    list_fleet(store, [listed("3", name=name(3))], NOW)
    list_fleet(store, [], NOW + 600)
    store.accrue_instance_seconds(NOW)
    for one in (store, other):
        one.sync(NOW)
    later = NOW + 3 * DAY
    until_done(store.expire, later)
    for day in range(6):
        store.accrue_instance_seconds(NOW + day * DAY)
        until_done(store.prune, NOW + day * DAY)
    for one in (store, other):
        one.sync(NOW)

    left = {one.removeprefix(key()) for one in client.keys("*") if not one.startswith(key("seen:"))}
    kinds = ("totals", "holder", "batch", "settings")
    of_replicas = {f"of:{one}:{kind}" for one in ("one", "other") for kind in kinds}
    assert left - of_replicas == {
        *("schema", "lease", "clock", "downtime", "complete", "replicas"),
        *("projects", "listings", "whole", "swept"),  # a field a project
        *("changed", "newest"),  # of `unknown`
    }
    of_series = [client.zrange(key("changed"), 0, -1)]
    of_series += [client.hkeys(key(one)) for one in left if one.endswith("totals")]
    assert {word for texts in of_series for text in texts for word in json.loads(text)} == {UNKNOWN}


def test_a_name_that_its_index_has_alone_is_dropped(start: Opener, client: Client) -> None:
    store = start()
    store.apply([created(), interrupted(name=OTHER_NAME)], NOW)
    client.delete(*client.keys(key("name:*")))

    assert not store.expire(NOW + GRACE).outcomes
    store.prune(NOW + 32 * DAY)
    assert not client.exists(key("until"), key("recorded"))


def test_an_interruption_counted_under_a_number_is_completed_by_the_creation_that_has_its_id(
    start: Opener, server: RedisServer
) -> None:
    store = start()
    store.apply([interrupted(name=NUMBERED)], NOW)
    store.expire(NOW + GRACE)
    store.apply([TEACHES, created()], NOW + GRACE)

    (row,) = open_store(server.url, RULES, replica="reader").ledger.interruptions(Query())
    assert (row.counted.attributed, row.counted.node, row.counted.name) == (True, TILLS, NAME)


def test_a_project_moves_without_leaving_a_key_under_its_number(start: Opener, client: Client) -> None:
    store = start()
    for number in range(3):
        store.apply([created(str(number), name=name(number)._replace(project="123456789"))], NOW)
    store.apply([interrupted("1", name=name(1)._replace(project="123456789"))], NOW)
    store.apply([interrupted("9", name=name(9)._replace(project="123456789"))], NOW)
    store.apply([interrupted("7", name=name(7)._replace(project="123456789"))], NOW - GRACE)
    store.expire(NOW)

    store.apply([TEACHES], NOW)

    assert not client.keys(key("name*", "123456789*"))
    for index in ("recorded", "until"):
        members = client.zrange(key(index), 0, -1)
        assert members
        assert not [member for member in members if "123456789" in member]


def test_a_ledger_of_many_pages_is_read_whole_and_in_order(start: Opener, server: RedisServer) -> None:
    store = start()
    times = [1000.0 + number // 700 for number in range(1600)]
    events = [interrupted(str(number), at, name=name(number)) for number, at in enumerate(times)]
    store.apply([created(event.id, 0.0, name=event.name) for event in events], NOW)
    store.apply(events, NOW)

    expected = sorted(((event.at, event.key) for event in events), reverse=True)
    assert ledger(server.url) == [event_key for _, event_key in expected]


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda ledger: ledger.interruptions(Query()), id="rows"),
        pytest.param(lambda ledger: ledger.pools(NOW + DAY, 10), id="pools"),
        pytest.param(lambda ledger: ledger.week(NOW + DAY), id="week"),
    ],
)
def test_reading_the_ledger_that_takes_too_long_is_given_up(
    start: Opener, server: RedisServer, read: Callable[[RedisLedger], Sequence[object]]
) -> None:
    start().apply([created(), interrupted(at=NOW)], NOW)
    link = Link(server.url)

    assert read(RedisLedger(link))
    with pytest.raises(StoreUnavailableError, match="takes longer"):
        read(RedisLedger(link, read_seconds=-1))
    link.close()


# installations on one server


def test_installations_with_different_prefixes_on_one_database_do_not_meet(
    client: Client, server: RedisServer
) -> None:
    one, other = (
        open_store(server.url, RULES, key_prefix=prefix, replica="exporter-0", lease_seconds=LEASE_SECONDS)
        for prefix in ("sie", "sie-staging")
    )
    for opened in (one, other):
        store = shared_store(opened)
        store.apply([created(), interrupted()], NOW)
        store.sync(NOW)

        assert interruptions(store) == {"tills": 1}
        assert leads(store)
        assert len(opened.ledger.interruptions(Query())) == 1
    assert "no data of this exporter" in inspect_store(server.url)
    assert "1 instance and" in inspect_store(server.url, "sie")

    keys = set(client.keys("*"))
    mine = {one for one in keys if one.startswith(key(prefix="sie"))}
    assert keys - mine == {one.replace(key(prefix="sie"), key(prefix="sie-staging")) for one in mine}
    until_done(one.store.prune, NOW + 40 * DAY)
    assert len(other.ledger.interruptions(Query())) == 1
    for opened in (one, other):
        opened.store.close()


# opening and looking


@pytest.mark.parametrize(("version", "reason"), [(SCHEMA + 1, "newer"), (1, "from a version before 1.0")])
def test_the_schema_of_another_version_is_left_alone(
    start: Opener, client: Client, server: RedisServer, version: int, reason: str
) -> None:
    client.set(key("schema"), version)

    with pytest.raises(StartError, match=reason):
        start()
    with pytest.raises(StartError, match=reason):
        inspect_store(server.url)
    assert client.keys("*") == [key("schema")]


@pytest.mark.parametrize("value", [b"theirs", b"\xff"], ids=["text", "not-text"])
def test_data_of_another_program_is_left_alone(
    start: Opener, client: Client, server: RedisServer, value: bytes
) -> None:
    client.set(key("schema"), value)
    before = everything(client)

    with pytest.raises(StartError, match=r"another program.*change store\.key_prefix"):
        start()
    with pytest.raises(StartError, match=r"another program.*change store\.key_prefix"):
        inspect_store(server.url)
    assert everything(client) == before


@pytest.mark.parametrize("is_cut", [False, True], ids=["connected", "connection-lost"])
def test_a_store_that_a_newer_version_has_migrated_is_left_alone_until_a_restart(
    start: Opener, proxy: Proxy, client: Client, *, is_cut: bool
) -> None:
    store = start(url=proxy.url)
    store.apply([created()], NOW)
    client.set(key("schema"), SCHEMA + 1)
    before = everything(client)
    if is_cut:
        proxy.cut()

    attempts: Sequence[Callable[[], object]] = (
        lambda: store.apply([interrupted()], NOW),
        lambda: store.sync(NOW),
        lambda: store.accrue_instance_seconds(NOW),
    )
    for attempt in attempts:
        with pytest.raises(StoreLostError, match=f"redis has schema {SCHEMA + 1} now"):
            attempt()
    assert everything(client) == before


def test_inspecting_changes_nothing(start: Opener, client: Client, server: RedisServer) -> None:
    assert "no data of this exporter" in inspect_store(server.url)
    assert not client.keys("*")
    start().apply([created(), interrupted()], NOW)
    before = everything(client)

    assert "1 instance and 1 interruption" in inspect_store(server.url)
    assert everything(client) == before


READER: Final = "redis://reader:word@{host}:{port}/0"


@pytest.mark.parametrize(
    ("setting", "undone", "url", "reason"),
    [
        pytest.param(
            ("REPLICAOF", LOOPBACK, "1"),
            ("REPLICAOF", "NO", "ONE"),
            "redis://{host}:{port}/0",
            "read only replica",
            id="replica",
        ),
        pytest.param(
            ("CONFIG", "SET", "maxmemory", "1"),
            ("CONFIG", "SET", "maxmemory", "0"),
            "redis://{host}:{port}/0",
            "memory",
            id="full",
        ),
        pytest.param(
            ("ACL", "SETUSER", "reader", "on", ">word", "~*", "+@all", "-@write"),
            ("ACL", "DELUSER", "reader"),
            READER,
            "permission",
            id="may-not-write",
        ),
    ],
)
def test_a_server_that_cannot_be_written_is_refused_at_start_and_by_a_look(
    client: Client,
    server: RedisServer,
    setting: Sequence[str],
    undone: Sequence[str],
    url: str,
    reason: str,
) -> None:
    client.execute_command(*setting)
    try:
        for look in (lambda url: open_store(url, RULES), inspect_store):
            with pytest.raises(StartError, match=reason):
                look(url.format(host=LOOPBACK, port=server.port))
    finally:
        client.execute_command(*undone)
    assert not client.keys("*")


def test_a_look_refuses_a_user_who_may_not_run_the_script(client: Client, server: RedisServer) -> None:
    client.execute_command("ACL", "SETUSER", "reader", "on", ">word", "~*", "+@all", "-@scripting")
    try:
        with pytest.raises(StartError, match="permission"):
            inspect_store(READER.format(host=LOOPBACK, port=server.port))
    finally:
        client.execute_command("ACL", "DELUSER", "reader")


@pytest.mark.parametrize(
    "url",
    [
        "redis://:s3cret@{host}:{port}/0",
        "redis://user:s3cret@{host}:{port}/0",
        "rediss://:s3cret@{host}:{port}/0",
        "redis://:s3cret@{host}:99999/0",
        "redis://:s3cret@{host}:{port}/0?nonsense=s3cret",
        "redis://:s3cret@{host}:{port}/0?socket_timeout=s3cret",
        "redis+sentinel://:s3cret@{host}:{port}/service",
        "rediss+sentinel://:s3cret@{host}:{port}/service?db=s3cret",
    ],
)
def test_no_error_shows_the_password(client: Client, server: RedisServer, url: str) -> None:
    client.config_set("requirepass", "another")
    try:
        for look in (lambda url: open_store(url, RULES), inspect_store):
            with pytest.raises(StartError) as caught:
                look(url.format(host=LOOPBACK, port=server.port))
            assert "s3cret" not in str(caught.value)
    finally:
        client.config_set("requirepass", "")


def test_a_password_opens(start: Opener, client: Client, server: RedisServer) -> None:
    client.config_set("requirepass", "a word")
    try:
        start(url=f"redis://:a%20word@{LOOPBACK}:{server.port}/1").apply([created()], NOW)
    finally:
        client.config_set("requirepass", "")


def test_a_server_that_may_forget_is_warned_of(client: Client, server: RedisServer) -> None:
    client.config_set("maxmemory", "1gb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        warnings = open_store(server.url, RULES, replica="exporter-0").warnings
        assert ["append-only" in warnings[0], "evict" in warnings[1]] == [True, True]
    finally:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 0)


@pytest.mark.parametrize(
    ("replica", "passing"),
    [
        ("exporter-0", False),
        ("spot-interruption-exporter-12", False),
        ("exporter", False),
        ("my-host.example.com", False),
        ("spot-interruption-exporter-7d4b9c6f5d-x2k8z", True),
        ("3f1c9a7be204", True),
    ],
)
def test_a_name_that_will_not_return_causes_a_warning(
    server: RedisServer,
    client: Client,
    replica: str,
    passing: bool,  # noqa: FBT001 - a row
) -> None:
    warnings = open_store(server.url, RULES, replica=replica).warnings
    assert any("changes at every start" in warning for warning in warnings) is passing


def test_a_server_that_may_lose_data_is_a_warning_beside_its_contents(
    client: Client, server: RedisServer
) -> None:
    assert inspect_store(server.url) == "redis has no data of this exporter yet"
    [warning] = store_warnings(server.url, "exporter-0")
    assert "append-only" in warning


def test_a_read_after_the_server_closed_the_idle_connection_is_repeated(
    server: RedisServer, client: Client
) -> None:
    opened = open_store(server.url, RULES)
    opened.ledger.interruptions(Query())
    for connection in client.client_list():
        if connection["cmd"].startswith(("zrevrange", "hgetall", "info")):
            client.client_kill(connection["addr"])

    assert opened.ledger.interruptions(Query()) == []
    opened.store.close()


def test_a_write_after_the_server_closed_the_idle_connection_is_made_on_another_one(
    start: Opener, client: Client
) -> None:
    store = start()
    store.sync(NOW)
    client.client_kill_filter(_type="normal", skipme=True)

    store.apply([created()], NOW)
    client.client_kill_filter(_type="normal", skipme=True)
    store.sync(NOW)
    client.client_kill_filter(_type="normal", skipme=True)
    store.accrue_instance_seconds(NOW + 60)

    assert living(store) == 1
