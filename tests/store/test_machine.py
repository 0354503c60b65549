"""The store against a small model of it: whatever may come, in any order, with restarts between."""

import os
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from app.domain.attribution import Rules
from app.domain.events import (
    UNKNOWN,
    CreationFailed,
    Event,
    InstanceCreated,
    InstanceInterrupted,
    InstanceName,
)
from app.domain.instances import Labels
from app.domain.totals import Totals
from app.store import Store, open_store
from tests.domain.examples import (
    DAY,
    GRACE,
    LAB,
    NAME,
    NOW,
    OTHER_NAME,
    TILLS,
    created,
    failed,
    interrupted,
)

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
NODES: Final = {NAME: TILLS, OTHER_NAME: LAB}
NUMBER: Final = "123456789"
NAMES: Final = st.sampled_from([NAME, OTHER_NAME])


@dataclass
class Model:
    """What must have been counted: each name is of one cluster, so only the grace makes a difference."""

    counted: Counter[str] = field(default_factory=Counter)
    waiting: dict[str, tuple[float, InstanceInterrupted]] = field(default_factory=dict)
    created: dict[str, InstanceCreated] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    interrupted: set[str] = field(default_factory=set)
    """Keys."""
    learnt: bool = False
    """The project's number is known."""

    def take(self, event: Event, now: float) -> None:
        if isinstance(event, CreationFailed):
            self.failed.add(event.id)
        elif isinstance(event, InstanceCreated):
            self.created.setdefault(event.key, event)
        elif event.key not in self.interrupted:
            self.interrupted.add(event.key)
            self.waiting[event.key] = (now + GRACE, event)
        self.settle()

    def settle(self, graces_end_at: float = 0.0) -> None:
        for key, (until, event) in list(self.waiting.items()):
            namesakes = [one for one in self.created.values() if self.name(one) == self.name(event)]
            its = [one for one in namesakes if event.id == one.id or not (event.id or one.id in self.failed)]
            if its or until <= graces_end_at:
                del self.waiting[key]
                self.counted[NODES[event.name].cluster if namesakes else UNKNOWN] += 1

    def name(self, event: Event) -> InstanceName:
        return event.name._replace(project=NAME.project) if self.learnt else event.name


