"""A real store whose disk can be made to fail."""

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from app.domain.batch import Applied
from app.domain.events import Event, InstanceInterrupted, Listed
from app.domain.totals import Totals
from app.errors import StoreUnavailableError
from app.store.opening import open_store
from app.store.port import OpenedStore, Store, StoredState


class Disk:
    """The faults of a store: it is slow or unavailable, loses replies, or meets a bug."""

    def __init__(self) -> None:
        self.away = False
        self.loses_answers = False
        """The commit succeeds, and then the connection breaks."""
        self.poisonous: set[str] = set()
        """The names of instances whose events meet a bug."""
        self.batches: list[Sequence[str]] = []
        """The names of the instances of each attempted batch."""
        self._free = threading.Event()
        self._free.set()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Block commits during the block, after they have begun."""
        self._free.clear()
        try:
            yield
        finally:
            self._free.set()

    def open(self, url: str, *args: object, **options: object) -> OpenedStore:
        """Open a store on this disk, as `open_store` does."""
        opened = open_store(url, *args, **options)  # type: ignore[arg-type]  # as they come
        return replace(opened, store=StoreOnDisk(opened.store, self))

    def write(self, events: Sequence[Event]) -> None:
        """Wait for the disk, and raise its errors."""
        names = [event.name.instance for event in events]
        self.batches.append(names)
        self._free.wait(60)
        self.read()
        if not self.poisonous.isdisjoint(names):
            raise ZeroDivisionError("a bug")

    def read(self) -> None:
        """Raise the errors of the disk."""
        if self.away:
            raise StoreUnavailableError("the disk is away")

    def answer(self) -> None:
        """Lose the reply, if that is the fault."""
        if self.loses_answers:
            raise StoreUnavailableError("the answer was lost")


class StoreOnDisk:
    """See `app.store.port.Store`: a store with the faults of its disk."""

    def __init__(self, store: Store, disk: Disk) -> None:
        self._store = store
        self._disk = disk

    def state(self) -> StoredState:
        self._disk.read()
        return self._store.state()

    def apply(self, events: Sequence[Event], now: float) -> Applied:
        self._disk.write(events)
        applied = self._store.apply(events, now)
        self._disk.answer()
        return applied

    def recover(self, events: Sequence[InstanceInterrupted], settle_seconds: float, now: float) -> Applied:
        self._disk.read()
        return self._store.recover(events, settle_seconds, now)

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
