"""The SQLite file: its locks and connections, and the reactions to damage and loss.

https://www.sqlite.org/wal.html, https://www.sqlite.org/howtocorrupt.html
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, Self, TypeAlias
from uuid import uuid4

import apsw

from app.errors import StartError, StoreCorruptError, StoreGoneError, StoreUnavailableError
from app.store.sqlite.damage import OPEN, find_damage, header_of, unusable_reason
from app.store.sqlite.location import (
    INDEX,
    WAL,
    Identity,
    Location,
    identity_of,
    refuse_forbidden,
    refuse_other_nodes,
)
from app.store.sqlite.locks import Locks
from app.store.sqlite.readable import DAMAGE
from app.store.sqlite.replacement import finish_replacement, replace_damaged
from app.store.sqlite.schema import MIGRATIONS, create_file, migrate, version_of

_CREATE: Final = OPEN | apsw.SQLITE_OPEN_CREATE
_BUSY_MILLISECONDS: Final = 2000
_ABSENCE: Final = (
    apsw.AbortError,
    apsw.BusyError,
    apsw.CantOpenError,
    apsw.FullError,
    apsw.IOError,
    apsw.InterruptError,
    apsw.LockedError,
    apsw.PermissionsError,
    apsw.ProtocolError,
    apsw.ReadOnlyError,
    apsw.SQLError,
    apsw.SchemaChangeError,
)
"""Errors that may go away; any other is a bug. SQLError is here because another program may have changed the
schema."""

_OpenFile: TypeAlias = tuple[str, Callable[[str], os.stat_result], Identity]
"""A path, how to look at it, and the file to which it led when that was opened.

