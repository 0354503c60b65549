"""The SQLite store's rows: how values are read from its tables, and written to them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from typing import Any, Final

import apsw
from pydantic_core import to_json

from app.domain.batch import Batch
from app.domain.events import InstanceInterrupted, InstanceName, node_of
from app.domain.instances import Instance, Kind, Labels, Parked, instance_of
from app.domain.outcomes import Counted
from app.domain.totals import ClusterTotals, LabelSetTotals, LifetimeTotals, Totals
from app.store.sqlite.slots import SLOTS_OF_PLACE, name_of, place_of, slots_of


@dataclass(slots=True)
class Memory:
    """What is kept in memory besides the file; read from it at every connect."""

    totals: Totals = field(default_factory=Totals)
    projects: dict[str, str] = field(default_factory=dict)
    """Project number to project id."""
    pending: int = 0
    accounted_at: float | None = None
    forgotten_before: float | None = None
    """What was older when the last pass of the pruning came to its end; None: none ever has."""
    listed: dict[str, float] = field(default_factory=dict)
    """Project to the moment for which its last complete listing spoke."""


SELECT_PARKED: Final = "SELECT key, name, id, at, until FROM parked"
_SELECT_SEEN: Final = "SELECT seen.key FROM json_each(?) AS keys CROSS JOIN seen ON seen.key = keys.value"
_SELECT_INSTANCES: Final = (
    "SELECT instances.* FROM json_each(?) AS places"
    " CROSS JOIN instances ON slot BETWEEN places.value AND places.value + ?"
)
_SELECT_PARKED_OF: Final = "SELECT * FROM parked WHERE name IN (SELECT value FROM json_each(?))"
_ROWS_A_STATEMENT: Final = 16
"""At most: so the statement of each number stays prepared. And what a statement of many rows changes, SQLite
saves page by page until its end; beyond 64 KiB in a file."""
_KINDS: Final = tuple(Kind)


def read_memory(connection: apsw.Connection) -> Memory:
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
    memory.pending = connection.execute("SELECT count(*) FROM parked").get
    for (accounted_at,) in connection.execute("SELECT accounted_at FROM clock"):
        memory.accounted_at = accounted_at
    for (before,) in connection.execute("SELECT before FROM pruned"):
        memory.forgotten_before = before
    return memory


def label_sets(connection: apsw.Connection) -> list[LabelSetTotals]:
    """The totals by label set."""
    rows = connection.execute("SELECT * FROM label_sets")
    return [LabelSetTotals(Labels(*row[:6]), *_last_as_bool(row[6:])) for row in rows]


class Rows:
    """What one transaction reads ahead into its batch, and writes of what the batch has changed."""

    def __init__(self, connection: apsw.Connection, batch: Batch) -> None:
        self.connection = connection
        self.batch = batch
        self._places: set[int] = set()
        """Those of which every row was read."""
        self._taken: set[int] = set()
        """The slots there that hold a row."""
        self._slots: dict[tuple[InstanceName, str], int] = {}
        """Of incarnations, by name and identity."""

    def load(self, names: Iterable[InstanceName], keys: Sequence[str] = (), *, waiting: bool = True) -> None:
        """Read everything under the names, and which of the keys were seen; `waiting`: whether any wait."""
        asked = {_text(name): name for name in self.batch.unread(names)}
        execute = self.connection.execute
        self.batch.load(
            [key for (key,) in execute(_SELECT_SEEN, (_dumps(keys),))] if keys else (),
            self._instances(asked),
            [parked_of(row) for row in execute(_SELECT_PARKED_OF, (_dumps([*asked]),))] if waiting else (),
        )

    def _instances(self, asked: Mapping[str, InstanceName]) -> list[Instance]:
        places = {place_of(name) for name in asked.values()}
        self._places |= places
        found = []
        for row in self.connection.execute(_SELECT_INSTANCES, (_dumps([*places]), SLOTS_OF_PLACE - 1)):
            self._taken.add(row[0])
            name = asked.get(row[1])
            if name is not None:  # others' rows may be at their place
                self._slots[name, row[2]] = row[0]
                found.append(_instance(name, row))
        return found

    def write(self, now: float) -> None:
        """Write what the batch has changed."""
        connection, batch = self.connection, self.batch
        _insert(
            connection,
            "INSERT OR REPLACE INTO seen",
            [(key, now) for key, new in batch.seen.items() if new],
        )
        self._write_instances()
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

    def _write_instances(self) -> None:
        kept = self.batch.kept
        gone = [(self._slots[which],) for which, one in kept.items() if one is None and which in self._slots]
        if gone:
            self.connection.executemany("DELETE FROM instances WHERE slot = ?", gone)
        _insert(
            self.connection,
            "INSERT OR REPLACE INTO instances",
            [_instance_row(self._slot(which), one) for which, one in kept.items() if one is not None],
        )

    def _slot(self, which: tuple[InstanceName, str]) -> int:
        """The incarnation's slot: the one that it has, or the first that is free at its name's place."""
        slot = self._slots.get(which)
        if slot is None:
            place = place_of(which[0])
            if place not in self._places:
                raise ValueError("an instance is to be written whose name was not read")
            slot = next(free for free in range(place, place + SLOTS_OF_PLACE) if free not in self._taken)
            self._taken.add(slot)
            self._slots[which] = slot
        return slot


def _write_totals(connection: apsw.Connection, changed: Totals) -> None:
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
                row.revealed,
            )
            for row in changed.label_sets.values()
        ],
    )
    _insert(
        connection,
        "INSERT OR REPLACE INTO clusters",
        [
            (row.cluster, row.interruptions, row.last_interruption_at, row.touched_at, row.revealed)
            for row in changed.clusters.values()
        ],
    )
    _insert(
        connection,
        "INSERT OR REPLACE INTO lifetimes",
        [
            (row.cluster, row.machine_type, _dumps(row.buckets), row.sum, row.touched_at, row.revealed)
            for row in changed.lifetimes.values()
        ],
    )


def _insert(connection: apsw.Connection, into: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Insert the rows, in their order, with few statements."""
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        some = rows[start : start + _ROWS_A_STATEMENT]
        connection.execute(_statement(into, len(some), len(some[0])), [*chain.from_iterable(some)])


