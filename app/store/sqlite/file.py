"""The SQLite file: its schema, its connections, and what happens when it is damaged or lost.

https://www.sqlite.org/wal.html, https://www.sqlite.org/howtocorrupt.html
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Final, Self, TypeAlias
from uuid import uuid4

import apsw

from app.errors import StartError, StoreCorruptError, StoreGoneError, StoreUnavailableError
from app.store.sqlite.location import (
    INDEX,
    LOCK,
    WAL,
    Identity,
    Location,
    identity_of,
    refuse_other_nodes,
)
from app.store.sqlite.locks import Locks, is_held, is_marked
from app.store.sqlite.slots import name_of, place_of

APPLICATION_ID: Final = 0x53494531  # "SIE1", in the file's header: a database with another one is not ours
_OUR_NAME: Final = APPLICATION_ID.to_bytes(4, "big")
_HEADER: Final = b"SQLite format 3\0"
_PAGE_BYTES: Final = 2048
"""Half the usual: an interruption changes one row of one page, and a commit writes whole pages."""
_OPEN: Final = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
_CREATE: Final = _OPEN | apsw.SQLITE_OPEN_CREATE
_BUSY_MILLISECONDS: Final = 2000
_ROOM_BYTES: Final = 1 << 22
"""What must be free: as much as the WAL grows to, and as much again."""
_DAMAGE: Final = (apsw.CorruptError, apsw.NotADBError)
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
"""What may pass; all else is a bug. SQLError too: somebody may have changed the schema under us."""

_log = logging.getLogger(__name__)

_OpenFile: TypeAlias = tuple[str, Callable[[str], os.stat_result], Identity]
"""A path, how to look at it, and the file to which it led when that was opened.

