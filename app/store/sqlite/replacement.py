"""The replacement of a damaged store by a new file, which a kill at any moment leaves to the next start.

The new file is complete before the damaged one is moved. Its name begins with the damaged one's new name.
"""

import logging
import os
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import apsw

from app.store.sqlite.damage import Damage, connect_read_only, header_of
from app.store.sqlite.location import INDEX, WAL, Location
from app.store.sqlite.locks import Locks
from app.store.sqlite.salvage import Salvaged, salvage
from app.store.sqlite.schema import create_file, migrate, version_of

_READY: Final = ".new"
"""The end of the new file's name while the damaged file is moved."""

_log = logging.getLogger(__name__)


def replace_damaged(location: Location, locks: Locks, damage: Damage, migrations: Sequence[str]) -> Path:
    """Move the damaged file aside, put a new one in its place, and return the new path of the damaged one."""
    aside, making = _free_path(location), Path(f"{location.real}.new")
    try:
        salvaged = _build(location, making, damage, migrations)
    except BaseException:
        # The disk may be full.
        making.unlink(missing_ok=True)
        raise
    _log.error(
        "the store was damaged; the exporter moves it aside, and copies what it can read into a new one",
        extra={
            "damage": damage.reason,
            "moved_to": str(aside),
            "kept": salvaged.kept,
            "lost": salvaged.lost,
            "countable_again": salvaged.countable_again,
        },
    )
    ready = Path(f"{aside}{_READY}")
    making.rename(ready)
    return _put_in_place(location, locks, ready)


def finish_replacement(location: Location, locks: Locks) -> Path | None:
    """Finish a replacement during which an earlier start was killed.

    Return the new path of the damaged file; None if there is no such replacement. If nothing was moved yet,
    the damage will be found again.
    """
    prefix = f"{os.path.basename(location.real)}.damaged-"  # noqa: PTH119 - text, as everywhere here
    for ready in Path(location.folder).iterdir():
        if ready.name.startswith(prefix) and ready.name.endswith(_READY):
            if Path(location.real).exists():
                ready.unlink()
                continue
            _log.error(
                "the store was damaged; an earlier start did not finish replacing it, and this start does",
                extra={"moved_to": str(ready).removesuffix(_READY)},
            )
            return _put_in_place(location, locks, ready)
    return None


def _build(location: Location, making: Path, damage: Damage, migrations: Sequence[str]) -> Salvaged:
    """Make a new file with what can be read of the damaged one. Afterwards it is on disk."""
    now = time.time()
    with closing(_source(location.real)) as source, closing(create_file(making)) as target:
        migrate(target, migrations[: _version(source) or len(migrations)])
        last_commit_at = None
        if damage.lost_commits:
            last_commit_at = min(Path(f"{location.real}{WAL}").stat().st_mtime, now)
        return salvage(source, target, last_commit_at=last_commit_at, now=now)


def _source(path: str) -> apsw.Connection:
    if not header_of(path):
        return apsw.Connection(":memory:")  # SQLite would delete the WAL of an empty file
    source = connect_read_only(path, exclusive=True)
    # Otherwise SQLite reads nothing of a file that is shorter than its header says.
    source.execute("PRAGMA writable_schema = ON")
    return source


def _version(source: apsw.Connection) -> int:
    with suppress(apsw.Error):
        return version_of(source)
    return 0


def _put_in_place(location: Location, locks: Locks, ready: Path) -> Path:
    aside = str(ready).removesuffix(_READY)
    for suffix in ("", WAL, INDEX):
        with suppress(FileNotFoundError):
            Path(location.real + suffix).rename(aside + suffix)
    locks.put_in_place(ready)
    return Path(aside)


def _free_path(location: Location) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = Path(f"{location.real}.damaged-{stamp}")
    number = 1
    while path.exists():
        number += 1
        path = Path(f"{location.real}.damaged-{stamp}-{number}")
    return path
