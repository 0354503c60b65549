"""A transaction of the SQLite store: the reads of its work, and the writing of its batch."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import apsw

from app.domain.batch import identities_of
from app.domain.events import InstanceName
from app.store.memory import Memory
from app.store.port import SLICE, Clock, Due, Listing, Unlisted
from app.store.sqlite.rows import (
    select_archived,
    select_due,
    select_event_keys,
    select_instances,
    select_past,
    select_pending,
)
from app.store.sqlite.schema import read_clock, set_clock
from app.store.sqlite.writes import write_batch


class SQLiteTransaction:
    """See `app.store.port.Transaction`. BEGIN and COMMIT are the backend's."""

    def __init__(
        self,
        connection: apsw.Connection,
        memory: Memory,
        sweeps: Mapping[str, float],
        now: float,
        *,
        has_past: bool,
    ) -> None:
        """`sweeps`: for each project, when its last listing began that ended unlisted instances.

        `has_past`: the ledger may have interruptions that are not counted.
        """
        self.connection = connection
        self.batch = memory.batch(now)
        self.swept: dict[str, float] = {}
        """For each project, when the listing began that this transaction completes, if it ends instances."""
        self._sweeps = sweeps
        self._now = now
        self._any_pending = memory.pending > 0
        self._has_past = has_past

    def load(
        self,
        names: Iterable[InstanceName],
        keys: Sequence[str] = (),
        archived: Iterable[tuple[InstanceName, str]] = (),
    ) -> None:
        by_path = {name.path: name for name in self.batch.mark_read(names)}
        self.batch.load(
            select_event_keys(self.connection, keys) if keys else (),
            select_instances(self.connection, by_path),
            select_pending(self.connection, [*by_path]) if self._any_pending else (),
        )
        wanted = self.batch.without_known(archived)
        if wanted:
            self.batch.load_archived(select_archived(self.connection, wanted))

    def load_due(self) -> Due:
        pending = select_due(self.connection, self.batch.grace_clock, self.batch.latest_end, SLICE)
        events = [interruption.event for interruption in pending]
        self.load([event.name for event in events], archived=identities_of(events))
        return Due(pending, more=len(pending) == SLICE)

    def learn(self, number: str, project: str) -> Sequence[InstanceName]:
        execute = self.connection.execute
        execute("INSERT OR REPLACE INTO projects (number, id) VALUES (?, ?)", (number, project))
        under_number = (f"{number}/", f"{number}0")  # "0" is the character after "/"
        paths = execute(
            "SELECT name FROM instances WHERE name >= ? AND name < ?"
            " UNION SELECT name FROM pending WHERE name >= ? AND name < ?",
            (*under_number, *under_number),
        ).fetchall()
        names = [InstanceName.from_path(str(path)) for (path,) in paths]
        self.load([*names, *(name._replace(project=project) for name in names)])
        execute(
            "UPDATE OR REPLACE archived_instances SET name = ? || substr(name, ?)"
            " WHERE name >= ? AND name < ?",
            (project, len(number) + 1, *under_number),
        )
        if names:
            execute(
                "UPDATE ledger SET name = ? || substr(name, ?) WHERE name >= ? AND name < ?",
                (project, len(number) + 1, *under_number),
            )
        return names

    def find_past(self, keys: Sequence[str]) -> Collection[str]:
        return set(select_past(self.connection, keys))

    def read_clock(self, name: Clock) -> float | None:
        return read_clock(self.connection, name)

    def set_clock(self, name: Clock, seconds: float) -> None:
        set_clock(self.connection, name, seconds)

    def begin_listing(self, listing: Listing) -> None:
        table = _table_of(listing)
        self.connection.execute(f"CREATE TABLE {table} (identity TEXT PRIMARY KEY) WITHOUT ROWID")

    def drop_listing(self, listing: Listing) -> None:
        self.connection.execute(f"DROP TABLE IF EXISTS {_table_of(listing)}")

    def is_lost(self, listing: Listing) -> bool:
        query = "SELECT NOT EXISTS (SELECT 1 FROM temp.sqlite_schema WHERE 'temp.' || name = ?)"
        return bool(self.connection.execute(query, (_table_of(listing),)).get)

    def add_listed(self, listing: Listing, identities: Sequence[str]) -> None:
        self.connection.executemany(
            f"INSERT OR IGNORE INTO {_table_of(listing)} VALUES (?)",  # noqa: S608 - our own name
            [(identity,) for identity in identities],
        )

    def last_sweep(self, project: str) -> float | None:
        return self._sweeps.get(project)

    def load_unlisted(self, listing: Listing) -> Unlisted:
        # The position is a name and an identity, as JSON.
        first, last = f"{listing.project}/", f"{listing.project}0"  # "0" is the character after "/"
        rows: list[Any] = self.connection.execute(
            "SELECT name, identity, alive AND NOT EXISTS"  # noqa: S608 - our own name
            f" (SELECT 1 FROM {_table_of(listing)} AS listed WHERE listed.identity = instances.identity)"
            " FROM instances WHERE (name, identity) > (?, ?) AND name < ? ORDER BY name, identity LIMIT ?",
            (*(json.loads(listing.position) if listing.position else (first, "")), last, SLICE),
        ).fetchall()
        missing = [(InstanceName.from_path(path), identity) for path, identity, missing in rows if missing]
        # A project's id may have a slash in it, and begin with the id of another project.
        missing = [(name, identity) for name, identity in missing if name.project == listing.project]
        self.load(name for name, _ in missing)
        return Unlisted(missing, json.dumps(rows[-1][:2]) if len(rows) == SLICE else None)

    def complete_listing(self, listing: Listing, began: float, *, swept: bool, whole: bool) -> None:
        self.drop_listing(listing)
        self.connection.execute(
            "INSERT INTO listings (project, began, whole_at) VALUES (?, ?, ?) ON CONFLICT (project) DO UPDATE"
            " SET began = excluded.began, whole_at = coalesce(excluded.whole_at, whole_at)",
            (listing.project, began, began if whole else None),
        )
        if swept:
            self.swept[listing.project] = began

    def write(self) -> None:
        """Write the changes of the batch."""
        write_batch(self.connection, self.batch, self._now, has_past=self._has_past)


def _table_of(listing: Listing) -> str:
    """Return the name of the table of the instances that the listing has named so far.

    It is temporary, on disk, and lost with the connection. https://www.sqlite.org/tempfiles.html
    """
    return f"temp.listed_{listing.id}"