A path is looked at with `lstat`, because a link that replaces a file is another file. Only the configured
path may have links in it.
"""

_UNREAD: Final = "was left with a WAL and no index of it: only a start can read it in"

_SCHEMA_1: Final = """
CREATE TABLE seen (
    key TEXT PRIMARY KEY,
    seen_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX seen_by_age ON seen (seen_at);
CREATE TABLE instances (
    name TEXT NOT NULL,
    identity TEXT NOT NULL,
    kind INTEGER NOT NULL,
    cluster TEXT NOT NULL,
    cluster_location TEXT NOT NULL,
    node_pool TEXT NOT NULL,
    machine_type TEXT NOT NULL,
    recorded_at REAL NOT NULL,
    spot INTEGER NOT NULL,
    alive INTEGER NOT NULL,
    announced INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    timed INTEGER NOT NULL,
    overflowed INTEGER NOT NULL,
    operation TEXT NOT NULL,
    created_at REAL,
    started_at REAL,
    interrupted_at REAL,
    ended_at REAL,
    PRIMARY KEY (name, identity)
) WITHOUT ROWID;
CREATE TABLE parked (
    key TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    id TEXT NOT NULL,
    at REAL NOT NULL,
    until REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX parked_by_name ON parked (name);
CREATE INDEX parked_by_end ON parked (until);
CREATE TABLE ledger (
    serial INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    at REAL NOT NULL,
    recorded_at REAL NOT NULL,
    name TEXT NOT NULL,
    identity TEXT NOT NULL,
    cluster TEXT NOT NULL,
    cluster_location TEXT NOT NULL,
    node_pool TEXT NOT NULL,
    machine_type TEXT NOT NULL,
    counted_as TEXT NOT NULL,
    age_seconds REAL,
    explained INTEGER NOT NULL,
    released_by TEXT
);
CREATE INDEX ledger_by_time ON ledger (at);
CREATE INDEX ledger_unexplained ON ledger (name, identity) WHERE NOT explained;
CREATE TABLE label_sets (
    project TEXT NOT NULL,
    cluster TEXT NOT NULL,
    cluster_location TEXT NOT NULL,
    node_pool TEXT NOT NULL,
    zone TEXT NOT NULL,
    machine_type TEXT NOT NULL,
    interruptions INTEGER NOT NULL,
    created INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    instances INTEGER NOT NULL,
    instance_seconds REAL NOT NULL,
    touched_at REAL NOT NULL,
    revealed INTEGER NOT NULL,
    PRIMARY KEY (project, cluster, cluster_location, node_pool, zone, machine_type)
) WITHOUT ROWID;
CREATE TABLE clusters (
    cluster TEXT PRIMARY KEY,
    interruptions INTEGER NOT NULL,
    last_interruption_at REAL,
    touched_at REAL NOT NULL,
    revealed INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE lifetimes (
    cluster TEXT NOT NULL,
    machine_type TEXT NOT NULL,
    buckets TEXT NOT NULL,
    sum_seconds REAL NOT NULL,
    touched_at REAL NOT NULL,
    revealed INTEGER NOT NULL,
    PRIMARY KEY (cluster, machine_type)
) WITHOUT ROWID;
CREATE TABLE projects (
    number TEXT PRIMARY KEY,
    id TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE listings (
    project TEXT PRIMARY KEY,
    began REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE clock (
    accounted_at REAL NOT NULL
);
"""

# In their new order: by an index, which needs less of the temporary disk than sorting them does.
_SCHEMA_2: Final = """
ALTER TABLE instances RENAME TO instances_by_name;
CREATE INDEX instances_by_place ON instances_by_name (place_of(name));
CREATE TABLE instances (
    slot INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    identity TEXT NOT NULL,
    kind INTEGER NOT NULL,
    cluster TEXT NOT NULL,
    cluster_location TEXT NOT NULL,
    node_pool TEXT NOT NULL,
    machine_type TEXT NOT NULL,
    recorded_at REAL NOT NULL,
    spot INTEGER NOT NULL,
    alive INTEGER NOT NULL,
    announced INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    timed INTEGER NOT NULL,
    overflowed INTEGER NOT NULL,
    operation TEXT NOT NULL,
    created_at REAL,
    started_at REAL,
    interrupted_at REAL,
    ended_at REAL
);
INSERT INTO instances
    SELECT place + row_number() OVER (PARTITION BY place) - 1, name, identity, kind, cluster,
        cluster_location, node_pool, machine_type, recorded_at, spot, alive, announced, failed, timed,
        overflowed, operation, created_at, started_at, interrupted_at, ended_at
    FROM (SELECT place_of(name) AS place, * FROM instances_by_name)
    ORDER BY place;
"""
# Each by itself, again if need be: within a transaction, SQLite copies what it drops to the temporary disk.
_SCHEMA_3: Final = """
COMMIT;
DROP TABLE IF EXISTS instances_by_name;
DROP INDEX IF EXISTS seen_by_age;
BEGIN IMMEDIATE;
"""
# So that a start soon after a pass of the pruning needs no pass of its own.
_SCHEMA_4: Final = """
CREATE TABLE pruned (
    before REAL NOT NULL
);
"""
MIGRATIONS: Final = (_SCHEMA_1, _SCHEMA_2, _SCHEMA_3, _SCHEMA_4)
"""Scripts that lead from each schema version to the next; a file's version is how many it has had."""


def translated(exc: apsw.Error | OSError) -> Exception:
    """Return the error that the rest of the service knows: the store is away, or damaged, or it is a bug."""
    if isinstance(exc, _DAMAGE):
        return StoreCorruptError(f"the SQLite file is damaged: {exc}")
    if isinstance(exc, (*_ABSENCE, OSError)):
        return StoreUnavailableError(f"the SQLite file cannot be used: {exc}")
    return exc


class SQLiteFile:
    """A locked, sound SQLite file of the current schema, or a database in memory."""

    def __init__(self, path: str) -> None:
        self.damaged: Path | None = None
        self.in_memory = path == ":memory:"
        self._location = Location(path, path) if self.in_memory else Location.of(path)
        # The VFS "memdb" shares a name that begins with "/" within the process, as long as somebody holds it.
        self._uri = f"file:/{uuid4()}?vfs=memdb" if self.in_memory else Path(self._location.real).as_uri()
        self._locks = Locks(self._location)
        self._database: list[_OpenFile] = []
        self._open_files: Sequence[_OpenFile] = ()
        """Those of the writer's connection."""
        self._gone: str | None = None
        self._held: apsw.Connection | None = None
        self._mutex = threading.Lock()
        self._readers = 0
        self._released = False

    @classmethod
    def open(cls, path: str, *, lock_seconds: float = 5.0, migrations: Sequence[str] = MIGRATIONS) -> Self:
        """Lock the file, set a damaged one aside, and bring its schema up to date.

        Raises StartError: another process holds it, it is not ours, it is newer, it cannot be made, or it is
        not a regular file with one name. A start that fails leaves no lock file that it made.
        """
        file = cls(path)
        if file.in_memory:
            file._held = file.connect()
            migrate(file._held, migrations)
            return file
        try:
            refuse_other_nodes(file._location)
            file._locks.take(lock_seconds)
            file._examine(len(migrations))
            with closing(file.connect()) as connection:
                migrate(connection, migrations)
            # Now the schema is durable: from now on, a file that is not a database was one, and is damaged.
            file._locks.mark()
        except StoreGoneError as exc:
            file._locks.abandon()
            raise StartError(str(exc)) from exc
        except (OSError, apsw.Error) as exc:
            file._locks.abandon()
            # SQLite says "disk I/O error" of a full disk: it fails at the WAL's index.
            why = _hindrance(Path(file._location.folder))
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
        # Only `_make` makes a file: one that was deleted must not come back empty.
        flags = _CREATE if self.in_memory else _OPEN
        connection = apsw.Connection(self._uri, flags=flags, statementcachesize=128)
        try:
            connection.set_busy_timeout(_BUSY_MILLISECONDS)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA cache_size = -2048")
            connection.execute("PRAGMA temp_store = FILE")
            connection.execute("PRAGMA journal_size_limit = 67108864")
            connection.execute("PRAGMA wal_autocheckpoint = 2000")  # of our pages
            _version_of(connection)  # SQLite makes the WAL and its index when it reads for the first time
            self._open_files = (*self._database, *self._side_files())
            self.require_present()
        except (apsw.Error, OSError, StoreGoneError):
            connection.close(True)  # noqa: FBT003 - forced: no other error in this one's place
            raise
        return connection

    def require_present(self) -> None:
        """Raise StoreGoneError if a path of the store no longer leads to the file that is open.

        Called after every commit, so that nothing is acknowledged that the next start would not find. It
        takes 5 µs (three times `lstat`). Raises OSError if a path cannot be looked at.
        """
        self._require(self._open_files)

    def _require(self, files: Sequence[_OpenFile]) -> None:
        # It stays so even if the file is put back: connections may have different files open by then.
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
                self._let_go()

    def release(self) -> None:
        """Let another process have the file, once the last reader has ended. The writer has ended."""
        with self._mutex:
            self._released = True
            self._let_go()

    def _let_go(self) -> None:
        # Closing the locks' descriptor of the file drops the locks of every SQLite connection to it.
        if self._released and not self._readers:
            self._locks.release()
            if self._held is not None:
                self._held.close()
                self._held = None

    def _reader(self) -> apsw.Connection:
        uri = self._uri if self.in_memory else f"{self._uri}?mode=ro"
        connection = apsw.Connection(uri, flags=_CREATE)
        connection.set_busy_timeout(_BUSY_MILLISECONDS)
        connection.execute("PRAGMA query_only = ON")
        # Each keeps its own, and the page's sums sort what does not fit: on disk, not in memory.
        connection.execute("PRAGMA cache_size = -512")
        connection.execute("PRAGMA temp_store = FILE")
        return connection

    def _examine(self, schema: int) -> None:
        """Set a damaged file aside, refuse one that is not ours, and make one where there is none."""
        if find_damage(self._location, schema, alone=True) is not None:
            self._set_aside()
        if not _header_of(self._location.real):
            self._make()
        identity = self._locks.identity()
        assert identity is not None  # noqa: S101 - there is a file by now
        self._database = [(self._location.real, os.lstat, identity)]
        if self._location.given != self._location.real:
            self._database.append((self._location.given, os.stat, identity))

    def _make(self) -> None:
        # Under another name first: so our file has our name in its header from its first moment.
        making = Path(f"{self._location.real}.new")
        making.unlink(missing_ok=True)
        with closing(apsw.Connection(str(making))) as connection:
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._locks.put_in_place(making)

    def _set_aside(self) -> None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        aside = Path(f"{self._location.real}.damaged-{stamp}")
        number = 1
        while aside.exists():
            number += 1
            aside = Path(f"{self._location.real}.damaged-{stamp}-{number}")
        for suffix in (WAL, INDEX, ""):
            with suppress(FileNotFoundError):
                Path(self._location.real + suffix).rename(f"{aside}{suffix}")
        self.damaged = aside


def migrate(connection: apsw.Connection, migrations: Sequence[str]) -> None:
    """Bring the schema up to date, a version a transaction."""
    connection.create_scalar_function("place_of", _place_of, 1, deterministic=True)
    version = _version_of(connection)
    for number, script in enumerate(migrations[version:], version + 1):
        if version:
            _log.info("the store is being migrated", extra={"schema": number, "newest": len(migrations)})
        connection.execute(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT")


def _place_of(*text: "apsw.SQLiteValue") -> int:
    return place_of(name_of(str(*text)))


def find_damage(location: Location, schema: int, *, alone: bool) -> str | None:
    """What is wrong with our file; None if it is sound, or yet to be made. Changes neither it nor its WAL.

    `alone`: the caller has the lock, and the WAL's index may be mended. Raises StartError: the file is
    somebody else's, or its schema is newer than `schema`.
    https://www.sqlite.org/pragma.html#pragma_quick_check
    """
    path = location.real
    marked = is_marked(location)
    header = _header_of(path)
    if not header:
        return _find_remains(path, marked=marked)
    ours = header.startswith(_HEADER) and header[68:72] == _OUR_NAME
    foreign = StartError(f"the store {location} is a file of something else, and was left alone")
    if not ours and not marked:
        raise foreign
    try:
        _read_in(path)
        with closing(_connect_to_read(path, alone=alone)) as connection:
            finding = connection.execute("PRAGMA quick_check(1)").get
            version = _version_of(connection)
    except _DAMAGE as exc:
        return str(exc)
    if finding != "ok":
        return str(finding)
    if not ours:
        raise foreign
    if version > schema:
        raise StartError(f"the store {location} has schema {version}, newer than this program's {schema}")
    return None


def _read_in(path: str) -> None:
    """Have the kernel hold the file, as far as there is room.

    quick_check reads it in the order of its trees, which takes longer from a disk than from end to end.
    """
    some = bytearray(1 << 20)
    with _opened(path) as file:
        while file.readinto(some):
            pass


def inspect_file(path: str) -> str:
    """Describe what is in the file, or say that it can be made; change nothing. Raises StartError."""
    if path == ":memory:":
        return "in memory: everything is forgotten at a restart"
    location = Location.of(path)
    try:
        _refuse_hindrances(location)
        if _has_wal(location.real) and not Path(f"{location.real}{INDEX}").exists():
            return f"{location} {_UNREAD}"
        if (damage := find_damage(location, len(MIGRATIONS), alone=False)) is not None:
            raise StartError(f"{location} is damaged ({damage}); at its start the exporter moves it aside")
        if not _header_of(location.real):
            return f"there is none yet; it can be made in {location.folder}"
        with closing(_connect_to_read(location.real, alone=False)) as connection:
            if not _version_of(connection):
                return f"{location} is empty yet"
            instances = connection.execute("SELECT count(*) FROM instances").get
            interruptions = connection.execute("SELECT count(*) FROM ledger").get
    except apsw.ProtocolError:
        return f"{location} {_UNREAD}"
    except (OSError, apsw.Error) as exc:
        raise StartError(f"{location} cannot be read: {exc}") from exc
    return f"{location} holds {instances} instances and {interruptions} interruptions"


def _refuse_hindrances(location: Location) -> None:
    """Raise StartError if there is a reason outside the file for which it could not be used."""
    refuse_other_nodes(location)
    file = Path(location.real)
    if file.exists() and not os.access(file, os.R_OK | os.W_OK):
        raise StartError(f"{location} may not be read and written")
    if (why := _hindrance(file.parent)) is not None:
        raise StartError(why)
    if is_marked(location) and is_held(f"{file}{LOCK}") and not is_held(str(file)):
        raise StartError(
            f"{location} was deleted or replaced under a running exporter, which has its lock file; put the "
            "file back, or a backup of it, and restart that exporter"
        )


def _hindrance(folder: Path) -> str | None:
    """Why a store in the folder could not be used, whatever it is like."""
    if not folder.is_dir():
        return f"the folder {folder} does not exist"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"the folder {folder} may not be written"
    disk = os.statvfs(folder)
    room = disk.f_bavail * disk.f_frsize
    # Some file systems tell no size, or no number of files: they have 0 of all.
    if disk.f_blocks and room < _ROOM_BYTES:
        return f"the disk of {folder} is full: {room // 1024} KiB are free"
    if disk.f_files and not disk.f_favail:
        return f"the disk of {folder} is full: it takes no more files"
    return None


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


def _header_of(path: str) -> bytes:
    """The first bytes of the file; none where there is no file."""
    try:
        with _opened(path) as file:
            return file.read(100)
    except FileNotFoundError:
        return b""


def _opened(path: str) -> FileIO:
    """The file, to be read without the kernel's reading ahead.

    What Linux has read ahead it keeps in large pieces (folios, since 6.16 with ext4 too), and looks through
    the whole of one whenever a page in it is written, which takes much processor time. One read that did so
    is enough: where the next one meets what that has read ahead, it goes on with it.
    """
    file = FileIO(path)
    if hasattr(os, "posix_fadvise"):  # not everywhere that SQLite is tried
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    return file


def _has_wal(path: str) -> bool:
    wal = Path(f"{path}{WAL}")
    return wal.exists() and wal.stat().st_size > 0


def _find_remains(path: str, *, marked: bool) -> str | None:
    if marked and Path(path).exists():
        return "it is empty"
    # SQLite would read it into whatever database stands beside it.
    return "only its WAL is left" if _has_wal(path) else None


def _version_of(connection: apsw.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").get)


def _connect_to_read(path: str, *, alone: bool) -> apsw.Connection:
    # "immutable" keeps SQLite from making a WAL where there is none, "readonly_shm" from mending the index
    # of one that was left by kill -9; but there are states of an index that it cannot read then.
    mode = "mode=ro" if alone else "mode=ro&readonly_shm=1"
    if not _has_wal(path):
        mode = "mode=ro&immutable=1"
    return apsw.Connection(f"{Path(path).as_uri()}?{mode}", flags=_OPEN)
