"""A disk for SQLite files that becomes full or slow, and on which a process can end at any write.

While it is in use it is SQLite's default VFS, so every connection that names no other VFS is on it. Files are
real files. Nothing is synced: the disk remembers what would be lost instead.
https://www.sqlite.org/vfs.html, https://rogerbinns.github.io/apsw/vfs.html
"""

from collections.abc import Callable
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Final, NamedTuple, Self

import apsw

_NAME: Final = "simulated disk"
_REAL: Final = "unix"
_SECTOR: Final = 512


class _Write(NamedTuple):
    """The data that a write has replaced. If the old data is shorter, the file was shorter too."""

    path: str
    offset: int
    length: int
    old: bytes


class SimulatedDisk:
    """The default disk during a `with` block."""

    def __init__(self, on_sync: Callable[[], None] = lambda: None) -> None:
        """`on_sync` is called at each sync, and may let time pass."""
        self.full = False
        """No write-ahead log can become longer."""
        self.writes_to_live: int | None = None
        """The number of writes after which the process ends; None: it lives on."""
        self.ended = False
        """The process has ended: nothing changes a file any more. Whatever it does after that is not done."""
        self.on_sync = on_sync
        self.on_end: Callable[[], None] = lambda: None
        """Called when the process ends at a write."""
        self.unsynced: list[_Write] = []

    def __enter__(self) -> Self:
        self._before = apsw.vfs_names()[0]
        self._vfs = _Vfs(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        apsw.set_default_vfs(self._before)
        self._vfs.unregister()

    def restart(self) -> None:
        """Let the next process use the disk."""
        self.ended, self.writes_to_live, self.full = False, None, False

    def forget(self, path: str, size: int) -> None:
        """Forget the writes to a file beyond this size, because they are gone."""
        self.unsynced = [write for write in self.unsynced if write.path != path or write.offset < size]

    def lose_unsynced(self, random: Random) -> int:
        """Lose some of the writes that were not synced, as at the end of a machine; return their number."""
        lost = 0
        for write in reversed(self.unsynced):
            if random.random() < 0.5 and Path(write.path).exists():
                lost += 1
                _undo(write)
        self.unsynced.clear()
        return lost

    def changes(self) -> bool:
        """Note a write, and return False if the process has ended: then nothing changes a file any more."""
        if self.writes_to_live is not None:
            self.writes_to_live -= 1
            if self.writes_to_live < 0 and not self.ended:
                self.ended = True
                self.on_end()
        return not self.ended


def _undo(write: _Write) -> None:
    with Path(write.path).open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(write.offset)
        file.write(write.old)
        if size <= write.offset + write.length and len(write.old) < write.length:
            file.truncate(write.offset + len(write.old))


class _Vfs(apsw.VFS):
    def __init__(self, disk: SimulatedDisk) -> None:
        super().__init__(_NAME, _REAL, makedefault=True)
        self._disk = disk

    def xOpen(  # noqa: N802
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> apsw.VFSFile:
        # Temporary files have no name, and end with the process.
        return apsw.VFSFile(_REAL, name, flags) if name is None else _File(self._disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001, N802
        if self._disk.changes():
            super().xDelete(filename, syncdir)
            self._disk.forget(filename, 0)


class _File(apsw.VFSFile):
    def __init__(self, disk: SimulatedDisk, name: str | apsw.URIFilename, flags: list[int]) -> None:
        super().__init__(_REAL, name, flags)
        self._disk = disk
        self._path = name if isinstance(name, str) else name.filename()

    def xLock(self, level: int) -> None:  # noqa: N802
        try:
            super().xLock(level)
        except apsw.IOError as exc:
            # A connection that only reads cannot take it. SQLite passes over that, and apsw over a busy file.
            raise apsw.BusyError(str(exc)) from exc

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        if not self._disk.changes():
            return
        size = self.xFileSize()
        # Only the log: SQLite passes over an error of the other file at its closing, and apsw would raise it.
        if self._disk.full and offset + len(data) > size and self._path.endswith("-wal"):
            raise apsw.FullError("the disk is full")
        known = max(min(size - offset, len(data)), 0)
        old = self.xRead(known, offset) if known else b""
        self._disk.unsynced.append(_Write(self._path, offset, len(data), old))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        if self._disk.changes():
            super().xTruncate(newsize)
            self._disk.forget(self._path, newsize)

    def xSync(self, flags: int) -> None:  # noqa: ARG002, N802
        if not self._disk.changes():
            return
        self._disk.on_sync()
        self._disk.unsynced = [write for write in self._disk.unsynced if write.path != self._path]
