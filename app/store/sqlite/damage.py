"""The examination of a SQLite file without changing it: its damage, and whether it can be used.

https://www.sqlite.org/wal.html, https://www.sqlite.org/howtocorrupt.html
"""

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import apsw

from app.domain.quantities import quantity
from app.errors import StartError
from app.store.sqlite.location import (
    INDEX,
    LOCK,
    WAL,
    Location,
    open_to_read,
    refuse_forbidden,
    refuse_other_nodes,
)
from app.store.sqlite.locks import is_held, is_marked
from app.store.sqlite.readable import DAMAGE, find_unreadable
from app.store.sqlite.schema import APPLICATION_ID, EARLIER_APPLICATION_ID, MIGRATIONS, version_of
from app.store.sqlite.wal import find_wal_damage

OPEN: Final = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
_OUR_NAME: Final = APPLICATION_ID.to_bytes(4, "big")
_EARLIER_NAME: Final = EARLIER_APPLICATION_ID.to_bytes(4, "big")
_HEADER: Final = b"SQLite format 3\0"
_FREE_BYTES: Final = 1 << 22
"""The free space that a store needs: the largest size of the WAL, and as much again."""
_MAKE_ROOM: Final = "make room, or enlarge the volume"
_NEEDS_RECOVERY: Final = (
    "has a WAL without a usable index, as after a crash or a copy; the next start recovers it"
)


@dataclass(frozen=True, slots=True)
class Damage:
    """The damage of a store."""

    reason: str
    lost_commits: bool = False
    """The newest commits cannot be read, so what can be read may be older than what was acknowledged."""


def find_damage(location: Location, schema: int, *, exclusive: bool) -> Damage | None:
    """Return the damage of our file; None if the file is sound or missing. Change neither it nor its WAL.

    `exclusive`: the caller has the lock, and SQLite may repair the WAL's index. Raises StartError if another
    program made the file, or if its schema is newer than `schema`.
    https://www.sqlite.org/pragma.html#pragma_quick_check
    """
    path = location.real
    marked = is_marked(location)
    header = header_of(path)
    if not header:
        return _orphaned_wal(path, marked=marked)
    ours = header.startswith(_HEADER) and header[68:72] == _OUR_NAME
    if header.startswith(_HEADER) and header[68:72] == _EARLIER_NAME:
        raise StartError(
            f"the store {location} is from a version before 1.0, which this version cannot read; it was left "
            "alone; move it away to begin with an empty store, or go back to the version that wrote it"
        )
    foreign = StartError(
        f"the store {location} is not a file of this exporter, and was left alone; change store.url"
    )
    if not ours and not marked:
        raise foreign
    # A writer appends to its WAL during the check.
    lost_commits = find_wal_damage(f"{path}{WAL}") if exclusive or not is_held(f"{path}{LOCK}") else None
    try:
        _warm_page_cache(path)
        with closing(connect_read_only(path, exclusive=exclusive)) as connection:
            version = version_of(connection)
            # The file's header may be damaged while the WAL has a sound one, which SQLite reads.
            ours = ours or connection.execute("PRAGMA application_id").get == APPLICATION_ID
            if ours and version > schema:
                raise StartError(
                    f"the store {location} has schema {version}, newer than this program's {schema}; use"
                    " a newer version"
                )
            finding = str(connection.execute("PRAGMA quick_check(1)").get)
            if finding == "ok" and ours:
                finding = find_unreadable(connection) or "ok"
    except DAMAGE as exc:
        finding = str(exc)
    if finding == "ok" and not ours:
        raise foreign
    if lost_commits is not None:
        return Damage(lost_commits, lost_commits=True)
    return None if finding == "ok" else Damage(finding)


def _warm_page_cache(path: str) -> None:
    """Read the file from end to end, so that it is in the kernel's page cache.

    quick_check reads the pages in the order of the B-trees, which takes longer from a disk.
    """
    some = bytearray(1 << 20)
    with open_to_read(path) as file:
        while file.readinto(some):
            pass


