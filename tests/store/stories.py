"""Steps and checks that several tests of the stores share."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Final, TypeVar

from app.domain.batch import Applied
from app.domain.events import Event, InstanceName, Listed, Node
from app.domain.instances import Labels
from app.domain.totals import LabelSetTotals
from app.errors import StoreUnavailableError
from app.store.engine import SharedEngine
from app.store.port import SLICE, OpenedStore, SharedStore, Store
from tests.support.examples import (
    LABELS,
    NAME,
    NOW,
    TILLS,
    created,
    interrupted,
)
from tests.support.process import eventually

T = TypeVar("T")
MANY: Final = [created(str(number), name=NAME._replace(instance=f"node-{number}")) for number in range(2000)]
NUMBERED: Final = NAME._replace(project="123456789")
TEACHES: Final = created("99", name=NAME._replace(instance="teacher"), number="123456789")


def name(number: int) -> InstanceName:
    return NAME._replace(instance=f"node-{number:05}")


def until_done(work: Callable[[float], Applied], now: float) -> list[Applied]:
    done = [work(now)]
    while done[-1].more:
        done.append(work(now))
    return done


def keep_running(store: Store, since: float, until: float) -> None:
    """Do what the exporter does every minute."""
    for minute in range(int((until - since) // 60) + 1):
        store.accrue_instance_seconds(since + 60.0 * minute)


def interruptions(store: Store) -> dict[str, int]:
    clusters = store.state().totals.clusters.values()
    return {row.cluster: row.interruptions for row in clusters if row.interruptions}


def in_slices(fleet: Sequence[Listed]) -> Iterator[Sequence[Listed]]:
    return (fleet[start : start + SLICE] for start in range(0, len(fleet), SLICE))


def name_all(store: Store, fleet: Sequence[Listed], began: float, *, project: str = NAME.project) -> None:
    """Begin a listing, and name what it has to name."""
    store.begin_listing(project, began)
    for part in in_slices(fleet):
        store.record_listed(project, began, part, began)


def list_fleet(
    store: Store,
    fleet: Sequence[Listed],
    began: float,
    *,
    project: str = NAME.project,
    unread_zones: Collection[str] = (),
) -> list[Applied]:
    """A complete listing; what its end, slice by slice, has done."""
    name_all(store, fleet, began, project=project)
    return until_done(lambda now: store.end_listing(project, began, unread_zones, now), began)


def living(store: Store) -> int:
    """The sum of the gauges of Spot instances."""
    return sum(row.instances for row in store.state().totals.label_sets.values())


def row_of(store: Store, labels: Labels = LABELS) -> LabelSetTotals:
    return store.state().totals.label_sets[labels]


def shared_store(opened: OpenedStore) -> SharedStore:
    """The store, which several replicas use."""
    assert isinstance(opened.store, SharedEngine)
    return opened.store


def synced(opened: OpenedStore) -> Store:
    """The store, which leads if it is shared and no other replica does."""
    if opened.sync is not None:
        opened.sync.run(NOW)
    return opened.store


def until_up(work: Callable[[], T], *, within: float = 20) -> T:
    """The work's result once the server is there again."""

    def done() -> tuple[T] | None:
        try:
            return (work(),)
        except StoreUnavailableError:
            return None

    return eventually(done, within=within, what="the store is there again")[0]


def life(number: int, *, node: Node = TILLS, at: float = NOW, age: float = 60.0) -> list[Event]:
    """An instance that was created and, at that age, interrupted."""
    name = NAME._replace(instance=f"node-{number:05}")
    return [
        replace(created(str(number), at - age, name=name), node=node),
        interrupted(str(number), at, name=name),
    ]


def lives(*several: list[Event]) -> list[Event]:
    return [event for one in several for event in one]
