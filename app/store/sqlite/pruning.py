"""The pruning of the SQLite store, in slices, so that pushes are recorded in between.

Neither `seen` nor `instances` has an index by age. So, once an hour, a pass reads each of them from its
beginning to its end.
"""

from typing import Any, Final

import apsw

from app.domain.events import InstanceName
from app.store.port import SLICE
from app.store.sqlite.transaction import SQLiteTransaction

_PASS_SECONDS: Final = 3600.0
_BEFORE_FIRST_KEY: Final = ""
_BEFORE_FIRST_SLOT: Final = -1
_SUMMARISE_KEYS: Final = (
    "SELECT count(*), max(key), min(seen_at)"
    " FROM (SELECT key, seen_at FROM seen WHERE key > ? ORDER BY key LIMIT ?)"
)
_SUMMARISE_INSTANCES: Final = (
    "SELECT count(*), max(slot), min(recorded_at)"
    " FROM (SELECT slot, recorded_at FROM instances WHERE slot > ? ORDER BY slot LIMIT ?)"
)


class Pruning:
    """The position of the pass through all event keys and all instances."""

    def __init__(self) -> None:
        self._key: str | None = _BEFORE_FIRST_KEY
        """The last event key that was read; None after the last one of all."""
        self._slot: int | None = _BEFORE_FIRST_SLOT
        """The last slot that was read; None after the last one of all."""

    def prune(self, transaction: SQLiteTransaction, before: float) -> bool:
        """Delete a slice of what was recorded before that time. Return True at the end of the pass."""
        if self._key is not None:
            self._key = _prune_keys(transaction.connection, self._key, before)
        if self._slot is not None:
            self._slot = _prune_instances(transaction, self._slot, before)
        if self._key is not None or self._slot is not None:
            return False
        self._key, self._slot = _BEFORE_FIRST_KEY, _BEFORE_FIRST_SLOT
        return True


def is_pass_due(connection: apsw.Connection, before: float) -> bool:
    """Return True if a pass is due that deletes what was recorded before that time.

    It is due once an hour, and also after the clock was set back or the retention was changed.
    """
    pruned_before: float | None = connection.execute("SELECT before FROM pruned").get
    return pruned_before is None or not 0 <= before - pruned_before < _PASS_SECONDS


def record_pass(connection: apsw.Connection, before: float) -> None:
    """Store that a pass has deleted everything that was recorded before that time."""
    connection.execute("DELETE FROM pruned")
    connection.execute("INSERT INTO pruned (before) VALUES (?)", (before,))


def prune_ledger(connection: apsw.Connection, before: float) -> bool:
    """Delete a slice of old ledger rows. Return True if there may be more."""
    # The rows are in the order of recording, so only the beginning has to be read.
    connection.execute(
        "DELETE FROM ledger WHERE serial IN"
        " (SELECT serial FROM (SELECT serial, recorded_at FROM ledger ORDER BY serial LIMIT ?)"
        "  WHERE recorded_at < ?)",
        (SLICE, before),
    )
    return connection.changes() == SLICE


def _prune_keys(connection: apsw.Connection, after: str, before: float) -> str | None:
    count, last, oldest = _summary(connection, _SUMMARISE_KEYS, after)
    if count and oldest < before:
        connection.execute(
            "DELETE FROM seen WHERE key > ? AND key <= ? AND seen_at < ?", (after, last, before)
        )
    return last if count == SLICE else None


def _prune_instances(transaction: SQLiteTransaction, after: int, before: float) -> int | None:
    count, last, oldest = _summary(transaction.connection, _SUMMARISE_INSTANCES, after)
    if count and oldest < before:
        stale = [
            (InstanceName.from_path(path), identity)
            for path, identity in transaction.connection.execute(
                "SELECT name, identity FROM instances WHERE slot > ? AND slot <= ? AND recorded_at < ?",
                (after, last, before),
            )
        ]
        transaction.load(dict.fromkeys(name for name, _ in stale))
        for name, identity in stale:
            transaction.batch.forget(name, identity)
    return last if count == SLICE else None


def _summary(connection: apsw.Connection, query: str, after: str | int) -> tuple[int, Any, float]:
    """Return the slice's number of rows, its last row, and the time of its oldest row.

    SQLite computes it in one call, because each row that Python reads makes this thread and the event loop
    take the interpreter's lock in turn.
    """
    count, last, oldest = connection.execute(query, (after, SLICE)).get
    return count, last, oldest
