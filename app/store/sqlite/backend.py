"""The embedded store: one SQLite file, one writer, one transaction a batch."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final

import apsw

from app.domain.attribution import Rules
from app.domain.batch import Applied, Batch, in_project_ids, keys_of, names_of
from app.domain.events import Event, Listed
from app.domain.fleet import ends_what_it_misses
from app.domain.instances import UNKNOWN_LABELS
from app.domain.totals import LifetimeTotals, Tally, Totals
from app.errors import StoreGoneError
from app.store import SLICE, Prepared, Remembered
from app.store.sqlite.file import SQLiteFile, translated
from app.store.sqlite.listing import Listings
from app.store.sqlite.pruning import Pruning, forget_ledger_rows, is_due
from app.store.sqlite.rows import (
    SELECT_PARKED,
    Memory,
    Rows,
    drop_totals,
    parked_of,
    read_memory,
    rename_project,
)

_LONGEST_GAP_SECONDS: Final = 3600.0


class SQLiteStore:
    """See `app.store.Store`."""

    def __init__(self, file: SQLiteFile, rules: Rules, *, hold: bool = False) -> None:
        self._file = file
        self._rules = rules
        self._hold = hold
        self._connection: apsw.Connection | None = None
        self._memory = Memory()
        self._listings = Listings()
        self._swept_at: dict[str, float] = {}
        self._pruning = Pruning()

    def remembered(self) -> Remembered:
        with self._transaction():
            totals = Totals()
            totals.update(self._memory.totals)
            return Remembered(totals, self._memory.pending, dict(self._memory.listed))

    def refresh(self, now: float) -> Applied:  # noqa: ARG002 - nobody else writes
        return Applied(pending=self._memory.pending)

    def prepare(self, events: Sequence[Event], now: float) -> Prepared:
        connection = self._connection
        if connection is None:
            return Prepared(partial(self.apply, events, now))
        with self._undone_on_error():
            connection.execute("BEGIN IMMEDIATE")
            rows = self._rows(connection, now)
            batch = rows.batch
            projects = self._learn_projects(rows, events)
            events = [in_project_ids(event, projects) for event in events]
            waiting = self._memory.pending > 0
            rows.load(names_of(events), keys_of(events), waiting=waiting)
            outcomes = [batch.decide(event) for event in events]
            rows.write(now)
        applied = batch.applied(outcomes, self._memory.pending)
        return Prepared(partial(self._commit, applied, projects), outcomes, rows)

    def apply(self, events: Sequence[Event], now: float) -> Applied:
        with self._undone_on_error():
            self._connected()
        return self.prepare(events, now).commit()

    def expire(self, now: float) -> Applied:
        with self._transaction() as connection:
            rows = self._rows(connection, now)
            batch = rows.batch
            due = [
                parked_of(row)
                for row in connection.execute(
                    f"{SELECT_PARKED} WHERE until <= ? ORDER BY until LIMIT ?", (now, SLICE)
                )
            ]
            rows.load(names_of(parked.event for parked in due))
            outcomes = [batch.expire(parked) for parked in due]
            rows.write(now)
        applied = self._committed(batch.applied(outcomes, self._memory.pending))
        applied.more = len(due) == SLICE
        return applied

    def account(self, now: float) -> Applied:
        with self._transaction() as connection:
            rows = self._rows(connection, now)
            batch = rows.batch
            since = self._memory.accounted_at
            elapsed = 0.0 if since is None else min(max(now - since, 0.0), _LONGEST_GAP_SECONDS)
            for row in self._memory.totals.label_sets.values() if elapsed else ():
                if row.instances:
                    batch.tally.label_set(row.labels).instance_seconds += row.instances * elapsed
            connection.execute("DELETE FROM clock")
            connection.execute("INSERT INTO clock (accounted_at) VALUES (?)", (now,))
            rows.write(now)
        self._memory.accounted_at = now
        return self._committed(batch.applied((), self._memory.pending))

    def begin_listing(self, project: str, now: float) -> Applied:
        with self._transaction() as connection:
            self._listings.begin(connection, project)
        return self._committed(self._batch(now).applied((), self._memory.pending))

    def take_in(self, project: str, began: float, listed: Sequence[Listed], now: float) -> Applied:
        with self._transaction() as connection:
            rows = self._rows(connection, now)
            batch = rows.batch
            self._listings.name(connection, project, [instance.id for instance in listed])
            rows.load({instance.name: None for instance in listed})
            for instance in listed:
                batch.hear(instance, began)
            rows.write(now)
        return self._committed(batch.applied((), self._memory.pending))

    def end_listing(self, project: str, began: float, unread_zones: Collection[str], now: float) -> Applied:
        with self._transaction() as connection:
            rows = self._rows(connection, now)
            batch = rows.batch
            sweeps = ends_what_it_misses(began, self._swept_at.get(project))
            unnamed, swept = self._listings.sweep(connection, project, unread_zones) if sweeps else ([], True)
            rows.load({name: None for name, _ in unnamed})
            for name, identity in unnamed:
                batch.miss(name, identity, began)
            rows.write(now)
            if swept:
                self._listings.end(connection, project)
                connection.execute("INSERT OR REPLACE INTO listings VALUES (?, ?)", (project, began))
        if swept:
            self._memory.listed[project] = began
        if swept and sweeps:
            self._swept_at[project] = began
        applied = self._committed(batch.applied((), self._memory.pending))
        applied.more = not swept
        return applied

    def reveal(self, rows: Totals, now: float) -> Applied:
        with self._transaction() as connection:
            stored = self._rows(connection, now)
            batch = stored.batch
            known = self._memory.totals
            for labels in rows.label_sets.keys() & known.label_sets.keys():
                batch.tally.label_set(labels).revealed = True
            for cluster in rows.clusters.keys() & known.clusters.keys():
                batch.tally.cluster(cluster).revealed = True
            for cluster, machine_type in rows.lifetimes.keys() & known.lifetimes.keys():
                batch.tally.lifetime(cluster, machine_type).revealed = True
            stored.write(now)
        return self._committed(batch.applied((), self._memory.pending))

    def prune(self, now: float) -> Applied:
        before = now - self._rules.retention_seconds
        with self._transaction() as connection:
            rows = self._rows(connection, now)
            batch = rows.batch
            more = forget_ledger_rows(connection, before)
            due = is_due(before, self._memory.forgotten_before)
            passed = not due or self._pruning.forget(rows, before)
            rows.write(now)
            if due and passed:
                connection.execute("DELETE FROM pruned")
                connection.execute("INSERT INTO pruned VALUES (?)", (before,))
            gone = self._memory.totals.idle(before) if passed else Totals()
            drop_totals(connection, gone)
        applied = self._committed(batch.applied((), self._memory.pending))
        if due and passed:
            self._memory.forgotten_before = before
        self._memory.totals.drop(gone)
        applied.dropped = gone
        applied.more = more or not passed
        return applied

    def reset_totals(self) -> None:
        """Have every counter begin at 0, and keep everything else."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE label_sets SET interruptions = 0, created = 0, failed = 0, instance_seconds = 0"
            )
            connection.execute("UPDATE clusters SET interruptions = 0")
            connection.execute(
                "UPDATE lifetimes SET buckets = ?, sum_seconds = 0",
                (json.dumps(LifetimeTotals("", "").buckets),),
            )
            self._recall(connection)

    def close(self) -> None:
        self._disconnect()
        self._file.release()

    @contextmanager
    def _transaction(self) -> Iterator[apsw.Connection]:
        """A transaction that is committed at the end, or has not happened."""
        with self._undone_on_error():
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            self._finish(connection)

    def _commit(self, applied: Applied, projects: dict[str, str]) -> Applied:
        with self._undone_on_error():
            self._finish(self._connected())
        self._memory.projects = projects
        return self._committed(applied)

    def _finish(self, connection: apsw.Connection) -> None:
        connection.execute("COMMIT")
        # After it: what is then in the files that the paths name is found by the next start.
        self._file.require_present()

    @contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        """Where something is raised within, the transaction has not happened; raises as `Store` says."""
        try:
            yield
        except BaseException as exc:
            self._roll_back(exc)
            if isinstance(exc, apsw.Error | OSError):
                raise translated(exc) from exc
            raise

    def _roll_back(self, exc: BaseException) -> None:
        if self._connection is not None and self._connection.in_transaction:
            with suppress(apsw.Error):
                self._connection.execute("ROLLBACK")
        if isinstance(exc, StoreGoneError) and self._connection is not None:
            # The file may have another name now, and another file its name: all goes into the first, and the
            # WAL is left empty, because SQLite would read it into the second.
            with suppress(apsw.Error):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if isinstance(exc, apsw.Error | OSError | StoreGoneError):
            # Only the file shows if a COMMIT that failed is on disk: it is read again.
            self._disconnect()

    def _connected(self) -> apsw.Connection:
        if self._connection is None:
            self._connection = self._file.connect()
            self._recall(self._connection)
        return self._connection

    def _recall(self, connection: apsw.Connection) -> None:
        self._memory = read_memory(connection)
        unknown = self._batch(0.0).tally
        unknown.show(UNKNOWN_LABELS)
        self._memory.totals.update(unknown.changed)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._listings.lose()
        if connection is not None:
            connection.close(True)  # noqa: FBT003 - whatever it has met: that is known already

    def _rows(self, connection: apsw.Connection, now: float) -> Rows:
        """What a transaction at that time reads and writes."""
        return Rows(connection, self._batch(now))

    def _batch(self, now: float) -> Batch:
        tally = Tally(
            self._memory.totals,
            max_label_sets=self._rules.max_label_sets,
            revealed=not self._hold,
            now=now,
        )
        return Batch(tally, self._rules, now)

    def _committed(self, applied: Applied) -> Applied:
        self._memory.totals.update(applied.changed)
        self._memory.pending = applied.pending
        return applied

    def _learn_projects(self, rows: Rows, events: Iterable[Event]) -> dict[str, str]:
        """All known pairs of project number and id; rows kept under a number so far move to its id."""
        projects = self._memory.projects
        for event in events:
            number, project = event.project_number, event.name.project
            if number and projects.get(number) != project:
                projects = {**projects, number: project}
                rows.connection.execute("INSERT OR REPLACE INTO projects VALUES (?, ?)", (number, project))
                rename_project(rows, number, project)
        return projects
