"""What the SQLite store forgets: slice by slice, so that pushes come between."""

import sqlite3
from typing import Final

from app.store import SLICE
from app.store.sqlite_places import name_of
from app.store.sqlite_rows import Rows

_PASS_SECONDS: Final = 3600.0
# What comes before every key, and before every slot.
_FIRST_KEY: Final = ""
_FIRST_SLOT: Final = -1


class Pruning:
    """How far the pass through all keys and all instances has come; there is one an hour."""

    def __init__(self) -> None:
        self._next_at = float("-inf")
        self._key: str | None = _FIRST_KEY
        """The last that was looked at; None: all were."""
        self._slot: int | None = _FIRST_SLOT
        """Likewise, of instances."""

    def forget(self, rows: Rows, before: float, now: float) -> bool:
        """Forget what is older of the next slice; whether the pass has come to its end."""
        if now < self._next_at <= now + _PASS_SECONDS:  # no further off, unless the clock was set back
            return True
        if self._key is not None:
            self._key = _forget_keys(rows.connection, self._key, before)
        if self._slot is not None:
            self._slot = _forget_instances(rows, self._slot, before)
        if self._key is not None or self._slot is not None:
            return False
        self._next_at, self._key, self._slot = now + _PASS_SECONDS, _FIRST_KEY, _FIRST_SLOT
        return True


def forget_ledger_rows(connection: sqlite3.Connection, before: float) -> bool:
    """Forget a slice of old ledger rows; whether there may be more."""
    # The ledger is in the order of recording: only its beginning needs a look.
    forgotten = connection.execute(
        "DELETE FROM ledger WHERE serial IN"
        " (SELECT serial FROM (SELECT serial, recorded_at FROM ledger ORDER BY serial LIMIT ?)"
        "  WHERE recorded_at < ?)",
        (SLICE, before),
    )
    return forgotten.rowcount == SLICE


def _forget_keys(connection: sqlite3.Connection, after: str, before: float) -> str | None:
    count, last, oldest = connection.execute(
        "SELECT count(*), max(key), min(seen_at)"
        " FROM (SELECT key, seen_at FROM seen WHERE key > ? ORDER BY key LIMIT ?)",
        (after, SLICE),
    ).fetchone()
    if count and oldest < before:
        connection.execute(
            "DELETE FROM seen WHERE key > ? AND key <= ? AND seen_at < ?", (after, last, before)
        )
    return last if count == SLICE else None


def _forget_instances(rows: Rows, after: int, before: float) -> int | None:
    looked_at = rows.connection.execute(
        "SELECT slot, name, identity, recorded_at FROM instances WHERE slot > ? ORDER BY slot LIMIT ?",
        (after, SLICE),
    ).fetchall()
    stale = [(name_of(name), identity) for _, name, identity, at in looked_at if at < before]
    rows.load(dict.fromkeys(name for name, _ in stale))
    for name, identity in stale:
        rows.batch.forget(name, identity)
    return looked_at[-1][0] if len(looked_at) == SLICE else None