def inspect_file(path: str) -> str:
    """Describe what is in the file, or say that it can be created; change nothing. Raises StartError."""
    if path == ":memory:":
        return "in memory: everything is forgotten at a restart"
    location = Location.of(path)
    try:
        _refuse_unusable(location)
        if _has_wal(location.real) and not Path(f"{location.real}{INDEX}").exists():
            return f"{location} {_NEEDS_RECOVERY}"
        if (damage := find_damage(location, len(MIGRATIONS), exclusive=False)) is not None:
            raise StartError(
                f"{location} is damaged ({damage.reason}); at its next start the exporter moves it "
                "aside, and copies what it can read into a new one"
            )
        if not header_of(location.real):
            return f"there is no store yet; it can be created in {location.folder}"
        with closing(connect_read_only(location.real, exclusive=False)) as connection:
            if not version_of(connection):
                return f"{location} is still empty"
            instances = connection.execute("SELECT count(*) FROM instances").get
            interruptions = connection.execute("SELECT count(*) FROM ledger").get
    except apsw.ProtocolError:
        return f"{location} {_NEEDS_RECOVERY}"
    except (OSError, apsw.Error) as exc:
        raise StartError(f"{location} cannot be read: {exc}") from exc
    return f"{location} holds {quantity(instances, 'instance')} and {quantity(interruptions, 'interruption')}"


def _refuse_unusable(location: Location) -> None:
    """Raise StartError if the file could not be used for a reason outside it."""
    refuse_other_nodes(location)
    refuse_forbidden(location)
    file = Path(location.real)
    if (why := unusable_reason(file.parent)) is not None:
        raise StartError(why)
    if is_marked(location) and is_held(f"{file}{LOCK}") and not is_held(str(file)):
        raise StartError(
            f"{location} was deleted or replaced under a running exporter, which has its lock file; put the "
            "file back, or a backup of it, and restart that exporter"
        )


def unusable_reason(folder: Path) -> str | None:
    """Return the reason why no store in the folder could be used; None if there is none."""
    if not folder.is_dir():
        return f"the folder {folder} does not exist; create it, or change store.url"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"the exporter may not write to the folder {folder}; correct its owner or its permissions"
    disk = os.statvfs(folder)
    room = disk.f_bavail * disk.f_frsize
    # Some file systems report neither their size nor their number of files; then the totals are 0.
    if disk.f_blocks and room < _FREE_BYTES:
        return f"the disk of {folder} is full: {room // 1024} KiB are free; {_MAKE_ROOM}"
    if disk.f_files and not disk.f_favail:
        return f"the disk of {folder} is full: it has no free inodes; {_MAKE_ROOM}"
    return None


def header_of(path: str) -> bytes:
    """Return the first bytes of the file; nothing if there is no file."""
    try:
        with open_to_read(path) as file:
            return file.read(100)
    except FileNotFoundError:
        return b""


def _has_wal(path: str) -> bool:
    wal = Path(f"{path}{WAL}")
    return wal.exists() and wal.stat().st_size > 0


def _orphaned_wal(path: str, *, marked: bool) -> Damage | None:
    if marked and Path(path).exists():
        return Damage("it is empty")
    # SQLite would apply it to any database file that appears beside it.
    return Damage("only its WAL is left") if _has_wal(path) else None


def connect_read_only(path: str, *, exclusive: bool) -> apsw.Connection:
    """Open a connection that changes neither the file nor its WAL. `exclusive`: see `find_damage`."""
    # "immutable" keeps SQLite from making a WAL if there is none. "readonly_shm" keeps it from repairing the
    # WAL's index that a kill -9 left behind; some states of an index cannot be read then.
    mode = "mode=ro" if exclusive else "mode=ro&readonly_shm=1"
    if not _has_wal(path):
        mode = "mode=ro&immutable=1"
    return apsw.Connection(f"{Path(path).as_uri()}?{mode}", flags=OPEN)
