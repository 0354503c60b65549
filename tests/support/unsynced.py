"""A disk whose `fsync` fails: for one thread the kernel answers it with EIO, whatever is in the file.

SQLite's COMMIT writes to the WAL and has it synced: it fails then, and what it has written is there.
https://www.kernel.org/doc/html/latest/userspace-api/seccomp_filter.html, https://www.sqlite.org/wal.html
"""

import ctypes
import errno
import platform
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

from app.domain.batch import Applied
from app.domain.events import Event
from app.store.opening import open_store
from app.store.port import OpenedStore, Store
from tests.support.stores import Disk, StoreOnDisk

T = TypeVar("T")

_SYNCS: Final = {"x86_64": (74, 75), "aarch64": (82, 83)}
"""The numbers of fsync and fdatasync."""
POSSIBLE: Final = sys.platform == "linux" and platform.machine() in _SYNCS
"""Whether any of this works here."""
_SET_NO_NEW_PRIVILEGES: Final = 38
_SET_SECCOMP: Final = 22
_FILTER_MODE: Final = 2
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("yes", ctypes.c_ubyte),
        ("no", ctypes.c_ubyte),
        ("k", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("first", ctypes.POINTER(_Instruction)))


def without_sync(work: Callable[[], T]) -> T:
    """What the work gives or raises, done in a thread of its own that cannot sync any file."""
    with ThreadPoolExecutor(1, initializer=_refuse_syncs) as thread:
        return thread.submit(work).result()


class UnsyncedDisk(Disk):
    """While `syncs` is false, commits are written and fail."""

    syncs = True

    def open(self, url: str, *args: object, **options: object) -> OpenedStore:
        """As `open_store`, on this disk."""
        opened = open_store(url, *args, **options)  # type: ignore[arg-type]  # as they come
        return replace(opened, store=_UnsyncedStore(opened.store, self))


class _UnsyncedStore(StoreOnDisk):
    def __init__(self, store: Store, disk: UnsyncedDisk) -> None:
        super().__init__(store, disk)
        self._syncing = disk

    def apply(self, events: Sequence[Event], now: float) -> Applied:
        work = partial(super().apply, events, now)
        return work() if self._syncing.syncs else without_sync(work)


def _refuse_syncs() -> None:
    """For this thread, and for good: nothing takes a filter away."""
    fsync, fdatasync = _SYNCS[platform.machine()]
    instructions = (
        _Instruction(_LOAD, 0, 0, 0),  # the system call's number
        _Instruction(_JUMP_IF_EQUAL, 1, 0, fsync),
        _Instruction(_JUMP_IF_EQUAL, 0, 1, fdatasync),
        _Instruction(_RETURN, 0, 0, _ERRNO | errno.EIO),
        _Instruction(_RETURN, 0, 0, _ALLOW),
    )
    program = _Program(len(instructions), (_Instruction * len(instructions))(*instructions))
    _control(_SET_NO_NEW_PRIVILEGES, 1, 0)  # else only root may filter
    _control(_SET_SECCOMP, _FILTER_MODE, ctypes.byref(program))


def _control(*arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(*arguments, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
