"""The writing of a batch into the SQLite file.

A row has the order of its table's columns in `app.store.sqlite.rows`.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Final

import apsw

from app.domain.batch import Batch
from app.domain.events import InstanceName
from app.domain.instances import Instance, PendingInterruption
from app.domain.outcomes import Counted
from app.domain.totals import LifetimeTotals, Totals
from app.store.sqlite.rows import (
    CLUSTER_COLUMNS,
    EVENT_KEY_COLUMNS,
    INSTANCE_COLUMNS,
    LABEL_SET_COLUMNS,
    LEDGER_COLUMNS,
    LIFETIME_COLUMNS,
    PENDING_COLUMNS,
    json_array,
)

_MAX_ROWS_PER_STATEMENT: Final = 16
"""So the statement for each number of rows stays prepared (2 µs per event). Also, SQLite saves the pages that
a statement of many rows changes until it ends; beyond 64 KiB it does so in a file."""


def write_batch(connection: apsw.Connection, batch: Batch, now: float, *, has_past: bool) -> None:
    """Write the changes of a batch. `has_past`: the ledger may have interruptions that are not counted."""
    _insert(
        connection,
        "INSERT OR REPLACE INTO event_keys",
        EVENT_KEY_COLUMNS,
        [(key, now) for key, new in batch.event_keys.items() if new],
    )
    _write_instances(connection, "instances", batch.instances)
    if batch.archived:
        _write_instances(connection, "archived_instances", batch.archived)
    if batch.pending_interruptions:
        _write_pending(connection, batch.pending_interruptions)
    _write_ledger(connection, batch, now, has_past=has_past)
    insert_totals(connection, batch.totals.changed)


def _write_instances(
    connection: apsw.Connection, table: str, rows: Mapping[tuple[InstanceName, str], Instance | None]
) -> None:
    removed = [(name.path, identity) for (name, identity), row in rows.items() if row is None]
    if removed:
        connection.executemany(
            f"DELETE FROM {table} WHERE (name, identity) = (?, ?)",  # noqa: S608 - our own names
            removed,
        )
    _insert(
        connection,
        f"INSERT OR REPLACE INTO {table}",
        INSTANCE_COLUMNS,
        [_row_of_instance(row) for row in rows.values() if row is not None],
    )


def _write_pending(connection: apsw.Connection, rows: Mapping[str, PendingInterruption | None]) -> None:
    released = [(key,) for key, pending in rows.items() if pending is None]
    if released:
        connection.executemany("DELETE FROM pending WHERE key = ?", released)
    _insert(
        connection,
        "INSERT OR REPLACE INTO pending",
        PENDING_COLUMNS,
        [_row_of_pending(pending) for pending in rows.values() if pending is not None],
    )


def _write_ledger(connection: apsw.Connection, batch: Batch, now: float, *, has_past: bool) -> None:
    if has_past and batch.counted:
        connection.executemany(
            "DELETE FROM ledger WHERE key = ? AND counted_as = ''",
            [(counted.key,) for counted, _ in batch.counted],
        )
    _insert(
        connection,
        "INSERT INTO ledger",
        LEDGER_COLUMNS,
        [
            _row_of_counted(counted, identity, now)
            for counted, identity in (*batch.counted, *batch.past.values())
        ],
    )
    if batch.attributed:
        connection.executemany(
            "UPDATE ledger SET cluster = ?, cluster_location = ?, node_pool = ?, machine_type = ?,"
            " attributed = 1 WHERE name = ? AND identity = ? AND NOT attributed",
            [
                (*attribution.node, attribution.name.path, attribution.identity)
                for attribution in batch.attributed
            ],
        )


def insert_totals(connection: apsw.Connection, changed: Totals) -> None:
    """Insert or replace the rows of totals."""
    label_sets = [
        (
            *row.labels,
            row.interruptions,
            row.created,
            row.failed,
            row.instances,
            row.instance_seconds,
            row.changed_at,
            row.released,
        )
        for row in changed.label_sets.values()
    ]
    clusters = [
        (row.cluster, row.interruptions, row.last_interruption_at, row.changed_at, row.released)
        for row in changed.clusters.values()
    ]
    lifetimes = [
        (row.cluster, row.machine_type, json_array(row.buckets), row.sum, row.changed_at, row.released)
        for row in changed.lifetimes.values()
    ]
    _insert(connection, "INSERT OR REPLACE INTO label_sets", LABEL_SET_COLUMNS, label_sets)
    _insert(connection, "INSERT OR REPLACE INTO clusters", CLUSTER_COLUMNS, clusters)
    _insert(connection, "INSERT OR REPLACE INTO lifetimes", LIFETIME_COLUMNS, lifetimes)


def reset_totals(connection: apsw.Connection) -> None:
    """Set every counter to 0, and keep the rows."""
    connection.execute(
        "UPDATE label_sets SET interruptions = 0, created = 0, failed = 0, instance_seconds = 0"
    )
    connection.execute("UPDATE clusters SET interruptions = 0")
    connection.execute(
        "UPDATE lifetimes SET buckets = ?, sum_seconds = 0", (json_array(LifetimeTotals("", "").buckets),)
    )


def delete_totals(connection: apsw.Connection, gone: Totals) -> None:
    """Delete the rows of totals."""
    connection.executemany(
        "DELETE FROM label_sets WHERE (project, cluster, cluster_location, node_pool, zone, machine_type)"
        " = (?,?,?,?,?,?)",
        gone.label_sets,
    )
    connection.executemany(
        "DELETE FROM clusters WHERE cluster = ?", [(cluster,) for cluster in gone.clusters]
    )
    connection.executemany("DELETE FROM lifetimes WHERE (cluster, machine_type) = (?, ?)", gone.lifetimes)


def _insert(
    connection: apsw.Connection, into: str, columns: tuple[str, ...], rows: Sequence[tuple[object, ...]]
) -> None:
    """Insert the rows of one table, in order, with few statements."""
    if len(rows) == 1:
        # Most tables get one row per commit. To join its values would take 3 % of a push alone.
        connection.execute(_statement(into, columns, 1), rows[0])
        return
    for start in range(0, len(rows), _MAX_ROWS_PER_STATEMENT):
        some = rows[start : start + _MAX_ROWS_PER_STATEMENT]
        connection.execute(_statement(into, columns, len(some)), [*chain.from_iterable(some)])


@cache
def _statement(into: str, columns: tuple[str, ...], rows: int) -> str:
    row = f"({','.join('?' * len(columns))})"
    return f"{into} ({','.join(columns)}) VALUES {','.join([row] * rows)}"


def _row_of_instance(instance: Instance) -> tuple[object, ...]:
    """Return the row of an incarnation, in the order of `INSTANCE_COLUMNS`."""
    name, identity, kind, node, *shared = instance
    return (name.path, identity, kind, *node, *shared)


def _row_of_pending(pending: PendingInterruption) -> tuple[object, ...]:
    """Return the row of a pending interruption, in the order of `PENDING_COLUMNS`."""
    event = pending.event
    return (event.key, event.name.path, event.id, event.at, pending.until, *event.details)


def _row_of_counted(counted: Counted, identity: str, now: float) -> tuple[object, ...]:
    """Return a ledger row, of the incarnation with that identity, in the order of `LEDGER_COLUMNS`."""
    return (
        counted.at,
        counted.key,
        now,
        counted.name.path,
        identity,
        *counted.node,
        counted.counted_as,
        counted.age,
        counted.attributed,
        counted.released_by,
        *counted.details,
    )
