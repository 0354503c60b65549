"""The salvage of a damaged store: what can be read of it is copied into a new one, table by table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import apsw

from app.domain.instances import OTHER_LABELS, Kind, Labels
from app.domain.quantities import quantity
from app.domain.times import rfc3339
from app.domain.totals import TotalsDelta
from app.store.sqlite.readable import Order, Table, UnreadableError, is_sound, rows_of, tables_of
from app.store.sqlite.rows import INSTANCE_COLUMNS, select_spot_instances, select_totals
from app.store.sqlite.schema import read_clock
from app.store.sqlite.writes import insert_totals, reset_totals

_TOTALS: Final = ("label_sets", "clusters", "lifetimes")
_NEVER: Final = 1e12
"""A time so late that no grace period ends then."""


@dataclass(frozen=True, slots=True)
class Salvaged:
    """The result of a salvage, for the log."""

    kept: Sequence[str]
    """The tables that are complete."""
    lost: Sequence[str]
    """A sentence for each of the others."""
    countable_again: str | None
    """The events whose keys are lost, so that they count again if they are delivered again."""


def salvage(
    source: apsw.Connection, target: apsw.Connection, *, last_commit_at: float | None, now: float
) -> Salvaged:
    """Copy into an empty store what can be read of a damaged one.

    `last_commit_at`: the time of the last commit if the newest commits are lost, else None. If they are lost,
    every counter begins at 0, because one that comes back a little lower makes `increase()` add its whole
    value.
    """
    target.execute("BEGIN")
    whole = {table.name: _copy(source, target, table) for table in tables_of(target)}
    kept = [table for table, is_whole in whole.items() if is_whole]
    lost = [_loss(target, table) for table, is_whole in whole.items() if not is_whole]
    countable_again = _countable_again(target, whole, last_commit_at, now)
    if last_commit_at is not None:
        kept = [table for table in kept if table not in _TOTALS]
        lost.append("the newest commits, so that all counters begin at 0")
        _reset_stale(target, last_commit_at)
    if countable_again is not None:
        _complete_keys(target, now)
    _correct_dependent(target, whole)
    _rebuild_series(target, now)
    target.execute("COMMIT")
    return Salvaged(kept, lost, countable_again)


def _copy(source: apsw.Connection, target: apsw.Connection, table: Table) -> bool:
    """Copy the rows of a table that can be read, from both of its ends. Return True if those are all.

    Of totals, copy all or none, because the rest of a damaged page may be wrong.
    """
    if _copy_from_one_end(source, target, table, "ASC") and is_sound(source, table):
        return True
    if table.name in _TOTALS:
        target.execute(f"DELETE FROM {table.name}")  # noqa: S608 - our own name
    else:
        _copy_from_one_end(source, target, table, "DESC")
    return False


def _copy_from_one_end(source: apsw.Connection, target: apsw.Connection, table: Table, order: Order) -> bool:
    columns = table.column_names
    statement = (
        f"INSERT OR IGNORE INTO {table.name} ({', '.join(columns)})"  # noqa: S608 - our own names
        f" VALUES ({', '.join('?' * len(columns))})"
    )
    with suppress(UnreadableError):
        target.executemany(statement, rows_of(source, table, order))
        return True
    return False


def _loss(target: apsw.Connection, table: str) -> str:
    if table in _TOTALS:
        return f"{table}: its counters begin at 0"
    rows = target.execute(f"SELECT count(*) FROM {table}").get  # noqa: S608 - our own name
    return f"{table}: damaged, {quantity(rows, 'row')} could be read"


def _countable_again(
    target: apsw.Connection, whole: Mapping[str, bool], last_commit_at: float | None, now: float
) -> str | None:
    """Return the time in which events were recorded whose keys are lost, in words; None if no key is."""
    if not whole["event_keys"]:
        since, until = read_clock(target, "pruned_before"), now
    elif last_commit_at is not None:
        newest = target.execute("SELECT max(recorded_at) FROM event_keys").get
        since, until = newest, last_commit_at
    else:
        return None
    beginning = "the first start" if since is None else rfc3339(min(since, until))
    return f"those that were recorded from {beginning} to {rfc3339(until)}"


def _reset_stale(target: apsw.Connection, last_commit_at: float) -> None:
    reset_totals(target)
    # The instance-seconds until then were exported.
    target.execute(
        "UPDATE clocks SET seconds = max(seconds, ?) WHERE name = 'accrued_until'", (last_commit_at,)
    )


def _complete_keys(target: apsw.Connection, now: float) -> None:
    """Add the keys that other tables have, and forget since when the keys are complete."""
    target.execute(
        "INSERT OR IGNORE INTO event_keys (key, recorded_at)"
        " SELECT key, recorded_at FROM ledger WHERE counted_as <> '' UNION ALL SELECT key, ? FROM pending",
        (now,),
    )
    target.execute("DELETE FROM clocks WHERE name = 'keys_complete_since'")


def _correct_dependent(target: apsw.Connection, whole: Mapping[str, bool]) -> None:
    """Correct what is true only together with a table that is not complete."""
    if not whole["instances"]:
        # No listing has described the instances that are left. The fleet is known after the next one.
        target.execute("DELETE FROM listings")
        _bring_back_archived(target)
    if not whole["clocks"]:
        # The ends of grace periods are times of a clock that is lost. So each period begins again.
        target.execute("UPDATE pending SET until = ?", (_NEVER,))


def _bring_back_archived(target: apsw.Connection) -> None:
    """Bring back the newest described incarnation of each name whose newer ones are all lost.

    An interruption of an unknown incarnation takes its labels. An archived one is found by its id only.
    """
    columns = ", ".join(INSTANCE_COLUMNS)
    target.execute(
        f"INSERT OR REPLACE INTO instances ({columns}) SELECT {columns} FROM"  # noqa: S608 - our own names
        " (SELECT *, row_number() OVER (PARTITION BY name ORDER BY created_at DESC, identity) AS place"
        " FROM archived_instances WHERE kind <> ?"
        " AND name NOT IN (SELECT name FROM instances WHERE kind <> ?)) WHERE place = 1",
        (Kind.UNDESCRIBED, Kind.UNDESCRIBED),
    )
    target.execute(
        "DELETE FROM archived_instances WHERE (name, identity) IN (SELECT name, identity FROM instances)"
    )


def _rebuild_series(target: apsw.Connection, now: float) -> None:
    """Set the gauges to the instances that are left, and add the series that are missing, at 0."""
    totals = select_totals(target)
    changes = TotalsDelta(totals, max_label_sets=0, released=True, now=now)
    for labels in totals.label_sets:
        changes.ensure_series(labels)
    living = Counter[Labels]()
    for instance in select_spot_instances(target):
        labels = OTHER_LABELS if instance.overflowed else instance.labels
        changes.ensure_series(labels)
        living[labels] += instance.live_spot
    totals.update(changes.changed)
    for labels, row in totals.label_sets.items():
        row.instances = living[labels]
    insert_totals(target, totals)
