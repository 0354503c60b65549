"""The SQLite store's rows: how values are read from its tables, and written to them."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from typing import Any, Final

from pydantic_core import to_json

from app.domain.batch import Batch
from app.domain.events import InstanceInterrupted, InstanceName, Node
from app.domain.instances import Instance, Kind, Labels, Parked
from app.domain.outcomes import Counted
from app.domain.totals import ClusterTotals, LabelSetTotals, LifetimeTotals, Totals
from app.store import SLICE


@dataclass(slots=True)
class Memory:
    """What is kept in memory besides the file; read from it at every connect."""

    totals: Totals = field(default_factory=Totals)
    projects: dict[str, str] = field(default_factory=dict)
    """Project number to project id."""
    pending: int = 0
    accounted_at: float | None = None
    listed: dict[str, float] = field(default_factory=dict)
    """Project to the moment for which its last complete listing spoke."""


SELECT_PARKED: Final = "SELECT key, name, id, at, until FROM parked"
_SELECT_SEEN: Final = "SELECT key FROM seen WHERE key IN (SELECT value FROM json_each(?))"
_SELECT_INSTANCES: Final = "SELECT * FROM instances WHERE name IN (SELECT value FROM json_each(?))"
_SELECT_PARKED_OF: Final = "SELECT * FROM parked WHERE name IN (SELECT value FROM json_each(?))"
_ROWS_A_STATEMENT: Final = 16
"""At most: so the statement of each number stays prepared. And what a statement of many rows changes, SQLite
saves page by page until its end; beyond 64 KiB in a file."""
_KINDS: Final = tuple(Kind)
# sqlite3 binds a str, an int or a float as it is, and of anything else asks its adapters first, which takes
# seven times as long. So rows hold +flag, an int, and where None is the rule, NaN: SQLite keeps it as NULL.
_NULL: Final = float("nan")


def read_memory(connection: sqlite3.Connection) -> Memory:
    """What the file holds of what is kept in memory too."""
    memory = Memory(projects=dict(connection.execute("SELECT number, id FROM projects")))
    memory.listed.update(connection.execute("SELECT project, began FROM listings"))
    totals = memory.totals
    totals.label_sets.update((row.labels, row) for row in label_sets(connection))
    for row in connection.execute("SELECT * FROM clusters"):
        totals.clusters[row[0]] = ClusterTotals(*_last_as_bool(row))
    for cluster, machine_type, buckets, *rest in connection.execute("SELECT * FROM lifetimes"):
        totals.lifetimes[cluster, machine_type] = LifetimeTotals(
            cluster, machine_type, json.loads(buckets), *_last_as_bool(rest)
        )
    (memory.pending,) = connection.execute("SELECT count(*) FROM parked").fetchone()
    for (accounted_at,) in connection.execute("SELECT accounted_at FROM clock"):
        memory.accounted_at = accounted_at
    return memory


def label_sets(connection: sqlite3.Connection) -> list[LabelSetTotals]:
    """The totals by label set."""
    rows = connection.execute("SELECT * FROM label_sets")
    return [LabelSetTotals(Labels(*row[:6]), *_last_as_bool(row[6:])) for row in rows]


def load(
    connection: sqlite3.Connection,
    batch: Batch,
    names: Iterable[InstanceName],
    keys: Sequence[str],
    *,
    waiting: bool = True,
) -> None:
    """Read ahead everything under the names, and which of the keys were seen; `waiting`: whether any wait."""
    asked = {_text(name): name for name in batch.unread(names)}
    texts = (_dumps([*asked]),)
    batch.load(
        [key for (key,) in connection.execute(_SELECT_SEEN, (_dumps(keys),))],
        [_instance(asked[row[0]], row) for row in connection.execute(_SELECT_INSTANCES, texts)],
        [parked_of(row) for row in connection.execute(_SELECT_PARKED_OF, texts)] if waiting else (),
    )


def write(connection: sqlite3.Connection, batch: Batch, now: float) -> None:
    """Write what the batch has changed."""
    _insert(
        connection,
        "INSERT OR REPLACE INTO seen",
        [(key, now) for key, new in batch.seen.items() if new],
    )
    gone = [(_text(name), identity) for (name, identity), kept in batch.kept.items() if kept is None]
    if gone:
        connection.executemany("DELETE FROM instances WHERE name = ? AND identity = ?", gone)
    _insert(
        connection,
        "INSERT OR REPLACE INTO instances",
        [_instance_row(kept) for kept in batch.kept.values() if kept is not None],
    )
    released = [(key,) for key, parked in batch.parked.items() if parked is None]
    if released:
        connection.executemany("DELETE FROM parked WHERE key = ?", released)
    _insert(
        connection,
        "INSERT OR REPLACE INTO parked",
        [_parked_row(parked) for parked in batch.parked.values() if parked is not None],
    )
    _insert(
        connection,
        "INSERT INTO ledger (key, at, recorded_at, name, identity, cluster, cluster_location, node_pool,"
        " machine_type, counted_as, age_seconds, explained, released_by)",
        [_ledger_row(counted, identity, now) for counted, identity in batch.counted],
    )
    if batch.explained:
        connection.executemany(
            "UPDATE ledger SET cluster = ?, cluster_location = ?, node_pool = ?, machine_type = ?,"
            " explained = 1 WHERE name = ? AND identity = ? AND NOT explained",
            [(*explain.node, _text(explain.name), explain.identity) for explain in batch.explained],
        )
    _write_totals(connection, batch.tally.changed)


def _write_totals(connection: sqlite3.Connection, changed: Totals) -> None:
    _insert(
        connection,
        "INSERT OR REPLACE INTO label_sets",
        [
            (
                *row.labels,
                row.interruptions,
                row.created,
                row.failed,
                row.instances,
                row.instance_seconds,
                row.touched_at,
                +row.revealed,
            )
            for row in changed.label_sets.values()
        ],
    )
    _insert(
        connection,
        "INSERT OR REPLACE INTO clusters",
        [
            (row.cluster, row.interruptions, row.last_interruption_at, row.touched_at, +row.revealed)
            for row in changed.clusters.values()
        ],
    )
    _insert(
        connection,
        "INSERT OR REPLACE INTO lifetimes",
        [
            (row.cluster, row.machine_type, _dumps(row.buckets), row.sum, row.touched_at, +row.revealed)
            for row in changed.lifetimes.values()
        ],
    )


def _insert(connection: sqlite3.Connection, into: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Insert the rows, in their order, with few statements."""
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        some = rows[start : start + _ROWS_A_STATEMENT]
        connection.execute(_statement(into, len(some), len(some[0])), [*chain.from_iterable(some)])