A path is looked at with `lstat`, because a link that replaces a file is another file. Only the configured
path may have links in it.
"""


def translate_error(exc: apsw.Error | OSError) -> Exception:
    """Return StoreCorruptError or StoreUnavailableError; the error itself if it is a bug."""
    if isinstance(exc, DAMAGE):
        return StoreCorruptError(f"the SQLite file is damaged: {exc}")
    if isinstance(exc, (*_ABSENCE, OSError)):
        return StoreUnavailableError(f"the SQLite file cannot be used: {exc}")
    return exc


class SQLiteFile:
    """A locked, sound SQLite file of the current schema, or a database in memory."""

    def __init__(self, path: str) -> None:
        self.moved_aside_to: Path | None = None
        self.in_memory = path == ":memory:"
        self._location = Location(path, path) if self.in_memory else Location.of(path)
        # The VFS "memdb" shares a name that begins with "/" within the process while it has a connection.
        self._uri = f"file:/{uuid4()}?vfs=memdb" if self.in_memory else Path(self._location.real).as_uri()
        self._locks = Locks(self._location)
        self._database: list[_OpenFile] = []
        self._open_files: Sequence[_OpenFile] = ()
        """The files of the writer's connection."""
        self._gone: str | None = None
        self._keeps_memory_alive: apsw.Connection | None = None
        self._mutex = threading.Lock()
        self._readers = 0
        self._released = False

    @classmethod
    def open(cls, path: str, *, lock_seconds: float = 5.0, migrations: Sequence[str] = MIGRATIONS) -> Self:
        """Lock the file, move a damaged one aside, and bring the schema up to date.

        Raises StartError if another process holds the file, another program made it, its schema is newer, it
        cannot be made, or it is not a regular file with one name. A start that fails removes the lock file
        that it made.
        """
        file = cls(path)
        if file.in_memory:
            file._keeps_memory_alive = file.connect()
            migrate(file._keeps_memory_alive, migrations)
            return file
        try:
            refuse_other_nodes(file._location)
            refuse_forbidden(file._location)
            file._locks.take(lock_seconds)
            file._examine(migrations)
            with closing(file.connect()) as connection:
                migrate(connection, migrations)
            # The schema is durable. From now on, a file that is not a database has been one, and is damaged.
            file._locks.mark()
        except StoreGoneError as exc:
            file._locks.abandon()
            raise StartError(str(exc)) from exc
        except (OSError, apsw.Error) as exc:
            file._locks.abandon()
            # SQLite reports a full disk as "disk I/O error", because it fails at the WAL's index.
            why = unusable_reason(Path(file._location.folder))
            raise StartError(
                f"the store {file._location} cannot be opened: {f'{why} ({exc})' if why else exc}"
            ) from exc
        except BaseException:
            file._locks.abandon()
            raise
        return file

    def connect(self) -> apsw.Connection:
        """Open a connection to write with. Raises StoreGoneError if the file is no longer the locked one."""
        self._require(self._database)
        # Without SQLITE_OPEN_CREATE, because a file that was deleted must not come back empty.
        flags = _CREATE if self.in_memory else OPEN
        connection = apsw.Connection(self._uri, flags=flags, statementcachesize=128)
        try:
            connection.set_busy_timeout(_BUSY_MILLISECONDS)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA cache_size = -2048")
            connection.execute("PRAGMA temp_store = FILE")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            connection.execute("PRAGMA wal_autocheckpoint = 2000")  # pages
            version_of(connection)  # the first read makes the WAL and its index
            self._open_files = (*self._database, *self._side_files())
            self.require_present()
        except (apsw.Error, OSError, StoreGoneError):
            connection.close(True)  # noqa: FBT003 - forced: no other error in this one's place
            raise
        return connection

    def require_present(self) -> None:
        """Raise StoreGoneError if a path of the store no longer leads to the file that is open.

        Called after every commit, so that the next start finds everything that was acknowledged. It takes
        5 µs (three times `lstat`). Raises OSError if the status of a path cannot be read.
        """
        self._require(self._open_files)

    def _require(self, files: Sequence[_OpenFile]) -> None:
        # The loss is final even if the file is put back, because connections may have different files open.
        self._gone = self._gone or self._find_loss(files)
        if self._gone:
            raise StoreGoneError(self._gone)

    def _find_loss(self, files: Sequence[_OpenFile]) -> str | None:
        for path, look, identity in files:
            try:
                if identity_of(look(path)) == identity:
                    continue
            except (FileNotFoundError, NotADirectoryError):
                return _loss_of(path, self._location, missing=True)
            return _loss_of(path, self._location, missing=False)
        return None

    def _side_files(self) -> Sequence[_OpenFile]:
        paths = [] if self.in_memory else [f"{self._location.real}{suffix}" for suffix in (WAL, INDEX)]
        return [(path, os.lstat, identity_of(os.lstat(path))) for path in paths]

    @contextmanager
    def reading(self) -> Iterator[apsw.Connection]:
        """Open a connection that reads beside the writer's and cannot change anything; from any thread."""
        with self._mutex:
            if self._released:
                raise StoreUnavailableError("the store is closed")
            self._readers += 1
        try:
            if (loss := self._find_loss(self._database)) is not None:
                raise StoreGoneError(loss)
            with closing(self._reader()) as connection:
                yield connection
        finally:
            with self._mutex:
                self._readers -= 1
                self._release_if_unused()

    def release(self) -> None:
        """Release the file for another process as soon as the last reader ends. The writer has ended."""
        with self._mutex:
            self._released = True
            self._release_if_unused()

    def _release_if_unused(self) -> None:
        # Closing the locks' descriptor of the file drops the locks of every SQLite connection to it.
        if self._released and not self._readers:
            self._locks.release()
            if self._keeps_memory_alive is not None:
                self._keeps_memory_alive.close()
                self._keeps_memory_alive = None

    def _reader(self) -> apsw.Connection:
        uri = self._uri if self.in_memory else f"{self._uri}?mode=ro"
        connection = apsw.Connection(uri, flags=_CREATE)
        connection.set_busy_timeout(_BUSY_MILLISECONDS)
        connection.execute("PRAGMA query_only = ON")
        # Each connection has a cache of its own. The queries for the page sort large results on disk.
        connection.execute("PRAGMA cache_size = -512")
        connection.execute("PRAGMA temp_store = FILE")
        return connection

    def _examine(self, migrations: Sequence[str]) -> None:
        """Replace a damaged file, refuse a file of another program, and make a file if there is none."""
        self.moved_aside_to = finish_replacement(self._location, self._locks)
        damage = find_damage(self._location, len(migrations), exclusive=True)
        if damage is not None:
            self.moved_aside_to = replace_damaged(self._location, self._locks, damage, migrations)
        if not header_of(self._location.real):
            self._make()
        identity = self._locks.identity()
        assert identity is not None  # noqa: S101 - there is a file by now
        self._database = [(self._location.real, os.lstat, identity)]
        if self._location.given != self._location.real:
            self._database.append((self._location.given, os.stat, identity))

    def _make(self) -> None:
        # Under another name first, so that the store's file has our application id from its first moment.
        making = Path(f"{self._location.real}.new")
        create_file(making).close()
        self._locks.put_in_place(making)


def _loss_of(path: str, location: Location, *, missing: bool) -> str:
    """Return the sentence for a file that was lost while it was open: what happened, and what to do."""
    if path != location.real and path == location.given:
        return (
            f"the path {path} no longer leads to the store file {location.real} that the exporter was using; "
            "the next start uses the file to which it leads then"
        )
    if path == location.real:
        if missing:
            return (
                f"the store {location} was deleted or renamed while the exporter was using it; put it back, "
                "or a backup of it: without a file the next start begins a new store"
            )
        return (
            f"the store {location} was replaced by another file while the exporter was using it; "
            "the next start uses the new file; stop the exporter before you replace the store"
        )
    return (
        f"{path} was deleted or replaced while the exporter was using the store {location}; start again, and "
        "leave the files beside the store alone while the exporter runs"
    )
