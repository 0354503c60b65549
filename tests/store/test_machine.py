"""The store against a small model of it: whatever may come, in any order, with restarts between."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Final

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from app.domain.changes import Rules
from app.domain.events import (
    UNKNOWN,
    CreationFailed,
    Event,
    InstanceCreated,
    InstanceDeleted,
    InstanceInterrupted,
    InstanceName,
    InterruptionDetails,
    Listed,
)
from app.domain.instances import Labels
from app.domain.totals import Totals
from app.errors import StoreUnavailableError
from app.store.opening import open_store
from app.store.port import SharedStore, Store, StoredState
from app.store.redis.rows import decode_entry, decode_name_record, flatten
from tests.store.conftest import LEASE_SECONDS
from tests.store.stories import shared_store, synced
from tests.support.examples import (
    DAY,
    GRACE,
    LAB,
    NAME,
    NOW,
    OTHER_NAME,
    TILLS,
    created,
    deleted,
    failed,
    interrupted,
    listed,
)
from tests.support.memory import MEMORY
from tests.support.redis import RedisServer
from tests.support.redis import key as key_of

# By hand: SIE_TEST_EXAMPLES=3000 pytest tests/store/test_machine.py --timeout 0
EXAMPLES: Final = os.environ.get("SIE_TEST_EXAMPLES", "")
SETTINGS: Final = settings(
    max_examples=int(EXAMPLES or 50),
    derandomize=not EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
RULES: Final = Rules(GRACE, 31 * DAY)
NODES: Final = {NAME: TILLS, OTHER_NAME: LAB}
NUMBER: Final = "123456789"
NAMES: Final = st.sampled_from([NAME, OTHER_NAME])
MOSTLY: Final = st.sampled_from([True, True, True, False])


@dataclass
class Model:
    """The counts that are right. Each name has one cluster, so only the grace makes a difference."""

    counted: Counter[str] = field(default_factory=Counter)
    waiting: dict[str, tuple[float, InstanceInterrupted]] = field(default_factory=dict)
    created: dict[str, InstanceCreated] = field(default_factory=dict)
    described: set[tuple[InstanceName, str]] = field(default_factory=set)
    """The names and ids in creations and listings."""
    failed: set[CreationFailed] = field(default_factory=set)
    interrupted: set[str] = field(default_factory=set)
    """Keys."""
    learnt: bool = False
    """The project's number is known."""

    def take(self, event: Event, now: float) -> None:
        if isinstance(event, CreationFailed):
            self.failed.add(event)
        elif isinstance(event, InstanceCreated):
            self.created.setdefault(event.key, event)
            self.described.add((event.name, event.id))
        elif isinstance(event, InstanceInterrupted) and event.key not in self.interrupted:
            self.interrupted.add(event.key)
            self.waiting[event.key] = (now + GRACE, event)
        self.settle()

    def hear(self, fleet: Sequence[Listed]) -> None:
        self.described |= {(instance.name, instance.id) for instance in fleet}
        self.settle()

    def settle(self, graces_end_at: float = 0.0) -> None:
        described, failures = self.told(self.described), self.failures()
        for key, (until, event) in list(self.waiting.items()):
            namesakes = {one for one in described if one[0] == self.name(event)}
            its = {one for one in namesakes if event.id == one[1]} if event.id else namesakes - failures
            if its or until <= graces_end_at:
                del self.waiting[key]
                self.counted[NODES[event.name].cluster if namesakes else UNKNOWN] += 1

    def announced(self) -> dict[tuple[InstanceName, str], list[InstanceCreated]]:
        """The creations of each name and id, oldest first."""
        announced: defaultdict[tuple[InstanceName, str], list[InstanceCreated]] = defaultdict(list)
        for event in sorted(self.created.values(), key=lambda event: event.at):
            announced[self.name(event), event.id].append(event)
        return announced

    def failures(self) -> set[tuple[InstanceName, str]]:
        """Names and ids of which every start has failed; by their ids if no creation has come."""
        announced = self.announced()
        unannounced = self.told((event.name, event.id) for event in self.failed) - announced.keys()
        return unannounced | {
            known for known, starts in announced.items() if all(map(self.has_failed, starts))
        }

    def has_failed(self, start: InstanceCreated) -> bool:
        own = (self.name(start), start.operation)
        return own in {(self.name(event), event.operation) for event in self.failed}

    def told(self, names: Iterable[tuple[InstanceName, str]]) -> set[tuple[InstanceName, str]]:
        """The names in the spelling in which they are known now."""
        return {(self.spelt(name), identity) for name, identity in names}

    def name(self, event: Event) -> InstanceName:
        return self.spelt(event.name)

    def spelt(self, name: InstanceName) -> InstanceName:
        return name._replace(project=NAME.project) if self.learnt else name


