"""Which instances a listing under way has named: tables of the connection's own, on temporary disk.

https://www.sqlite.org/tempfiles.html
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import apsw

from app.domain.events import InstanceName
from app.errors import StoreUnavailableError
from app.store import SLICE
from app.store.sqlite.slots import name_of, slots_of


@dataclass(slots=True)
class _Listing:
    table: str
    swept_to: int
    """The slot up to which unnamed instances were looked for."""


class Listings:
    """The listings under way, at most one a project; gone with the connection."""

    def __init__(self) -> None:
        self._under_way: dict[str, _Listing] = {}
        self._begun = 0

    def begin(self, connection: apsw.Connection, project: str) -> None:
        """Begin with nothing named."""
        self.end(connection, project)
        self._begun += 1
        listing = _Listing(f"temp.named_{self._begun}", slots_of(project)[0] - 1)
        connection.execute(f"CREATE TABLE {listing.table} (identity TEXT PRIMARY KEY) WITHOUT ROWID")
        self._under_way[project] = listing

    def name(self, connection: apsw.Connection, project: str, identities: Iterable[str]) -> None:
        """Remember that these were named. Raises StoreUnavailableError for a listing that was lost."""
        connection.executemany(
            f"INSERT OR IGNORE INTO {self._of(project).table} VALUES (?)",  # noqa: S608 - a name of ours
            [(identity,) for identity in identities],
        )

    def sweep(
        self, connection: apsw.Connection, project: str, unread_zones: Collection[str]
    ) -> tuple[list[tuple[InstanceName, str]], bool]:
        """Living instances that were not named, of the next slice; and whether it was the last."""
        listing = self._of(project)
        looked_at: list[Any] = connection.execute(
            "SELECT slot, name, identity, alive AND NOT EXISTS"  # noqa: S608 - likewise
            f" (SELECT 1 FROM {listing.table} AS named WHERE named.identity = instances.identity)"
            " FROM instances WHERE slot > ? AND slot <= ? ORDER BY slot LIMIT ?",
            (listing.swept_to, slots_of(project)[1], SLICE),
        ).fetchall()
        if looked_at:
            listing.swept_to = looked_at[-1][0]
        unnamed = [(name_of(name), identity) for _, name, identity, missed in looked_at if missed]
        read = [
            (name, identity)
            for name, identity in unnamed
            if name.project == project and name.zone not in unread_zones
        ]
        return read, len(looked_at) < SLICE

    def end(self, connection: apsw.Connection, project: str) -> None:
        """Forget what was named."""
        listing = self._under_way.pop(project, None)
        if listing is not None:
            connection.execute(f"DROP TABLE IF EXISTS {listing.table}")

    def lose(self) -> None:
        """The connection is gone, and its tables with it."""
        self._under_way.clear()

    def _of(self, project: str) -> _Listing:
        if project not in self._under_way:
            raise StoreUnavailableError("the store was away while the fleet was being listed")
        return self._under_way[project]
