"""The store's files in their folder: the file to which a path leads, and the kinds of nodes that are refused.

SQLite finds a database's WAL, its index and its journal by the name of the database. So a database must have
one name only. https://www.sqlite.org/howtocorrupt.html#_multiple_links_to_the_same_file
"""

import os
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Final, Self, TypeAlias

from app.errors import StartError

LOCK: Final = ".lock"
WAL: Final = "-wal"
INDEX: Final = "-shm"
_SIDE_FILES: Final = (LOCK, WAL, INDEX, "-journal")
_KINDS: Final[Mapping[str, Callable[[int], bool]]] = {
    "a folder": stat.S_ISDIR,
    "a named pipe": stat.S_ISFIFO,
    "a socket": stat.S_ISSOCK,
    "a character device": stat.S_ISCHR,
    "a block device": stat.S_ISBLK,
    "a symbolic link": stat.S_ISLNK,
}

Identity: TypeAlias = tuple[int, int]
"""A file's device and inode. No other file has them while somebody has this one open."""


@dataclass(frozen=True, slots=True)
class Location:
    """A store's path as it is configured, and the file to which it leads."""

    given: str
    """Absolute, so that it means the same file in every working directory."""
    real: str
    """Without a symbolic link in it. The file itself may be missing yet."""

    @classmethod
    def of(cls, path: str) -> Self:
        """Follow every symbolic link of the path, also one whose target is missing. Raises StartError."""
        given = path if path.startswith("/") else f"{_working_directory(path)}/{path}"
        return cls(given, os.path.realpath(given))

    def __str__(self) -> str:
        if os.path.normpath(self.given) == self.real:
            return self.real
        return f"{self.given} (which leads to {self.real})"

    @property
    def folder(self) -> str:
        """The folder of the file and of everything beside it."""
        return os.path.dirname(self.real)  # noqa: PTH120 - text, as everywhere here


def identity_of(status: os.stat_result) -> Identity:
    """Return the identity of the file that the status describes."""
    return status.st_dev, status.st_ino


def refuse_other_nodes(location: Location) -> None:
    """Raise StartError if the store's path, or one beside it, does not lead to a file with one name.

    Nothing is opened: opening a named pipe waits, and opening a device may start something.
    """
    with suppress(FileNotFoundError):
        refuse_other_node(location, os.lstat(location.real))
    for suffix in _SIDE_FILES:
        path = location.real + suffix
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(status.st_mode):
            raise StartError(
                f"the store {location} cannot be opened: {path} is {_kind_of(status)} and not a regular "
                "file; move it away"
            )


def refuse_other_node(location: Location, status: os.stat_result) -> None:
    """Raise StartError if the status is not that of a regular file with one name."""
    if not stat.S_ISREG(status.st_mode):
        raise StartError(
            f"the store {location} is {_kind_of(status)} and not a regular file, and was left alone; "
            "let store.url name a regular file, or a path where there is no file yet"
        )
    if status.st_nlink > 1:
        raise StartError(
            f"the store {location} has {status.st_nlink} hard links, and was left alone, because its newest "
            "data is in a WAL that belongs to one of the names; remove the other names, or let store.url "
            "name a copy"
        )


def refuse_forbidden(location: Location) -> None:
    """Raise StartError if the process may not read and write the store's file, or one beside it.

    SQLite opens a store whose WAL or whose WAL's index it may only read. Then every commit fails.
    """
    for path in (location.real, *(location.real + suffix for suffix in _SIDE_FILES)):
        if os.access(path, os.F_OK) and not os.access(path, os.R_OK | os.W_OK):
            raise StartError(
                f"the exporter may not read and write {path}; correct its owner or its permissions"
            )


def open_to_read(path: str) -> FileIO:
    """Open the file for reading, without the kernel's readahead.

    Readahead puts the file into large folios (with ext4 since Linux 6.16). Later each write of a page scans
    its whole folio, which takes much CPU time. A single read with readahead is enough
    to cause that, because the next read continues it.
    """
    file = FileIO(path)
    if hasattr(os, "posix_fadvise"):  # missing on some systems
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    return file


def _working_directory(path: str) -> str:
    try:
        return str(Path.cwd())
    except FileNotFoundError as exc:
        raise StartError(
            f"the store {path} cannot be found, because the working directory was deleted; let store.url "
            "have an absolute path"
        ) from exc


def _kind_of(status: os.stat_result) -> str:
    return next((kind for kind, fits in _KINDS.items() if fits(status.st_mode)), "an unknown kind of node")
