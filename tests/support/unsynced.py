"""A disk whose `fsync` fails: the kernel answers EIO in one thread, for every file.

A COMMIT of SQLite writes to the WAL and syncs it. So it fails, although its data is in the file.
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
"""The system call numbers of fsync and fdatasync."""
POSSIBLE: Final = sys.platform == "linux" and platform.machine() in _SYNCS
"""True if this machine supports it."""
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
    """Run the work in a thread that cannot sync any file, and return its result or raise its exception."""
    with ThreadPoolExecutor(1, initializer=_refuse_syncs) as thread:
        return thread.submit(work).result()


class UnsyncedDisk(Disk):
    """A disk on which commits are written and fail while `syncs` is false."""

    syncs = True

    def open(self, url: str, *args: object, **options: object) -> OpenedStore:
        """Open a store on this disk, as `open_store` does."""
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
    """Install the filter in this thread. It cannot be removed."""
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
