"""The instances that a listing has named so far: one temporary table per listing, on disk.

A temporary table is lost with the connection. https://www.sqlite.org/tempfiles.html
"""

import json
from collections.abc import Sequence
from typing import Any

import apsw

from app.domain.events import InstanceName
from app.store.port import SLICE, Listing, Unlisted


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
    """Return the slice of unlisted instances at the listing's position: a name and an identity, as JSON."""
    first, last = f"{listing.project}/", f"{listing.project}0"  # "0" is the character after "/"
    rows: list[Any] = connection.execute(
        "SELECT name, identity, alive AND NOT EXISTS"  # noqa: S608 - our own name
        f" (SELECT 1 FROM temp.{_table(listing)} AS listed WHERE listed.identity = instances.identity)"
        " FROM instances WHERE (name, identity) > (?, ?) AND name < ? ORDER BY name, identity LIMIT ?",
        (*(json.loads(listing.position) if listing.position else (first, "")), last, SLICE),
    ).fetchall()
    unlisted = [(InstanceName.from_path(path), identity) for path, identity, missing in rows if missing]
    # A project's id may have a slash in it, and begin with the id of another project.
    return Unlisted(
        [(name, identity) for name, identity in unlisted if name.project == listing.project],
        json.dumps(rows[-1][:2]) if len(rows) == SLICE else None,
    )


def drop(connection: apsw.Connection, listing: Listing) -> None:
    """Drop the listing's table."""
    connection.execute(f"DROP TABLE IF EXISTS temp.{_table(listing)}")


def _table(listing: Listing) -> str:
    return f"listed_{listing.id}"
