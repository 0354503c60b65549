"""A transaction of the SQLite store: the reads of its work, and the writing of its batch."""

from collections.abc import Iterable, Mapping, Sequence

import apsw

from app.domain.batch import names_of
from app.domain.events import InstanceName
from app.domain.instances import Instance
from app.store.memory import Memory
from app.store.port import SLICE, Due, Listing, Unlisted
from app.store.sqlite import listing as listings
from app.store.sqlite.rows import (
    INSTANCE_COLUMNS,
    SEEN_COLUMNS,
    LedgerRow,
    PendingRow,
    insert,
    insert_totals,
    row_of_counted,
    row_of_instance,
    row_of_pending,
    select_due,
    select_instances,
    select_pending,
    select_seen,
)
from app.store.sqlite.slots import BUCKET_SLOTS, bucket_of, slots_of


class SQLiteTransaction:
    """See `app.store.port.Transaction`. BEGIN and COMMIT are the backend's."""

    def __init__(
        self, connection: apsw.Connection, memory: Memory, sweeps: Mapping[str, float], now: float
    ) -> None:
        """`sweeps`: for each project, when its last listing began that ended unlisted instances."""
        self.connection = connection
        self.batch = memory.batch(now)
        self.swept: dict[str, float] = {}
        """For each project, when the listing began that this transaction completes, if it ends instances."""
        self._sweeps = sweeps
        self._now = now
        self._any_pending = memory.pending > 0
        self._loaded_buckets: set[int] = set()
        self._used_slots: set[int] = set()
        """The slots in the loaded buckets that hold a row."""
        self._slots: dict[tuple[InstanceName, str], int] = {}
        """The slot of each loaded incarnation, by name and identity."""

    def load(self, names: Iterable[InstanceName], keys: Sequence[str] = ()) -> None:
        by_path = {name.path: name for name in self.batch.unread(names)}
        self.batch.load(
            select_seen(self.connection, keys) if keys else (),
            self._load_instances(by_path),
            select_pending(self.connection, [*by_path]) if self._any_pending else (),
        )

    def _load_instances(self, by_path: Mapping[str, InstanceName]) -> list[Instance]:
        buckets = {bucket_of(name) for name in by_path.values()}
        self._loaded_buckets |= buckets
        instances = []
        for slot, instance in select_instances(self.connection, [*buckets], BUCKET_SLOTS, by_path):
            self._used_slots.add(slot)
            if instance is not None:
                self._slots[instance.name, instance.identity] = slot
                instances.append(instance)
        return instances

    def load_due(self) -> Due:
        pending = select_due(self.connection, self._now, SLICE)
        self.load(names_of(parked.event for parked in pending))
        return Due(pending, more=len(pending) == SLICE)

    def learn(self, number: str, project: str) -> Sequence[InstanceName]:
        execute = self.connection.execute
        execute("INSERT OR REPLACE INTO projects (number, id) VALUES (?, ?)", (number, project))
        under_number = (f"{number}/", f"{number}0")  # "0" is the character after "/"
        paths = execute(
            "SELECT name FROM instances WHERE slot BETWEEN ? AND ? AND name >= ? AND name < ?"
            " UNION SELECT name FROM parked WHERE name >= ? AND name < ?",
            (*slots_of(number), *under_number, *under_number),
        ).fetchall()
        names = [InstanceName.from_path(str(path)) for (path,) in paths]
        self.load([*names, *(name._replace(project=project) for name in names)])
        if names:
            execute(
                "UPDATE ledger SET name = ? || substr(name, ?) WHERE name >= ? AND name < ?",
                (project, len(number) + 1, *under_number),
            )
        return names

    def accrued_until(self) -> float | None:
        at: float | None = self.connection.execute("SELECT accounted_at FROM clock").get
        return at

    def set_accrued_until(self, at: float) -> None:
        self.connection.execute("DELETE FROM clock")
        self.connection.execute("INSERT INTO clock (accounted_at) VALUES (?)", (at,))

    def begin_listing(self, listing: Listing) -> None:
        listings.begin(self.connection, listing)

    def drop_listing(self, listing: Listing) -> None:
        listings.drop(self.connection, listing)

    def is_lost(self, listing: Listing) -> bool:
        return not listings.exists(self.connection, listing)

    def add_listed(self, listing: Listing, identities: Sequence[str]) -> None:
        listings.add(self.connection, listing, identities)

    def last_sweep(self, project: str) -> float | None:
        return self._sweeps.get(project)

    def load_unlisted(self, listing: Listing) -> Unlisted:
        unlisted = listings.find_unlisted(self.connection, listing)
        self.load(list(dict.fromkeys(name for name, _ in unlisted.instances)))
        return unlisted

    def complete_listing(self, listing: Listing, began: float, *, swept: bool) -> None:
        listings.drop(self.connection, listing)
        self.connection.execute(
            "INSERT OR REPLACE INTO listings (project, began) VALUES (?, ?)", (listing.project, began)
        )
        if swept:
            self.swept[listing.project] = began

    def write(self) -> None:
        """Write the changes of the batch."""
        connection, batch = self.connection, self.batch
        insert(
            connection,
            "INSERT OR REPLACE INTO seen",
            SEEN_COLUMNS,
            [(key, self._now) for key, new in batch.seen.items() if new],
        )
        self._write_instances()
        released = [(key,) for key, pending in batch.parked.items() if pending is None]
        if released:
            connection.executemany("DELETE FROM parked WHERE key = ?", released)
        insert(
            connection,
            "INSERT OR REPLACE INTO parked",
            PendingRow._fields,
            [row_of_pending(pending) for pending in batch.parked.values() if pending is not None],
        )
        insert(
            connection,
            "INSERT INTO ledger",
            LedgerRow._fields,
            [row_of_counted(counted, identity, self._now) for counted, identity in batch.counted],
        )
        if batch.explained:
            connection.executemany(
                "UPDATE ledger SET cluster = ?, cluster_location = ?, node_pool = ?, machine_type = ?,"
                " explained = 1 WHERE name = ? AND identity = ? AND NOT explained",
                [(*explain.node, explain.name.path, explain.identity) for explain in batch.explained],
            )
        insert_totals(connection, batch.tally.changed)

    def _write_instances(self) -> None:
        kept = self.batch.kept
        gone = [
            (self._slots[key],) for key, instance in kept.items() if instance is None and key in self._slots
        ]
        if gone:
            self.connection.executemany("DELETE FROM instances WHERE slot = ?", gone)
        insert(
            self.connection,
            "INSERT OR REPLACE INTO instances",
            INSTANCE_COLUMNS,
            [
                row_of_instance(self._slot(key), instance)
                for key, instance in kept.items()
                if instance is not None
            ],
        )

    def _slot(self, key: tuple[InstanceName, str]) -> int:
        """Return the incarnation's slot: its present one, or the first free one of the name's bucket."""
        slot = self._slots.get(key)
        if slot is None:
            bucket = bucket_of(key[0])
            if bucket not in self._loaded_buckets:
                raise ValueError("an instance cannot be written before its name was loaded")
            slot = next(free for free in range(bucket, bucket + BUCKET_SLOTS) if free not in self._used_slots)
            self._used_slots.add(slot)
            self._slots[key] = slot
        return slot