@cache
def _statement(into: str, rows: int, columns: int) -> str:
    row = f"({','.join('?' * columns)})"
    return f"{into} VALUES {','.join([row] * rows)}"


def drop_totals(connection: apsw.Connection, gone: Totals) -> None:
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


def rename_project(rows: Rows, number: str, project: str) -> None:
    """Move what is kept under a project's number to its id."""
    under = (f"{number}/", f"{number}0")  # "0" is the character after "/"
    texts = rows.connection.execute(
        "SELECT name FROM instances WHERE slot BETWEEN ? AND ? AND name >= ? AND name < ?"
        " UNION SELECT name FROM parked WHERE name >= ? AND name < ?",
        (*slots_of(number), *under, *under),
    ).fetchall()
    names = [name_of(str(text)) for (text,) in texts]
    rows.load([*names, *(name._replace(project=project) for name in names)])
    for name in names:
        rows.batch.rename(name, project)
    if names:
        rows.connection.execute(
            "UPDATE ledger SET name = ? || substr(name, ?) WHERE name >= ? AND name < ?",
            (project, len(number) + 1, *under),
        )


def _last_as_bool(row: Sequence[Any]) -> Iterable[Any]:
    return (*row[:-1], bool(row[-1]))


def _dumps(values: Sequence[str] | Sequence[int]) -> str:
    return to_json(values).decode()


def _text(name: InstanceName) -> str:
    return "/".join(name)


def _instance(name: InstanceName, row: tuple[Any, ...]) -> Instance:
    # Its flags stay 0 and 1, which are equal to False and True: six calls less.
    return instance_of((name, row[2], _KINDS[row[3]], node_of(row[4:8]), *row[8:]))


def _instance_row(slot: int, instance: Instance) -> tuple[object, ...]:
    name, identity, kind, node, *rest = instance
    return (slot, _text(name), identity, kind, *node, *rest)


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
        counted.age,
        counted.explained,
        counted.released_by,
    )
