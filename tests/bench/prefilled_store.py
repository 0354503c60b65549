"""Stores that already hold many instances, made in seconds.

`fill` applies the events of a few instances through the store itself and copies the rows with SQL. At the
end it checks that the store reads the copies like rows of its own.
"""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from app.domain.changes import Rules
from app.domain.events import Event, Ignored, InstanceCreated, InstanceName, Listed, Node
from app.domain.ledger import Query
from app.domain.outcomes import Duplicate
from app.gcp.auditlog import decode_entry
from app.gcp.pubsub import PushMessage
from app.store.opening import open_store
from app.store.port import OpenedStore
from tests.bench.deliveries import POOLS, Delivery, entry_of
from tests.bench.report import progress
from tests.bench.wrk import PROJECT, ZONE, instance_name

NODE: Final = Node("shop", "europe-west1", "spot-pool", "n2-standard-8")
"""The node of every instance of `create_instances`."""

_DAY: Final = 86400.0
_SPREAD_SECONDS: Final = 30 * _DAY
"""The events are spread over this time, which is within the default retention."""
_AGE_SECONDS: Final = 7200.0
_FIRST_TEMPLATE: Final = 700_000_000_000
"""The number of the first template instance. Its digits occur nowhere else in the rows."""
_ROWS_PER_STATEMENT: Final = 20_000
_TABLES: Final = ("event_keys", "instances", "ledger")
_MAX_SUMMED_ROWS: Final = 100_000
"""The store sums a ledger of this size within its read timeout, also on a slow machine."""
_DURATION_COLUMNS: Final = ("age_seconds",)
"""Columns of type REAL that do not hold a time."""


def create_instances(url: str, instances: int) -> None:
    """Have the store at the URL know this many living instances, with the names of `tests.bench.wrk`."""
    store = open_store(url, Rules()).store
    now = time.time()
    for start in range(0, instances, 500):
        numbers = range(start, min(start + 500, instances))
        store.apply([_created(number, now) for number in numbers], now)
    store.close()


def _created(number: int, now: float) -> InstanceCreated:
    name = InstanceName(PROJECT, ZONE, instance_name(number))
    return InstanceCreated(f"created {number}", now, name, f"{number:06d}", f"op-{number}", NODE, spot=True)


def fill(path: Path, instances: int) -> None:
    """Make a store file with this many living instances, numbered from 0, each interrupted once.

    The ledger has as many rows, the table of event keys twice as many. Raises ValueError if `instances`
    is not a multiple of POOLS.
    """
    if instances % POOLS:
        raise ValueError(f"the number of instances must be a multiple of {POOLS}, not {instances}")
    now = time.time()
    _apply_templates(path, now)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        with progress(f"preparing {instances:,} instances", instances) as update:
            for copied in _copy(connection, instances):
                update(copied)
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


def _apply_templates(path: Path, now: float) -> None:
    """Create and interrupt one instance per pool, then list it as running again."""
    numbers = range(_FIRST_TEMPLATE, _FIRST_TEMPLATE + POOLS)
    created_at, interrupted_at = now - 2 * _AGE_SECONDS, now - _AGE_SECONDS
    created = [_event(Delivery("creation", number, number, created_at)) for number in numbers]
    interrupted = [_event(Delivery("interruption", number, number, interrupted_at)) for number in numbers]
    project = created[0].name.project
    with _opened(path) as opened:
        store = opened.store
        store.apply([*created, *interrupted], interrupted_at)
        store.begin_listing(project, now)
        store.record_listed(project, now, [_running(event, now) for event in created], now)
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
    """Replace the template rows by copies for all instances. Yield how many instances are done."""
    statements = [_copy_statement(connection, table) for table in _TABLES]
    connection.execute("BEGIN")
    for first in range(0, instances, _ROWS_PER_STATEMENT):
        last = min(first + _ROWS_PER_STATEMENT, instances) - 1
        for statement in statements:
            connection.execute(statement, {"first": first, "last": last, "instances": instances})
        yield last + 1
    for table in _TABLES:
        connection.execute(f"DELETE FROM {table} WHERE {_is_template(table)}")  # noqa: S608 - our own names
    connection.execute("COMMIT")


def _copy_statement(connection: sqlite3.Connection, table: str) -> str:
    """Set a table's template rows aside; return the statement that copies them with new numbers and times."""
    templates = f"temp.templates_of_{table}"
    number_column = "key" if table != "instances" else "identity"
    digits = f"substr({number_column}, instr({number_column}, '{_FIRST_TEMPLATE // 100}'), 12)"
    connection.execute(
        f"CREATE TABLE {templates} AS SELECT *, {digits} AS template_number, {digits} % {POOLS} AS pool"  # noqa: S608 - our own names
        f" FROM {table} WHERE {_is_template(table)}"
    )
    columns = [
        (name, kind)
        for _, name, kind, *_ in connection.execute(f"PRAGMA table_info({table})")
        if name != "number"
    ]
    values = ", ".join(_copied_value(name, kind) for name, kind in columns)
    names = ", ".join(name for name, _ in columns)
    return (
        "WITH RECURSIVE numbers (n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)"  # noqa: S608 - our own names
        f" INSERT INTO {table} ({names}) SELECT {values} FROM numbers JOIN {templates} ON pool = n % {POOLS}"
        " ORDER BY n"
    )


def _copied_value(column: str, kind: str) -> str:
    if kind == "TEXT":
        return f"replace({column}, template_number, printf('%012d', n))"
    if kind == "REAL" and column not in _DURATION_COLUMNS:
        return f"{column} - {_SPREAD_SECONDS} * (:instances - 1 - n) / :instances"
    return column


def _is_template(table: str) -> str:
    number_column = "identity" if table == "instances" else "key"
    return f"instr({number_column}, '{_FIRST_TEMPLATE // 100}')"


def _multiply_totals(connection: sqlite3.Connection, times: int) -> None:
    """Multiply the totals, to match the copied rows."""
    totals_by_table = {
        "label_sets": ("interruptions", "created", "failed", "instances"),
        "clusters": ("interruptions",),
        "lifetimes": ("sum_seconds",),
    }
    for table, columns in totals_by_table.items():
        changes = ", ".join(f"{column} = {column} * {times}" for column in columns)
        connection.execute(f"UPDATE {table} SET {changes}")  # noqa: S608 - our own names
    for cluster, machine_type, buckets in connection.execute(
        "SELECT cluster, machine_type, buckets FROM lifetimes"
    ).fetchall():
        connection.execute(
            "UPDATE lifetimes SET buckets = ? WHERE (cluster, machine_type) = (?, ?)",
            (json.dumps([count * times for count in json.loads(buckets)]), cluster, machine_type),
        )


def _verify(path: Path, instances: int, now: float) -> None:
    """Raise AssertionError unless the store accepts the copies as rows of its own."""
    with _opened(path) as opened:
        totals = opened.store.state().totals
        assert sum(row.instances for row in totals.label_sets.values()) == instances
        assert sum(row.interruptions for row in totals.clusters.values()) == instances
        if 10 * POOLS <= instances <= _MAX_SUMMED_ROWS:
            assert len(opened.ledger.pools(now, POOLS)) == POOLS
        newest, *_ = opened.ledger.interruptions(Query(limit=1))
        redelivered = [
            _event(Delivery(kind, number, number, now))
            for number in (0, instances // 2, instances - 1)
            for kind in ("creation", "interruption")
        ]
        assert newest.counted.id == redelivered[-1].id
        outcomes = opened.store.apply(redelivered, now).outcomes
        assert all(isinstance(outcome, Duplicate) for outcome in outcomes), outcomes
