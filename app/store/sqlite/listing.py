"""The instances that a listing has named so far: one temporary table per listing, on disk.

A temporary table is lost with the connection. https://www.sqlite.org/tempfiles.html
"""

from collections.abc import Sequence
from typing import Any

import apsw

from app.domain.events import InstanceName
from app.store.port import SLICE, Listing, Unlisted
from app.store.sqlite.slots import slots_of


def begin(connection: apsw.Connection, listing: Listing) -> None:
    """Create the listing's table, empty."""
    connection.execute(f"CREATE TABLE temp.{_table(listing)} (identity TEXT PRIMARY KEY) WITHOUT ROWID")


def exists(connection: apsw.Connection, listing: Listing) -> bool:
    """Return True if the listing's table exists."""
    query = "SELECT count(*) FROM temp.sqlite_schema WHERE name = ?"
    return bool(connection.execute(query, (_table(listing),)).get)


def add(connection: apsw.Connection, listing: Listing, identities: Sequence[str]) -> None:
    """Add instances to the listing."""
    connection.executemany(
        f"INSERT OR IGNORE INTO temp.{_table(listing)} VALUES (?)",  # noqa: S608 - our own name
        [(identity,) for identity in identities],
    )


def find_unlisted(connection: apsw.Connection, listing: Listing) -> Unlisted:
    """Return the slice of unlisted instances at the listing's position, which is a slot."""
    first, last = slots_of(listing.project)
    rows: list[Any] = connection.execute(
        "SELECT slot, name, identity, alive AND NOT EXISTS"  # noqa: S608 - our own name
        f" (SELECT 1 FROM temp.{_table(listing)} AS listed WHERE listed.identity = instances.identity)"
        " FROM instances WHERE slot > ? AND slot <= ? ORDER BY slot LIMIT ?",
        (int(listing.position or first - 1), last, SLICE),
    ).fetchall()
    unlisted = [
        (InstanceName.from_path(path), identity) for _, path, identity, is_missing in rows if is_missing
    ]
    # Instances of another project can be in the same slots.
    return Unlisted(
        [(name, identity) for name, identity in unlisted if name.project == listing.project],
        str(rows[-1][0]) if len(rows) == SLICE else None,
    )


def drop(connection: apsw.Connection, listing: Listing) -> None:
    """Drop the listing's table."""
    connection.execute(f"DROP TABLE IF EXISTS temp.{_table(listing)}")


def _table(listing: Listing) -> str:
    return f"listed_{listing.id}"
