"""A disk that SQLite uses and that a test can stop."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import apsw

_BASE = "unix"
_WITHIN_SECONDS = 120.0


class SlowDisk(apsw.VFS):
    """SQLite's default disk during a `with` block. While it is `stopped`, its reads and writes wait."""

    def __init__(self) -> None:
        super().__init__("slow", _BASE, makedefault=True)
        self.waiting = 0
        """Number of reads and writes that have waited."""
        self._free = threading.Event()
        self._free.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.unregister()

    def xOpen(self, name: Any, flags: Any) -> "apsw.VFSFile":  # noqa: ANN401, N802 - as apsw calls it
        """Open a file on this disk."""
        return _SlowFile(self, name, flags)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Let reads and writes wait during the block."""
        self._free.clear()
        try:
            yield
        finally:
            self._free.set()

    def wait(self) -> None:
        """Wait until the disk moves."""
        if not self._free.is_set():
            self.waiting += 1
            self._free.wait(_WITHIN_SECONDS)


class _SlowFile(apsw.VFSFile):
    def __init__(self, disk: SlowDisk, name: Any, flags: Any) -> None:  # noqa: ANN401 - as apsw gives them
        super().__init__(_BASE, name, flags)
        self._disk = disk

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - as apsw calls it
        self._disk.wait()
        return super().xRead(amount, offset)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: ANN401, N802 - as apsw calls it
        self._disk.wait()
        super().xWrite(data, offset)
