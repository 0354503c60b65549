"""The embedded backend: one SQLite file, one writer, one transaction per batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import apsw

from app.domain.batch import Applied
from app.domain.totals import Totals
from app.errors import StoreGoneError
from app.store.memory import Memory
from app.store.port import Transaction
from app.store.sqlite.file import SQLiteFile, translate_error
from app.store.sqlite.pruning import Pruning, prune_deletions, prune_ledger
from app.store.sqlite.rows import has_past, select_totals
from app.store.sqlite.schema import read_clock
from app.store.sqlite.transaction import SQLiteTransaction
from app.store.sqlite.writes import delete_totals, reset_totals

T = TypeVar("T")


class SQLiteBackend:
    """See `app.store.port.Backend`."""

    def __init__(self, file: SQLiteFile, memory: Memory) -> None:
        self.memory = memory
        self._file = file
        self._connection: apsw.Connection | None = None
        self._sweeps: dict[str, float] = {}
        self._has_past = True
        """False if the ledger has no interruption that is not counted."""
        self._pruning = Pruning()

    def connect(self) -> None:
        with self._rolling_back():
            self._connected()

    def transact(
        self,
        work: Callable[[Transaction], T],
        now: float,
        *,
        leading: bool = False,  # noqa: ARG002 - the only process always leads
    ) -> T:
        with self._rolling_back():
            transaction = self._begin(now)
            result = work(transaction)
            transaction.write()
            self._commit(transaction)
        return result

    def prune(self, before: float, now: float) -> Applied:
        with self._rolling_back():
            transaction = self._begin(now)
            connection = transaction.connection
            more = prune_ledger(connection, before)
            passed = self._pruning.prune(transaction, before)
            if passed:
                more |= prune_deletions(transaction, self.memory.rules.max_unknown_deletions)
            transaction.write()
            idle = self.memory.totals.idle(before) if passed else Totals()
            delete_totals(connection, idle)
            applied = transaction.batch.applied()
            applied.removed = idle
            applied.more = more or not passed
            self._commit(transaction)
        return applied

    def reset_totals(self) -> None:
        """Set every counter to 0, and keep everything else."""
        with self._rolling_back():
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            reset_totals(connection)
            connection.execute("DELETE FROM clocks WHERE name = 'keys_complete_since'")
            connection.execute("COMMIT")
            self._file.require_present()
            self._load_memory(connection)

    def close(self) -> None:
        self._disconnect()
        self._file.release()

    def _begin(self, now: float) -> SQLiteTransaction:
        connection = self._connected()
        connection.execute("BEGIN IMMEDIATE")
        return SQLiteTransaction(connection, self.memory, self._sweeps, now, has_past=self._has_past)

    def _commit(self, transaction: SQLiteTransaction) -> None:
        transaction.connection.execute("COMMIT")
        # Afterwards, because the next start finds what is then in the files that have the store's paths.
        self._file.require_present()
        self._sweeps.update(transaction.swept)
        self._has_past = self._has_past or bool(transaction.batch.past)

    @contextmanager
    def _rolling_back(self) -> Iterator[None]:
        """Roll the transaction back if the block raises. Raise what `Store` documents."""
        try:
            yield
        except BaseException as exc:
            self._roll_back(exc)
            if isinstance(exc, apsw.Error | OSError):
                raise translate_error(exc) from exc
            raise

    def _roll_back(self, exc: BaseException) -> None:
        if self._connection is not None and self._connection.in_transaction:
            with suppress(apsw.Error):
                self._connection.execute("ROLLBACK")
        if isinstance(exc, StoreGoneError) and self._connection is not None:
            # The file may have another name now, and another file may have its name. So everything goes into
            # the first file, and the WAL becomes empty, because SQLite would apply it to the second file.
            with suppress(apsw.Error):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if isinstance(exc, apsw.Error | OSError | StoreGoneError):
            # Only the file shows whether a COMMIT that failed is on disk, so it is read again.
            self._disconnect()

    def _connected(self) -> apsw.Connection:
        if self._connection is None:
            self._connection = self._file.connect()
            self._load_memory(self._connection)
        return self._connection

    def _load_memory(self, connection: apsw.Connection) -> None:
        self._has_past = has_past(connection)
        memory = self.memory
        memory.pending = connection.execute("SELECT count(*) FROM pending").get
        memory.projects = dict(connection.execute("SELECT number, id FROM projects"))
        memory.listed = dict(connection.execute("SELECT project, began FROM listings"))
        memory.whole = dict(
            connection.execute("SELECT project, whole_at FROM listings WHERE whole_at IS NOT NULL")
        )
        memory.downtime = read_clock(connection, "downtime") or 0.0
        memory.beat_at = read_clock(connection, "accrued_until")
        memory.jumped_at = read_clock(connection, "jumped_at")
        memory.load(select_totals(connection))

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(True)  # noqa: FBT003 - forced: an error of it is known already
