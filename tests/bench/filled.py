"""A store in which much has happened, made in seconds.

The store itself lives a few lives; their rows are copied, and read by the store as its own.
"""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from app.domain.attribution import Rules
from app.domain.events import Event, Ignored, InstanceCreated, Listed
from app.domain.history import Query
from app.domain.outcomes import Duplicate
from app.gcp.auditlog import decode_entry
from app.gcp.pubsub import PushMessage
from app.store import OpenedStore, open_store
from app.store.sqlite_places import name_of, place_of
from tests.bench.deliveries import POOLS, Delivery, entry_of
from tests.bench.report import progress

_DAY: Final = 86400.0
_SPREAD_SECONDS: Final = 30 * _DAY
"""The lives lie so far apart: within the usual retention."""
_LIFE_SECONDS: Final = 7200.0
_COPIED_FROM: Final = 700_000_000_000
"""The first of the instances whose rows are copied; its digits occur nowhere else."""
_AT_ONCE: Final = 20_000
_TABLES: Final = ("seen", "instances", "ledger")
_SUMMED_IN_TIME: Final = 100_000
"""So many ledger rows even a slow machine sums up within the time that reading may take."""
_DURATIONS: Final = ("age_seconds",)
"""Columns that hold no moment, though they are REAL."""


def fill(path: Path, instances: int) -> None:
    """Have the new file know so many living instances, numbered from 0, each of which was interrupted once.

    So there are as many rows in the ledger, and twice as many keys. The number is a multiple of POOLS.
    """
    if instances % POOLS:
        raise ValueError(f"{instances} instances cannot be copied from {POOLS}")
    now = time.time()
    _live(path, now)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.create_function("place_of", 1, lambda text: place_of(name_of(text)))
        with progress(f"preparing {instances:,} instances", instances) as done:
            for copied in _copy(connection, instances):
                done(copied)
        _multiply_totals(connection, instances // POOLS)
        connection.execute("PRAGMA journal_mode = WAL")
    _verify(path, instances, now)


@contextmanager
def _opened(path: Path) -> Iterator[OpenedStore]:
    opened = open_store(f"sqlite:///{path}", Rules())
    try:
        yield opened
    finally:
        opened.store.close()


def _live(path: Path, now: float) -> None:
    """A life in each pool: created, interrupted, and found running again by a listing."""
    numbers = range(_COPIED_FROM, _COPIED_FROM + POOLS)
    began, interrupted_at = now - 2 * _LIFE_SECONDS, now - _LIFE_SECONDS
    created = [_event(Delivery("creation", number, number, began)) for number in numbers]
    interrupted = [_event(Delivery("interruption", number, number, interrupted_at)) for number in numbers]
    project = created[0].name.project
    with _opened(path) as opened:
        store = opened.store
        store.apply([*created, *interrupted], interrupted_at)
        store.begin_listing(project, now)
        store.take_in(project, now, [_running(event, now) for event in created], now)
        store.end_listing(project, now, (), now)


def _event(delivery: Delivery) -> Event:
    event = decode_entry(entry_of(delivery), PushMessage(b""), delivery.at)
    assert not isinstance(event, Ignored)
    return event


def _running(event: Event, now: float) -> Listed:
    assert isinstance(event, InstanceCreated)
    return Listed(
        event.name, event.id, event.node, spot=True, alive=True, created_at=event.at, started_at=now - 60
    )


def _copy(connection: sqlite3.Connection, instances: int) -> Iterator[int]:
    """Copy the rows in place of which many shall be; yields how many instances there are."""
    statements = [_copying(connection, table) for table in _TABLES]
    connection.execute("BEGIN")
    for first in range(0, instances, _AT_ONCE):
        last = min(first + _AT_ONCE, instances) - 1
        for statement in statements:
            connection.execute(statement, {"first": first, "last": last, "instances": instances})
        yield last + 1
    for table in _TABLES:
        connection.execute(f"DELETE FROM {table} WHERE {_is_original(table)}")  # noqa: S608 - our own names
    connection.execute("COMMIT")


def _copying(connection: sqlite3.Connection, table: str) -> str:
    """What copies a table's original rows: texts with another number, moments earlier."""
    mould = f"temp.mould_{table}"
    marked = "key" if table != "instances" else "identity"
    digits = f"substr({marked}, instr({marked}, '{_COPIED_FROM // 100}'), 12)"
    connection.execute(
        f"CREATE TABLE {mould} AS SELECT *, {digits} AS mark, {digits} % {POOLS} AS pool"  # noqa: S608 - likewise
        f" FROM {table} WHERE {_is_original(table)}"
    )
    columns = [
        (name, kind)
        for _, name, kind, *_ in connection.execute(f"PRAGMA table_info({table})")
        if name != "serial"
    ]
    values = ", ".join(_copied(name, kind) for name, kind in columns)
    names = ", ".join(name for name, _ in columns)
    return (
        "WITH RECURSIVE numbers (n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)"  # noqa: S608 - likewise
        f" INSERT INTO {table} ({names}) SELECT {values} FROM numbers JOIN {mould} ON pool = n % {POOLS}"
        " ORDER BY n"
    )


def _copied(column: str, kind: str) -> str:
    if column == "slot":
        return f"place_of({_copied('name', 'TEXT')})"
    if kind == "TEXT":
        return f"replace({column}, mark, printf('%012d', n))"
    if kind == "REAL" and column not in _DURATIONS:
        return f"{column} - {_SPREAD_SECONDS} * (:instances - 1 - n) / :instances"
    return column


def _is_original(table: str) -> str:
    marked = "identity" if table == "instances" else "key"
    return f"instr({marked}, '{_COPIED_FROM // 100}')"


def _multiply_totals(connection: sqlite3.Connection, times: int) -> None:
    """Have the totals be those of so many lives where there was one."""
    summed = {
        "label_sets": ("interruptions", "created", "failed", "instances"),
        "clusters": ("interruptions",),
        "lifetimes": ("sum_seconds",),
    }
    for table, columns in summed.items():
        changes = ", ".join(f"{column} = {column} * {times}" for column in columns)
        connection.execute(f"UPDATE {table} SET {changes}")  # noqa: S608 - likewise
    for cluster, machine_type, buckets in connection.execute(
        "SELECT cluster, machine_type, buckets FROM lifetimes"
    ).fetchall():
        connection.execute(
            "UPDATE lifetimes SET buckets = ? WHERE (cluster, machine_type) = (?, ?)",
            (json.dumps([count * times for count in json.loads(buckets)]), cluster, machine_type),
        )


def _verify(path: Path, instances: int, now: float) -> None:
    """Raises AssertionError unless the store reads it all as its own."""
    with _opened(path) as opened:
        totals = opened.store.remembered().totals
        assert sum(row.instances for row in totals.label_sets.values()) == instances
        assert sum(row.interruptions for row in totals.clusters.values()) == instances
        if 10 * POOLS <= instances <= _SUMMED_IN_TIME:
            assert len(opened.history.pools(now, POOLS)) == POOLS
        newest, *_ = opened.history.interruptions(Query(limit=1))
        again = [
            _event(Delivery(kind, number, number, now))
            for number in (0, instances // 2, instances - 1)
            for kind in ("creation", "interruption")
        ]
        assert newest.counted.id == again[-1].id
        outcomes = opened.store.apply(again, now).outcomes
        assert all(isinstance(outcome, Duplicate) for outcome in outcomes), outcomes
