"""A real store whose disk has troubles to order."""

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from app.domain.batch import Applied
from app.domain.events import Event, Listed
from app.domain.totals import Totals
from app.errors import StoreUnavailableError
from app.store.opening import open_store
from app.store.port import OpenedStore, Prepared, Store, StoredState


class Disk:
    """What the tests do to a store: it is slow, away, loses answers, or meets a bug."""

    def __init__(self) -> None:
        self.away = False
        self.loses_answers = False
        """What is asked for is committed, and then the connection breaks."""
        self.poisonous: set[str] = set()
        """Names of instances whose events meet a bug."""
        self.batches: list[Sequence[str]] = []
        """The names of each batch's instances, of those that were tried."""
        self._free = threading.Event()
        self._free.set()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Commits begin, and come to their end only afterwards."""
        self._free.clear()
        try:
            yield
        finally:
            self._free.set()

    def open(self, url: str, *args: object, **options: object) -> OpenedStore:
        """As `open_store`, on this disk."""
        opened = open_store(url, *args, **options)  # type: ignore[arg-type]  # as they come
        return replace(opened, store=StoreOnDisk(opened.store, self))

    def write(self, events: Sequence[Event]) -> None:
        """Take as long as the disk takes, and raise what it raises."""
        names = [event.name.instance for event in events]
        self.batches.append(names)
        self._free.wait(60)
        self.read()
        if not self.poisonous.isdisjoint(names):
            raise ZeroDivisionError("a bug")

    def read(self) -> None:
        """Raise what the disk raises."""
        if self.away:
            raise StoreUnavailableError("the disk is away")

    def answer(self) -> None:
        """Lose the answer, if that is the trouble."""
        if self.loses_answers:
            raise StoreUnavailableError("the answer was lost")


class StoreOnDisk:
    """See `app.store.port.Store`: another store, with its disk's troubles."""

    def __init__(self, store: Store, disk: Disk) -> None:
        self._store = store
        self._disk = disk

    def state(self) -> StoredState:
        self._disk.read()
        return self._store.state()

    def prepare(self, events: Sequence[Event], now: float) -> Prepared:
        return Prepared(partial(self.apply, events, now))

    def apply(self, events: Sequence[Event], now: float) -> Applied:
        self._disk.write(events)
        applied = self._store.apply(events, now)
        self._disk.answer()
        return applied

    def expire(self, now: float) -> Applied:
        self._disk.read()
        return self._store.expire(now)

    def accrue_instance_seconds(self, now: float) -> Applied:
        self._disk.read()
        return self._store.accrue_instance_seconds(now)

    def prune(self, now: float) -> Applied:
        self._disk.read()
        return self._store.prune(now)

    def release_held(self, rows: Totals, now: float) -> Applied:
        self._disk.read()
        return self._store.release_held(rows, now)

    def begin_listing(self, project: str, now: float) -> Applied:
        self._disk.read()
        return self._store.begin_listing(project, now)

    def record_listed(self, project: str, began: float, listed: Sequence[Listed], now: float) -> Applied:
        self._disk.read()
        return self._store.record_listed(project, began, listed, now)

    def end_listing(self, project: str, began: float, unread_zones: Collection[str], now: float) -> Applied:
        self._disk.read()
        return self._store.end_listing(project, began, unread_zones, now)

    def close(self) -> None:
        self._store.close()
