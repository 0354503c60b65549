"""The pruning of the SQLite store, in slices, so that pushes are recorded in between.

No table has an index by age. So, once an hour, a pass reads each of them from its beginning to its end.
"""

from math import inf
from typing import Any, Final

import apsw

from app.domain.events import InstanceName
from app.store.port import SLICE
from app.store.sqlite.schema import ONLY_DELETED, read_clock, set_clock
from app.store.sqlite.transaction import SQLiteTransaction

_PASS_SECONDS: Final = 3600.0
_TABLES: Final = (
    ("event_keys", ("key",)),
    ("instances", ("name", "identity")),
    ("archived_instances", ("name", "identity")),
)
"""The tables of a pass, with their primary keys."""
_SELECT_ONLY_DELETED: Final = " UNION ALL ".join(
    f"SELECT name, identity, recorded_at FROM {table} WHERE {ONLY_DELETED}"  # noqa: S608 - our own names
    for table in ("instances", "archived_instances")
)


class Pruning:
    """The position of the pass."""

    def __init__(self) -> None:
        self._table = 0
        self._after: tuple[str, ...] | None = None
        """The primary key of the last row that was read; None before the first row."""

    def prune(self, transaction: SQLiteTransaction, before: float) -> bool:
        """Do a slice of the pass that deletes what was recorded before that time, if a pass is due.

        Return True if no slice is left to do.
        """
        if not _is_pass_due(transaction.connection, before):
            return True
        if not self._prune_slice(transaction, before):
            return False
        set_clock(transaction.connection, "pruned_before", before)
        return True

    def _prune_slice(self, transaction: SQLiteTransaction, before: float) -> bool:
        """Delete the old rows of a slice. Return True at the end of the pass."""
        table, columns = _TABLES[self._table]
        after = self._after or ("",) * len(columns)
        count, last, oldest = _summary(transaction.connection, table, columns, after)
        if count and oldest < before:
            _delete(transaction, table, columns, (*after, *last, before))
        if count == SLICE:
            self._after = last
            return False
        self._table, self._after = (self._table + 1) % len(_TABLES), None
        return self._table == 0


def _is_pass_due(connection: apsw.Connection, before: float) -> bool:
    """Return True if a pass is due that deletes what was recorded before that time.

    It is due once an hour, and also after the clock was set back or the retention was changed.
    """
    pruned_before = read_clock(connection, "pruned_before")
    if before == -inf:
        return False
    return pruned_before is None or not 0 <= before - pruned_before < _PASS_SECONDS


def prune_ledger(connection: apsw.Connection, before: float) -> bool:
    """Delete a slice of old ledger rows. Return True if there may be more."""
    # Rows of events that arrived late are young, and stay. There are few of them among the old ones.
    connection.execute(
        "DELETE FROM ledger WHERE number IN"
        " (SELECT number FROM ledger WHERE at < ? AND recorded_at < ? ORDER BY at LIMIT ?)",
        (before, before, SLICE),
    )
    return connection.changes() == SLICE


def prune_deletions(transaction: SQLiteTransaction, most: int) -> bool:
    """Delete a slice of the deletions of unknown instances, all but the newest `most`.

    Return True if there may be more.
    """
    surplus = [
        (InstanceName.from_path(path), identity)
        for path, identity, _ in transaction.connection.execute(
            f"{_SELECT_ONLY_DELETED} ORDER BY recorded_at DESC LIMIT ? OFFSET ?", (SLICE, most)
        )
    ]
    transaction.load([name for name, _ in surplus], archived=surplus)
    for name, identity in surplus:
        transaction.batch.remove(name, identity)
    return len(surplus) == SLICE


def _delete(
    transaction: SQLiteTransaction, table: str, columns: tuple[str, ...], span: tuple[object, ...]
) -> None:
    """Delete the old rows of a slice. `span`: the keys before and at its end, and the time."""
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    where = f"FROM {table} WHERE ({names}) > ({marks}) AND ({names}) <= ({marks}) AND recorded_at < ?"
    if table != "instances":
        transaction.connection.execute(f"DELETE {where}", span)
        return
    stale = [
        (InstanceName.from_path(path), identity)
        for path, identity in transaction.connection.execute(f"SELECT {names} {where}", span)
    ]
    transaction.load(name for name, _ in stale)
    for name, identity in stale:
        transaction.batch.remove(name, identity)


def _summary(
    connection: apsw.Connection, table: str, columns: tuple[str, ...], after: tuple[str, ...]
) -> tuple[int, tuple[Any, ...], float]:
    """Return the slice's number of rows, the key of its last row, and the time of its oldest row.

    SQLite computes it in one call, because each row that Python reads makes this thread and the event loop
    take the interpreter's lock in turn.
    """
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    some = f"SELECT {names}, recorded_at FROM {table} WHERE ({names}) > ({marks}) ORDER BY {names} LIMIT ?"  # noqa: S608
    query = (
        f"WITH slice AS MATERIALIZED ({some})"  # noqa: S608 - constants of this module
        f" SELECT {names}, (SELECT count(*) FROM slice), (SELECT min(recorded_at) FROM slice)"
        f" FROM slice ORDER BY {', '.join(f'{column} DESC' for column in columns)} LIMIT 1"
    )
    row = connection.execute(query, (*after, SLICE)).fetchone()
    if row is None:
        return 0, (), 0.0
    *last, count, oldest = row
    return count, tuple(last), oldest