class Exporter(RuleBasedStateMachine):
    """What happens in the cloud is told by messages, which are delivered at any time, or never, or again."""

    messages = Bundle("messages")

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.path = Path(self.folder.name) / "store.db"
        self.store = self.open()
        self.model = Model()
        self.now = NOW
        self.at = 0.0
        self.newest: dict[InstanceName, InstanceCreated] = {}
        self.living: set[str] = set()
        """In truth, whatever has been delivered."""
        self.shown = Totals()

    def open(self) -> Store:
        return open_store(f"sqlite:///{self.path}", Rules(GRACE, 31 * DAY)).store

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    @rule(target=messages, name=NAMES, spelling=st.sampled_from(["id", "number", "both"]))
    def create(self, name: InstanceName, spelling: str) -> Event:
        self.at += 10.0
        event = created(
            f"{self.at:.0f}",
            self.at,
            name=name._replace(project=NUMBER) if spelling == "number" else name,
            node=NODES[name],
            number=NUMBER if spelling == "both" else "",
        )
        if older := self.newest.get(name):
            self.living.discard(older.id)
        self.newest[name] = event
        self.living.add(event.id)
        return event

    @rule(target=messages, name=NAMES, tells_id=st.booleans())
    def interrupt(self, name: InstanceName, tells_id: bool) -> Event:  # noqa: FBT001 - drawn
        self.at += 10.0
        newest = self.newest.get(name)
        instance_id = newest.id if newest else f"{self.at:.0f}"
        self.living.discard(instance_id)
        return interrupted(instance_id if tells_id else "", self.at, name=name)

    @rule(target=messages, name=NAMES)
    def fail(self, name: InstanceName) -> Event:
        self.at += 10.0
        newest = self.newest.get(name) or created("never", name=name)
        self.living.discard(newest.id)
        return failed(newest.id, self.at, name=newest.name)

    @rule(events=st.lists(messages, min_size=1, max_size=5))
    def deliver(self, events: list[Event]) -> None:
        self.store.apply(events, self.now)
        if any(event.project_number for event in events):
            self.model.learnt = True
            self.model.settle()
        for event in events:
            self.model.take(event, self.now)

    @rule(seconds=st.sampled_from([1.0, GRACE / 2, GRACE]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds
        for work in (self.store.expire, self.store.account, self.store.prune):
            while work(self.now).more:
                pass
        self.model.settle(graces_end_at=self.now)

    @rule()
    def restart(self) -> None:
        before = self.store.remembered()
        self.store.close()
        self.store = self.open()
        assert self.store.remembered() == before

    @invariant()
    def nothing_is_lost_and_nothing_counts_twice(self) -> None:
        remembered = self.store.remembered()
        clusters = remembered.totals.clusters
        assert +Counter({name: row.interruptions for name, row in clusters.items()}) == self.model.counted
        assert remembered.pending == len(self.model.waiting)
        rows = remembered.totals.label_sets.values()
        assert sum(row.created for row in rows) == len(self.model.created)
        ids = {event.id for event in self.model.created.values()}
        assert sum(row.failed for row in rows) == len(ids & self.model.failed)

    @invariant()
    def label_sets_sum_up_to_their_clusters(self) -> None:
        totals = self.store.remembered().totals
        sums: Counter[str] = Counter()
        for row in totals.label_sets.values():
            sums[row.labels.cluster] += row.interruptions
        assert sums == {name: row.interruptions for name, row in totals.clusters.items()}

    @invariant()
    def counters_never_go_down(self) -> None:
        totals, before = self.store.remembered().totals, self.shown
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

    @invariant()
    def the_ledger_has_what_was_counted(self) -> None:
        rows = self.read("SELECT key, counted_as FROM ledger")
        assert len({key for key, _ in rows}) == len(rows)
        assert Counter(cluster for _, cluster in rows) == self.model.counted

    @invariant()
    def the_gauge_is_how_many_live(self) -> None:
        recount: Counter[Labels] = Counter()
        for name, *node in self.read(
            "SELECT name, cluster, cluster_location, node_pool, machine_type FROM instances"
            " WHERE alive AND spot AND kind = 1"
        ):
            project, zone, _ = name.split("/")
            cluster, location, pool, machine_type = node
            recount[Labels(project, cluster, location, pool, zone, machine_type)] += 1
        totals = self.store.remembered().totals
        assert +Counter({labels: row.instances for labels, row in totals.label_sets.items()}) == recount

    @invariant()
    def nothing_ended_that_lives_and_nothing_lives_that_was_seen_to_end(self) -> None:
        rows = self.read("SELECT name, identity FROM instances WHERE alive")
        assert len({name for name, _ in rows}) == len(rows)
        alive = {identity for _, identity in rows}
        known = {event.id: self.model.name(event) for event in self.model.created.values()}
        assert self.living & known.keys() <= alive
        assert not alive & self.model.failed
        told = self.read("SELECT name, identity FROM ledger WHERE explained")
        assert not alive & {identity for _, identity in told if self.ended_by_id(identity)}

    def ended_by_id(self, identity: str) -> bool:
        return any(f" {identity} " in key for key in self.model.interrupted)

    def read(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchall()


TestExporter = Exporter.TestCase
TestExporter.settings = SETTINGS


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Everything that happens to two names, told with ids, in the order in which it happened."""
    events: list[Event] = []
    for name in NODES:
        for serial in range(draw(st.integers(0, 3))):
            at = 1000.0 * serial
            instance_id = f"{serial}"
            if draw(st.integers(0, 3)):
                spot = draw(st.sampled_from([True, None, False]))
                node = draw(st.sampled_from([TILLS, LAB]))
                events.append(created(instance_id, at, name=name, node=node, spot=spot))
            if not draw(st.integers(0, 3)):
                events.append(failed(instance_id, at + 10, name=name))
            events += [
                interrupted(instance_id, at + 100 * (number + 1), name=name)
                for number in range(draw(st.integers(0, 2)))
            ]
    return events


def settled(batches: list[list[Event]]) -> list[object]:
    """What stands in the totals once every grace has ended."""
    store = open_store("sqlite:///:memory:", Rules(GRACE)).store
    for events in batches:
        store.apply(events, NOW)
    store.expire(NOW + GRACE)
    totals = store.remembered().totals
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


@settings(SETTINGS, max_examples=int(EXAMPLES or 150))
@given(st.data())
def test_order_does_not_matter(data: st.DataObject) -> None:
    history = data.draw(histories())
    shuffled = data.draw(st.permutations(history))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(history)))))
    again = data.draw(st.lists(st.sampled_from(history))) if history else []
    batches = [shuffled[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]

    assert settled([*batches, again]) == settled([history])