@dataclass
class Listing:
    """A listing under way: the truth as it was when it began."""

    began: float
    fleet: list[Listed]
    """The instances that the listing has not named yet."""


def name_of(text: str) -> InstanceName:
    return InstanceName(*text.split("/"))


def alive_in(tables: apsw.Connection) -> set[tuple[InstanceName, str]]:
    """The names and ids of the living instances in the tables of a store."""
    rows = tables.execute("SELECT name, identity FROM instances WHERE alive")
    return {(name_of(name), identity) for name, identity in rows}


class Exporter(RuleBasedStateMachine):
    """A cloud whose messages are delivered at any time, or never, or again."""

    messages = Bundle("messages")

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory(dir=MEMORY)
        self.path = Path(self.folder.name) / "store.db"
        self.open()
        self.model = Model()
        self.now = NOW
        self.newest: dict[InstanceName, InstanceCreated] = {}
        self.living: set[str] = set()
        """In truth, whatever has been delivered."""
        self.starts: dict[str, list[float]] = {}
        """In truth, of every instance id."""
        self.stopped: set[str] = set()
        """By an interruption, in truth: they may be started again."""
        self.unheard: set[str] = set()
        """Started again, and neither a listing nor a creation has said so."""
        self.mistaken: set[str] = set()
        """Instances that another operation ended by its failure, because their own operation was unknown."""
        self.deleted: set[str] = set()
        """Their deletions were delivered."""
        self.leader.accrue_instance_seconds(NOW)
        self.beaten_at = NOW
        self.listing: Listing | None = None
        self.shown = Totals()

    def open(self) -> None:
        self.store = open_store(f"sqlite:///{self.path}", RULES).store

    def close(self) -> None:
        self.store.close()

    def teardown(self) -> None:
        self.close()
        self.folder.cleanup()

    def remembered(self) -> StoredState:
        return self.store.state()

    @property
    def leader(self) -> Store:
        """The store that does the periodic work."""
        return self.store

    def happens(self) -> float:
        self.now += 10.0
        self.beat()
        return self.now

    def beat(self) -> None:
        """Add instance-seconds often enough, because a long gap is a time without an exporter."""
        if self.now - self.beaten_at >= 150.0:
            self.leader.accrue_instance_seconds(self.now)
            self.beaten_at = self.now

    @rule(
        target=messages,
        name=NAMES,
        spelling=st.sampled_from(["id", "both", "number"]),
        at_once=MOSTLY,
    )
    def create(self, name: InstanceName, spelling: str, at_once: bool) -> Event:  # noqa: FBT001 - drawn
        at = self.happens()
        event = created(
            f"{at:.0f}",
            at,
            name=name._replace(project=NUMBER) if spelling == "number" else name,
            node=NODES[name],
            number=NUMBER if spelling == "both" else "",
        )
        if older := self.newest.get(name):
            self.living.discard(older.id)
            self.stopped.discard(older.id)
        self.newest[name] = event
        self.living.add(event.id)
        self.starts[event.id] = [at]
        return self.told(event, at_once=at_once)

    @rule(target=messages, name=NAMES, at_once=MOSTLY)
    def create_again(self, name: InstanceName, at_once: bool) -> Event:  # noqa: FBT001 - drawn
        """Another operation creates the newest instance again, under its id."""
        at = self.happens()
        newest = self.newest.get(name) or created(f"{at:.0f}", at, name=name, node=NODES[name])
        event = replace(newest, key=f"created again {at}", at=at, operation=f"again-{at:.0f}")
        self.newest[name] = event
        self.living.add(event.id)
        self.stopped.discard(event.id)
        self.starts.setdefault(event.id, []).append(at)
        self.unheard.add(event.id)
        return self.told(event, at_once=at_once)

    @rule(target=messages, name=NAMES, at_once=MOSTLY)
    def fail_another(self, name: InstanceName, at_once: bool) -> Event:  # noqa: FBT001 - drawn
        """An operation that announced nothing fails, and names the newest instance."""
        at = self.happens()
        newest = self.newest.get(name) or created("never", name=name)
        return self.told(
            failed(newest.id, at, name=newest.name, operation=f"another-{at:.0f}"), at_once=at_once
        )

    @rule(target=messages, name=NAMES, tells_id=MOSTLY, at_once=MOSTLY)
    def interrupt(self, name: InstanceName, tells_id: bool, at_once: bool) -> Event:  # noqa: FBT001 - drawn
        at = self.happens()
        newest = self.newest.get(name)
        instance_id = newest.id if newest else f"{at:.0f}"
        if instance_id in self.living:
            self.living.discard(instance_id)
            self.stopped.add(instance_id)
        return self.told(interrupted(instance_id if tells_id else "", at, name=name), at_once=at_once)

    @rule(target=messages, name=NAMES, at_once=MOSTLY)
    def fail(self, name: InstanceName, at_once: bool) -> Event:  # noqa: FBT001 - drawn
        at = self.happens()
        newest = self.newest.get(name)
        if newest is None or self.starts[newest.id][-1] > newest.at:
            newest = created("never", name=name)
        self.living.discard(newest.id)
        self.stopped.discard(newest.id)
        return self.told(failed(newest.id, at, name=newest.name, operation=newest.operation), at_once=at_once)

    @rule(target=messages, name=NAMES, at_once=MOSTLY)
    def delete(self, name: InstanceName, at_once: bool) -> Event:  # noqa: FBT001 - drawn
        at = self.happens()
        newest = self.newest.pop(name, None)
        instance_id = newest.id if newest else f"{at:.0f}"
        self.living.discard(instance_id)
        self.stopped.discard(instance_id)
        return self.told(deleted(instance_id, at, name=name), at_once=at_once)

    @rule(event=messages)
    def recover(self, event: Event) -> None:
        """Find an interruption among the operations."""
        if isinstance(event, InstanceInterrupted):
            found = replace(event, details=InterruptionDetails("operation"))
            new = event.key not in self.model.interrupted
            assert bool(self.leader.recover([found], -1, self.now).outcomes) == new
            self.model.take(event, self.now)

    def told(self, event: Event, *, at_once: bool) -> Event:
        """A message, which may come again; and at its time, or some time."""
        if at_once:
            self.take([event])
        return event

    @precondition(lambda self: self.stopped)
    @rule(data=st.data())
    def start_again(self, data: st.DataObject) -> None:
        instance_id = data.draw(st.sampled_from(sorted(self.stopped)))
        self.stopped.remove(instance_id)
        self.starts[instance_id].append(self.happens())
        self.living.add(instance_id)
        self.unheard.add(instance_id)

    @rule(ended=st.sampled_from(["gone", "terminated", "still listed as running"]))
    def begin_listing(self, ended: str) -> None:
        """In place of one under way, which is abandoned so."""
        self.happens()
        self.listing = Listing(self.now, self.true_fleet(ended))
        self.leader.begin_listing(NAME.project, self.now)

    def true_fleet(self, ended: str) -> list[Listed]:
        """The instances alive, and the interrupted ones that are still listed."""
        fleet = []
        for name, event in self.newest.items():
            if event.id not in self.living and (event.id not in self.stopped or ended == "gone"):
                self.stopped.discard(event.id)  # what is gone is not started again
                continue
            alive = event.id in self.living or ended != "terminated"
            first, *_, last = (*self.starts[event.id], self.starts[event.id][-1])
            fleet.append(listed(event.id, first, name=name, node=NODES[name], alive=alive, started_at=last))
        return fleet

    @precondition(lambda self: self.listing and self.listing.fleet)
    @rule(whole=MOSTLY)
    def go_on_listing(self, whole: bool) -> None:  # noqa: FBT001 - drawn
        assert self.listing
        count = len(self.listing.fleet) if whole else 1
        named, self.listing.fleet = self.listing.fleet[:count], self.listing.fleet[count:]
        self.hear(named, self.listing.began)

    def hear(self, fleet: Sequence[Listed], began: float) -> None:
        self.leader.record_listed(NAME.project, began, fleet, self.now)
        self.model.hear(fleet)
        self.unheard -= {
            instance.id
            for instance in fleet
            if instance.alive and instance.started_at == self.starts[instance.id][-1]
        }

    @precondition(lambda self: self.listing and not self.listing.fleet)
    @rule()
    def end_listing(self) -> None:
        assert self.listing
        self.end(self.listing.began)
        self.listing = None

    def end(self, began: float) -> None:
        while self.leader.end_listing(NAME.project, began, (), self.now).more:
            pass
        assert self.remembered().listed == {NAME.project: began}

    @rule(ended=st.sampled_from(["gone", "terminated", "still listed as running"]))
    def list_in_quiet(self, ended: str) -> None:
        """Nothing comes between: then what lives, lives in truth, whatever is still to be delivered."""
        self.now += 61.0
        self.beat()
        self.listing = None
        fleet = self.true_fleet(ended)
        self.leader.begin_listing(NAME.project, self.now)
        self.hear(fleet, self.now)
        self.end(self.now)
        listed_as_running = {instance.id for instance in fleet if instance.alive}
        with closing(self.tables()) as tables:
            alive = {identity for name, identity in alive_in(tables) if name.project == NAME.project}
        assert self.living <= alive <= listed_as_running

    @rule(events=st.lists(messages, min_size=1, max_size=5))
    def deliver(self, events: list[Event]) -> None:
        self.take(events)

    def take(self, events: list[Event]) -> None:
        self.store.apply(events, self.now)
        if any(event.project_number for event in events):
            self.model.learnt = True
            self.model.settle()
        for event in events:
            self.model.take(event, self.now)
            if isinstance(event, InstanceDeleted):
                self.deleted.add(event.id)
            elif isinstance(event, CreationFailed):
                announced = (self.model.name(event), event.id) in self.model.announced()
                self.mistaken |= set() if announced else {event.id}
            elif isinstance(event, InstanceCreated) and event.at == self.starts[event.id][-1]:
                self.unheard.discard(event.id)

    @rule(seconds=st.sampled_from([1.0, GRACE / 2, GRACE]))
    def let_time_pass(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now = min(self.now + 100.0, until)
            self.beat()
        self.leader.accrue_instance_seconds(self.now)
        self.beaten_at = self.now
        for work in (self.leader.expire, self.leader.prune):
            while work(self.now).more:
                pass
        self.model.settle(graces_end_at=self.now)

    @rule()
    def restart(self) -> None:
        before = self.remembered()
        self.close()
        self.open()
        assert self.remembered() == before
        self.abandon_listing()

    def abandon_listing(self) -> None:
        if self.listing:
            with pytest.raises(StoreUnavailableError):
                self.leader.end_listing(NAME.project, self.listing.began, (), self.now)
        self.listing = None

    @invariant()
    def the_store_is_as_the_model_says(self) -> None:
        """Read the store once after each step, for all checks."""
        remembered = self.remembered()
        with closing(self.tables()) as tables:
            self.nothing_is_lost_and_nothing_counts_twice(remembered)
            self.label_sets_sum_up_to_their_clusters(remembered.totals)
            self.counters_never_go_down(remembered.totals)
            self.the_ledger_has_what_was_counted(tables)
            self.the_gauge_is_how_many_live(remembered.totals, tables)
            self.nothing_ended_that_lives_and_nothing_lives_that_was_seen_to_end(tables)
            self.a_lifetime_is_observed_once_a_start(remembered.totals)

    def nothing_is_lost_and_nothing_counts_twice(self, remembered: StoredState) -> None:
        clusters = remembered.totals.clusters
        assert +Counter({name: row.interruptions for name, row in clusters.items()}) == self.model.counted
        assert remembered.pending == len(self.model.waiting)
        rows = remembered.totals.label_sets.values()
        assert sum(row.created for row in rows) == len(self.model.created)
        assert sum(row.failed for row in rows) == sum(map(self.model.has_failed, self.model.created.values()))

    def label_sets_sum_up_to_their_clusters(self, totals: Totals) -> None:
        sums: Counter[str] = Counter()
        for row in totals.label_sets.values():
            sums[row.labels.cluster] += row.interruptions
        assert sums == {name: row.interruptions for name, row in totals.clusters.items()}

    def counters_never_go_down(self, totals: Totals) -> None:
        before = self.shown
        for labels, row in before.label_sets.items():
            now = totals.label_sets[labels]
            assert (now.interruptions, now.created, now.failed) >= (
                row.interruptions,
                row.created,
                row.failed,
            )
            assert now.created >= row.created
            assert now.failed >= row.failed
            assert now.instance_seconds >= row.instance_seconds
        for key, lifetime in before.lifetimes.items():
            assert all(
                new >= old for new, old in zip(totals.lifetimes[key].buckets, lifetime.buckets, strict=True)
            )
        self.shown = totals

    def the_ledger_has_what_was_counted(self, tables: apsw.Connection) -> None:
        rows = tables.execute("SELECT key, counted_as FROM ledger").fetchall()
        assert len({key for key, _ in rows}) == len(rows)
        assert Counter(cluster for _, cluster in rows) == self.model.counted

    def the_gauge_is_how_many_live(self, totals: Totals, tables: apsw.Connection) -> None:
        recount: Counter[Labels] = Counter()
        for name, *node in tables.execute(
            "SELECT name, cluster, cluster_location, node_pool, machine_type FROM instances"
            " WHERE alive AND spot AND kind = 1"
        ):
            project, zone, _ = name.split("/")
            cluster, location, pool, machine_type = node
            recount[Labels(project, cluster, location, pool, zone, machine_type)] += 1
        assert +Counter({labels: row.instances for labels, row in totals.label_sets.items()}) == recount

    def nothing_ended_that_lives_and_nothing_lives_that_was_seen_to_end(
        self, tables: apsw.Connection
    ) -> None:
        alive = alive_in(tables)
        assert len({name for name, _ in alive}) == len(alive)
        # A deletion that names the project by its id does not reach a row under the number.
        assert not self.deleted & {identity for name, identity in alive if name.project == NAME.project}
        known = {identity for _, identity in self.model.described}
        announced = self.model.announced()
        # Without the creation of its start, an interruption looks like one of the later start.
        misread = {known[1] for known, starts in announced.items() if starts[0].at > self.starts[known[1]][0]}
        sure = self.living - self.unheard - self.mistaken - misread
        assert sure & known <= {identity for _, identity in alive}
        # A listing revives an instance whose newest start was not announced yet.
        newest = {known: starts[-1] for known, starts in announced.items()}
        assert not alive & {
            known
            for known, start in newest.items()
            if self.model.has_failed(start) and start.at == self.starts[known[1]][-1]
        }
        assert not alive & {
            (name_of(name), identity)
            for name, identity, key, at in tables.execute(
                "SELECT name, identity, key, at FROM ledger WHERE attributed"
            )
            if f" {identity} " in key and at > self.starts.get(identity, [0.0])[-1]
        }

    def a_lifetime_is_observed_once_a_start(self, totals: Totals) -> None:
        lifetimes = totals.lifetimes.values()
        assert sum(sum(row.buckets) for row in lifetimes) <= sum(map(len, self.starts.values()))

    def tables(self) -> apsw.Connection:
        """The tables of the store."""
        return apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)


