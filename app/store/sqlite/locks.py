"""The locks by which one exporter at a time has a store file.

SQLite has locks of its own (fcntl), which the kernel drops when the process closes any descriptor of the
file. The locks here are of another kind (flock), which does not conflict with SQLite's.
https://man7.org/linux/man-pages/man2/flock.2.html, https://www.sqlite.org/howtocorrupt.html
"""

import fcntl
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from app.errors import StartError
from app.store.sqlite.location import LOCK, Identity, Location, identity_of, refuse_other_node

_MARK: Final = b"spot-interruption-exporter\n"
_PAUSE_SECONDS: Final = 0.05
# Writable, so that an overlay file system gives the file its lasting inode at once.
_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class Locks:
    """Two locks that a process holds as long as it uses a store file.

    The lock on `<file>.lock` is held before the file is looked at or made. The lock on the file itself also
    keeps out a process that has another name for it, or another lock file because the first was deleted.
    """

    def __init__(self, location: Location) -> None:
        self._location = location
        self._lock_path = f"{location.real}{LOCK}"
        self._lock_file: int | None = None
        self._made_lock_file = False
        self._file: int | None = None

    def take(self, seconds: float) -> None:
        """Take both locks, the second if there is a file. Raises StartError if another process keeps one."""
        deadline = time.monotonic() + seconds
        while self._lock_file is None:
            self._lock_file = self._try_lock_file(deadline)
        try:
            while self._file is None:
                self._file = self._locked(os.open(self._location.real, _FLAGS), self._location.real, deadline)
        except FileNotFoundError:
            return
        refuse_other_node(self._location, os.fstat(self._file))

    def let_go_of_file(self) -> None:
        """Release the lock on the file. No connection to it may be open."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def put_in_place(self, new: Path) -> None:
        """Take the lock on a new file, and then give the file the store's name."""
        self.let_go_of_file()
        self._file = os.open(new, _FLAGS)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        new.replace(self._location.real)

    def identity(self) -> Identity | None:
        """Return the identity of the locked file; None if there is none."""
        return None if self._file is None else identity_of(os.fstat(self._file))

    def mark(self) -> None:
        """Write into the lock file that there has been a database of ours."""
        if self._lock_file is not None and not is_marked(self._location):
            os.pwrite(self._lock_file, _MARK, 0)
            os.fsync(self._lock_file)

    def release(self) -> None:
        """Release both locks. No connection to the file may be open."""
        self.let_go_of_file()
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def abandon(self) -> None:
        """Release both locks, and remove the lock file if this process made it."""
        if self._lock_file is not None and self._made_lock_file:
            # Still locked: a process that waits for it then notices that the path no longer leads to it.
            Path(self._lock_path).unlink(missing_ok=True)
        self.release()

    def _try_lock_file(self, deadline: float) -> int | None:
        try:
            opened = os.open(self._lock_path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
            self._made_lock_file = True
        except FileExistsError:
            self._made_lock_file = False
            try:
                opened = os.open(self._lock_path, _FLAGS)
            except FileNotFoundError:  # removed in between
                return None
        return self._locked(opened, self._lock_path, deadline)

    def _locked(self, opened: int, path: str, deadline: float) -> int | None:
        """Lock an open file. Return None if its path leads to another file, or to none, after that."""
        with ExitStack() as unless_kept:
            unless_kept.callback(os.close, opened)
            while not _lock(opened):
                if time.monotonic() >= deadline:
                    raise StartError(self._in_use(path))
                time.sleep(_PAUSE_SECONDS)
            if not _has_path(opened, path):
                return None
            unless_kept.pop_all()
        return opened

    def _in_use(self, path: str) -> str:
        held = "its lock file"
        if path != self._lock_path:
            held = "the file itself, by another name of it or because its lock file was deleted"
        return (
            f"the store {self._location} is in use by another process, which holds {held};"
            " stop that process, or set another store.url"
        )


def is_marked(location: Location) -> bool:
    """Return True if there has been a database of ours at the location."""
    try:
        return Path(f"{location.real}{LOCK}").read_bytes() == _MARK
    except FileNotFoundError:
        return False


def is_held(path: str) -> bool:
    """Return True if another process holds a lock on the file."""
    try:
        opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(opened)
    return False


def _lock(opened: int) -> bool:
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _has_path(opened: int, path: str) -> bool:
    try:
        return identity_of(os.lstat(path)) == identity_of(os.fstat(opened))
    except FileNotFoundError:
        return False