@cache
def _statement(into: str, rows: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return f"{into} VALUES {', '.join([row] * rows)}"


def drop_totals(connection: sqlite3.Connection, gone: Totals) -> None:
    """Delete the rows of totals that are no more."""
    connection.executemany(
        "DELETE FROM label_sets WHERE (project, cluster, cluster_location, node_pool, zone, machine_type)"
        " = (?,?,?,?,?,?)",
        gone.label_sets,
    )
    connection.executemany(
        "DELETE FROM clusters WHERE cluster = ?", [(cluster,) for cluster in gone.clusters]
    )
    connection.executemany("DELETE FROM lifetimes WHERE (cluster, machine_type) = (?, ?)", gone.lifetimes)


def prune_rows(connection: sqlite3.Connection, before: float) -> bool:
    """Delete a slice of old keys and of old ledger rows; whether there may be more."""
    keys = connection.execute(
        "DELETE FROM seen WHERE key IN (SELECT key FROM seen WHERE seen_at < ? ORDER BY seen_at LIMIT ?)",
        (before, SLICE),
    ).rowcount
    # The ledger is in the order of recording: only its beginning needs a look.
    rows = connection.execute(
        "DELETE FROM ledger WHERE serial IN"
        " (SELECT serial FROM (SELECT serial, recorded_at FROM ledger ORDER BY serial LIMIT ?)"
        "  WHERE recorded_at < ?)",
        (SLICE, before),
    ).rowcount
    return SLICE in (keys, rows)


def rename_project(connection: sqlite3.Connection, batch: Batch, number: str, project: str) -> None:
    """Move what is kept under a project's number to its id."""
    under = (f"{number}/", f"{number}0")  # "0" is the character after "/"
    texts = connection.execute(
        "SELECT name FROM instances WHERE name >= ? AND name < ?"
        " UNION SELECT name FROM parked WHERE name >= ? AND name < ?",
        under * 2,
    ).fetchall()
    names = [name_of(text) for (text,) in texts]
    load(connection, batch, [*names, *(name._replace(project=project) for name in names)], ())
    for name in names:
        batch.rename(name, project)
    if names:
        connection.execute(
            "UPDATE ledger SET name = ? || substr(name, ?) WHERE name >= ? AND name < ?",
            (project, len(number) + 1, *under),
        )


def _last_as_bool(row: Sequence[Any]) -> Iterable[Any]:
    return (*row[:-1], bool(row[-1]))


def _dumps(values: Sequence[str] | Sequence[int]) -> str:
    return to_json(values).decode()


def _text(name: InstanceName) -> str:
    return "/".join(name)


def name_of(text: str) -> InstanceName:
    """The instance name that a row holds."""
    return InstanceName(*text.rsplit("/", 2))


def _instance(name: InstanceName, row: Sequence[Any]) -> Instance:
    spot, alive, announced, failed, timed, overflowed = row[8:14]
    return Instance(
        name,
        row[1],
        _KINDS[row[2]],
        Node(*row[3:7]),
        row[7],
        bool(spot),
        bool(alive),
        bool(announced),
        bool(failed),
        bool(timed),
        bool(overflowed),
        *row[14:],
    )


def _instance_row(instance: Instance) -> tuple[object, ...]:
    return (
        _text(instance.name),
        instance.identity,
        +instance.kind,
        *instance.node,
        instance.recorded_at,
        +instance.spot,
        +instance.alive,
        +instance.announced,
        +instance.failed,
        +instance.timed,
        +instance.overflowed,
        instance.operation,
        instance.created_at,
        _NULL if instance.started_at is None else instance.started_at,
        instance.interrupted_at,
        instance.ended_at,
    )


def parked_of(row: Sequence[Any]) -> Parked:
    """The waiting interruption that a row of SELECT_PARKED holds."""
    key, name, instance_id, at, until = row
    return Parked(InstanceInterrupted(key, at, name_of(name), instance_id), until)


def _parked_row(parked: Parked) -> tuple[object, ...]:
    event = parked.event
    return (event.key, _text(event.name), event.id, event.at, parked.until)


def _ledger_row(counted: Counted, identity: str, now: float) -> tuple[object, ...]:
    return (
        counted.key,
        counted.at,
        now,
        _text(counted.name),
        identity,
        *counted.node,
        counted.counted_as,
        _NULL if counted.age is None else counted.age,
        +counted.explained,
        counted.released_by or _NULL,
    )
