"""The rows that can be read of a file that may be damaged: each has the values that the exporter writes."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from math import isfinite
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import apsw

from app.domain.events import InstanceName
from app.domain.instances import Kind
from app.domain.totals import LIFETIME_BOUNDS
from app.store.sqlite.schema import MIGRATIONS, version_of

DAMAGE: Final = (apsw.CorruptError, apsw.NotADBError)
_UNREADABLE: Final = (*DAMAGE, apsw.SQLError, UnicodeDecodeError)
"""SQLError: the damaged schema does not have the table."""
_READ_AT_START: Final = ("label_sets", "clusters", "lifetimes", "projects", "listings", "clocks")
_TYPES: Final[Mapping[str, type]] = {"TEXT": str, "REAL": float, "INTEGER": int}

Row: TypeAlias = tuple[Any, ...]
Order: TypeAlias = Literal["ASC", "DESC"]


class UnreadableError(Exception):
    """The next row of a table cannot be read."""


class _Column(NamedTuple):
    name: str
    type: type
    is_nullable: bool
    key_position: int
    """Beginning with 1; 0 if the column does not belong to the primary key."""


class Table(NamedTuple):
    """A table of a store."""

    name: str
    columns: Sequence[_Column]

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the columns, in their order."""
        return tuple(column.name for column in self.columns)


def tables_of(connection: apsw.Connection) -> Sequence[Table]:
    """Return the tables of a store, in the order of their creation."""
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY rowid"
    ).fetchall()
    return [Table(str(name), _columns_of(connection, str(name))) for (name,) in names]


def _columns_of(connection: apsw.Connection, table: str) -> Sequence[_Column]:
    query = 'SELECT name, type, NOT "notnull" AND NOT pk, pk FROM pragma_table_info(?)'
    return [
        _Column(str(name), _TYPES[str(type_)], bool(is_nullable), int(str(position)))
        for name, type_, is_nullable, position in connection.execute(query, (table,))
    ]


def rows_of(connection: apsw.Connection, table: Table, order: Order) -> Iterator[Row]:
    """Yield the rows in the order of the primary key. Raises UnreadableError at the first unreadable one.

    SQLite reads garbage as values, or follows a wrong pointer to another table. So the values must be of the
    types and in the order of the table.
    """
    key = sorted((column.key_position, number) for number, column in enumerate(table.columns))
    key_numbers = [number for position, number in key if position]
    by_key = ", ".join(f"{table.columns[number].name} {order}" for number in key_numbers)
    columns = ", ".join(table.column_names)
    before: Row | None = None
    try:
        for row in connection.execute(f"SELECT {columns} FROM {table.name} ORDER BY {by_key}"):  # noqa: S608 - our own names
            if not _does_fit(table, row):
                raise UnreadableError
            at = tuple(row[number] for number in key_numbers)
            if before is not None and (at <= before if order == "ASC" else at >= before):
                raise UnreadableError
            before = at
            yield row
    except _UNREADABLE as exc:
        raise UnreadableError from exc


def is_sound(connection: apsw.Connection, table: Table) -> bool:
    """Return True if SQLite finds no damage in the table and its indexes.

    https://www.sqlite.org/pragma.html#pragma_quick_check
    """
    try:
        return bool(connection.execute(f"PRAGMA quick_check('{table.name}')").get == "ok")
    except _UNREADABLE:
        return False


def find_unreadable(connection: apsw.Connection) -> str | None:
    """Return damage that SQLite does not report, in a table that each start reads; None if there is none."""
    for table in _expected_tables(version_of(connection)):
        if table.name in _READ_AT_START:
            try:
                for _ in rows_of(connection, table, "ASC"):
                    pass
            except UnreadableError:
                return f"a row of the table {table.name} cannot be read"
    return None


def _expected_tables(version: int) -> Sequence[Table]:
    # Not from the file, because its schema may be damaged too.
    with closing(apsw.Connection(":memory:")) as model:
        for script in MIGRATIONS[:version]:
            model.execute(script)
        return tables_of(model)


def _does_fit(table: Table, row: Row) -> bool:
    """Return True if the row has values that the exporter writes."""
    for value, column in zip(row, table.columns, strict=True):
        if value is None:
            if not column.is_nullable:
                return False
        elif type(value) is not column.type or (isinstance(value, float) and not isfinite(value)):
            return False
    check = _CHECKS.get(table.name)
    return check is None or check(dict(zip(table.column_names, row, strict=True)))


def _is_instance(row: Mapping[str, Any]) -> bool:
    return _has_name(row) and 0 <= row["kind"] < len(Kind)


def _has_name(row: Mapping[str, Any]) -> bool:
    return str(row["name"]).count("/") >= len(InstanceName._fields) - 1


def _is_histogram(row: Mapping[str, Any]) -> bool:
    try:
        buckets = json.loads(row["buckets"])
    except ValueError:
        return False
    numbers = len(LIFETIME_BOUNDS) + 1
    return (
        isinstance(buckets, list)
        and len(buckets) == numbers
        and all(type(number) is int for number in buckets)
    )


_CHECKS: Final[Mapping[str, Callable[[Mapping[str, Any]], bool]]] = {
    "instances": _is_instance,
    "archived_instances": _is_instance,
    "pending": _has_name,
    "ledger": _has_name,
    "lifetimes": _is_histogram,
}