TestExporter = Exporter.TestCase
TestExporter.settings = SETTINGS


class Replicas(Exporter):
    """Two of them share a Redis: a push comes to either; only the one that leads does the periodic work."""

    server: ClassVar[RedisServer]

    def __init__(self) -> None:
        self.server.client.flushall()
        super().__init__()

    def open(self) -> None:
        self.stores = [
            shared_store(open_store(self.server.url, RULES, replica=replica, lease_seconds=LEASE_SECONDS))
            for replica in ("one", "other")
        ]
        self.turns = cycle(self.stores)
        self.store = next(self.turns)
        self.sync()

    def close(self) -> None:
        for store in self.stores:
            store.close()

    def sync(self) -> None:
        for store in self.stores:
            store.sync(self.now if hasattr(self, "now") else NOW)

    @property
    def leader(self) -> SharedStore:
        (leader,) = (store for store in self.stores if store.state().lease_ends_at > 0)
        return leader

    def beat(self) -> None:
        """Sync, too: each replica does so every few seconds, and so knows the newest beat."""
        super().beat()
        self.sync()

    def take(self, events: list[Event]) -> None:
        self.store = next(self.turns)
        super().take(events)

    @rule()
    def sync_all(self) -> None:
        self.sync()
        one, other = (store.state() for store in self.stores)
        assert one.pending == other.pending
        for labels, row in one.totals.label_sets.items():
            assert other.totals.label_sets[labels].instances == row.instances

    @rule()
    def another_takes_over(self) -> None:
        old, before = self.leader, self.remembered()
        self.server.client.delete(key_of("lease"))
        (new,) = (store for store in self.stores if store is not old)
        new.sync(self.now)
        for work in (old.expire, old.accrue_instance_seconds, old.prune):
            assert not work(self.now + 2 * GRACE).changed
        assert self.sum() == before
        assert self.leader is new
        self.abandon_listing()

    def remembered(self) -> StoredState:
        """The samples that Prometheus sees: the sum of all counters, and the shared gauges of the leader."""
        self.leader.sync(self.now)
        return self.sum()

    def sum(self) -> StoredState:
        result = self.leader.state()
        totals = result.totals
        for store in self.stores:
            if store is not self.leader:
                add(totals, store.state().totals)
        return result

    def tables(self) -> apsw.Connection:
        """Tables filled with what Redis has."""
        client: Any = self.server.client
        projects, attributed, ledger = (
            client.hgetall(key_of(name)) for name in ("projects", "attributed", "ledger")
        )
        texts = [text for name in client.keys(key_of("names", "*")) for text in client.smembers(name)]
        assert {key_of("name", text) for text in texts} == set(client.keys(key_of("name", "*")))
        tables = apsw.Connection(":memory:")
        tables.execute("CREATE TABLE ledger (key, at, name, identity, counted_as, attributed)")
        tables.execute(
            "CREATE TABLE instances (name, identity, alive, spot, kind,"
            " cluster, cluster_location, node_pool, machine_type)"
        )
        for event_key, value in ledger.items():
            entry = decode_entry(event_key, value, attributed.get(event_key), projects).counted
            name = "/".join(entry.name)
            row = (event_key, entry.at, name, entry.id, entry.counted_as, entry.attributed)
            tables.execute("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?)", row)
        for text in texts:
            hash_of_name = client.hgetall(key_of("name", text))
            for one in decode_name_record(
                InstanceName.from_path(text), flatten(hash_of_name.items())
            ).incarnations:
                tables.execute(
                    "INSERT INTO instances VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (text, one.identity, one.alive, one.spot, one.kind, *one.node),
                )
        return tables


