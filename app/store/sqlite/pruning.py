"""What the SQLite store forgets: slice by slice, so that pushes come between."""

from typing import Any, Final

import apsw

from app.store import SLICE
from app.store.sqlite.rows import Rows
from app.store.sqlite.slots import name_of

_PASS_SECONDS: Final = 3600.0
# What comes before every key, and before every slot.
_FIRST_KEY: Final = ""
_FIRST_SLOT: Final = -1
_LOOK_AT_KEYS: Final = (
    "SELECT count(*), max(key), min(seen_at)"
    " FROM (SELECT key, seen_at FROM seen WHERE key > ? ORDER BY key LIMIT ?)"
)
_LOOK_AT_INSTANCES: Final = (
    "SELECT count(*), max(slot), min(recorded_at)"
    " FROM (SELECT slot, recorded_at FROM instances WHERE slot > ? ORDER BY slot LIMIT ?)"
)


def is_due(before: float, forgotten_before: float | None) -> bool:
    """Whether a pass is due that forgets what is older than `before`; the last one went up to the other.

    There is one an hour, and another when the clock was set back or the retention changed.
    """
    return forgotten_before is None or not 0 <= before - forgotten_before < _PASS_SECONDS


class Pruning:
    """How far a pass through all keys and all instances has come."""

    def __init__(self) -> None:
        self._key: str | None = _FIRST_KEY
        """The last that was looked at; None: all were."""
        self._slot: int | None = _FIRST_SLOT
        """Likewise, of instances."""

    def forget(self, rows: Rows, before: float) -> bool:
        """Forget what is older of the next slice; whether the pass has come to its end."""
        if self._key is not None:
            self._key = _forget_keys(rows.connection, self._key, before)
        if self._slot is not None:
            self._slot = _forget_instances(rows, self._slot, before)
        if self._key is not None or self._slot is not None:
            return False
        self._key, self._slot = _FIRST_KEY, _FIRST_SLOT
        return True


def forget_ledger_rows(connection: apsw.Connection, before: float) -> bool:
    """Forget a slice of old ledger rows; whether there may be more."""
    # The ledger is in the order of recording: only its beginning needs a look.
    connection.execute(
        "DELETE FROM ledger WHERE serial IN"
        " (SELECT serial FROM (SELECT serial, recorded_at FROM ledger ORDER BY serial LIMIT ?)"
        "  WHERE recorded_at < ?)",
        (SLICE, before),
    )
    return connection.changes() == SLICE


def _forget_keys(connection: apsw.Connection, after: str, before: float) -> str | None:
    count, last, oldest = _looked_at(connection, _LOOK_AT_KEYS, after)
    if count and oldest < before:
        connection.execute(
            "DELETE FROM seen WHERE key > ? AND key <= ? AND seen_at < ?", (after, last, before)
        )
    return last if count == SLICE else None


def _forget_instances(rows: Rows, after: int, before: float) -> int | None:
    count, last, oldest = _looked_at(rows.connection, _LOOK_AT_INSTANCES, after)
    if count and oldest < before:
        stale = [
            (name_of(name), identity)
            for name, identity in rows.connection.execute(
                "SELECT name, identity FROM instances WHERE slot > ? AND slot <= ? AND recorded_at < ?",
                (after, last, before),
            )
        ]
        rows.load(dict.fromkeys(name for name, _ in stale))
        for name, identity in stale:
            rows.batch.forget(name, identity)
    return last if count == SLICE else None


def _looked_at(connection: apsw.Connection, query: str, after: str | int) -> tuple[int, Any, float]:
    """How many rows a slice has, its last one, and the oldest one's time.

    Asked of SQLite at once: for each row, this thread and the loop would take the interpreter's lock in turn.
    """
    count, last, oldest = connection.execute(query, (after, SLICE)).get
    return count, last, oldest