def add(totals: Totals, more: Totals) -> None:
    """Add the counters of another replica, which knows no other series than the one that leads."""
    assert totals.label_sets.keys() >= more.label_sets.keys()
    assert totals.clusters.keys() >= more.clusters.keys()
    assert totals.lifetimes.keys() >= more.lifetimes.keys()
    for labels, row in more.label_sets.items():
        sum_of = totals.label_sets[labels] = copy(totals.label_sets[labels])
        sum_of.interruptions += row.interruptions
        sum_of.created += row.created
        sum_of.failed += row.failed
        sum_of.instance_seconds += row.instance_seconds
    for name, cluster in more.clusters.items():
        known_of = totals.clusters[name]
        totals.clusters[name] = replace(
            known_of, interruptions=known_of.interruptions + cluster.interruptions
        )
    for pair, lifetime in more.lifetimes.items():
        known = totals.lifetimes[pair]
        buckets = [one + other for one, other in zip(known.buckets, lifetime.buckets, strict=True)]
        totals.lifetimes[pair] = replace(known, buckets=buckets, sum=known.sum + lifetime.sum)


@pytest.fixture(scope="class")
def shared(redis_server: RedisServer) -> None:
    Replicas.server = redis_server


@pytest.mark.usefixtures("shared")
class TestReplicas(Replicas.TestCase):  # type: ignore[valid-type, misc]  # hypothesis makes it
    settings = settings(SETTINGS, max_examples=int(EXAMPLES or 20))


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Everything that happens to two names, with ids, in the order in which it happened.

    Some instances are created a second time, by another operation; some are named by another one's failure.
    """
    events: list[Event] = []
    for name in NODES:
        for serial in range(draw(st.integers(0, 3))):
            at = 1000.0 * serial
            instance_id = f"{serial}"
            if draw(st.integers(0, 3)):
                spot = draw(st.sampled_from([True, None, False]))
                node = draw(st.sampled_from([TILLS, LAB]))
                again = draw(st.sampled_from([None, None, "lives", "fails"]))
                # Of two creations that do not say Spot, an interruption proves those that are known by then.
                spot = True if again else spot
                events.append(created(instance_id, at, name=name, node=node, spot=spot))
                operation = f"again-{instance_id}"
                if again:
                    second = created(
                        instance_id, at + 150, name=name, node=node, spot=spot, operation=operation
                    )
                    events.append(second)
                if again == "fails":
                    events.append(failed(instance_id, at + 160, name=name, operation=operation))
            if not draw(st.integers(0, 3)):
                events.append(failed(instance_id, at + 10, name=name))
            if not draw(st.integers(0, 3)):
                events.append(failed(instance_id, at + 20, name=name, operation=f"another-{instance_id}"))
            events += [
                interrupted(instance_id, at + 100 * (number + 1), name=name)
                for number in range(draw(st.integers(0, 2)))
            ]
    return events


def settled(batches: list[list[Event]], url: str = "sqlite:///:memory:") -> list[object]:
    """Return the totals after the end of every grace period."""
    store = synced(open_store(url, RULES, lease_seconds=LEASE_SECONDS))
    for events in batches:
        store.apply(events, NOW)
    store.expire(NOW + GRACE)
    totals = store.state().totals
    store.close()
    return [
        {
            labels: numbers
            for labels, row in totals.label_sets.items()
            if any(numbers := (row.interruptions, row.created, row.failed, row.instances))
        },
        {
            name: (row.interruptions, row.last_interruption_at)
            for name, row in totals.clusters.items()
            if row.interruptions
        },
        {key: sum(row.buckets) for key, row in totals.lifetimes.items() if any(row.buckets)},
    ]


def comparable(told: list[object], history: list[Event]) -> list[object]:
    """Return the facts that no order may change. An age counts from the last start that was known."""
    again = any(isinstance(event, InstanceCreated) and "again" in event.operation for event in history)
    return told[:-1] if again else told


@st.composite
def tellings(draw: st.DrawFn) -> tuple[list[Event], list[list[Event]]]:
    """A history as it happened; and in any order, in batches, some of it twice."""
    history = draw(histories())
    shuffled = draw(st.permutations(history))
    cuts = sorted(draw(st.sets(st.integers(0, len(history)))))
    again = draw(st.lists(st.sampled_from(history))) if history else []
    batches = [shuffled[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    return history, [*batches, again]


@settings(SETTINGS, max_examples=int(EXAMPLES or 150))
@given(tellings())
def test_order_does_not_matter(telling: tuple[list[Event], list[list[Event]]]) -> None:
    history, batches = telling

    assert comparable(settled(batches), history) == comparable(settled([history]), history)


@settings(SETTINGS, max_examples=int(EXAMPLES or 40))
@given(telling=tellings())
def test_order_does_not_matter_to_replicas(
    telling: tuple[list[Event], list[list[Event]]], redis_server: RedisServer
) -> None:
    history, batches = telling
    redis_server.client.flushall()

    told = settled(batches, redis_server.url)
    assert comparable(told, history) == comparable(settled([history]), history)
