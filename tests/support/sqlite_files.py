"""SQLite stores for tests: in use by this process or another, closed, or left by `kill -9`."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import apsw

from app.domain.changes import Rules
from app.store.opening import open_store
from app.store.port import Store
from tests.support.examples import NOW, created, interrupted

KILLED_AT_RENAME: Final = """
import os, sys
from app.domain.changes import Rules
from app.store.opening import open_store
left = int(sys.argv[2])
def kill(event, _):
    global left
    if event == "os.rename":
        left -= 1
        if left < 0:
            os._exit(9)
sys.addaudithook(kill)
open_store(f"sqlite:///{sys.argv[1]}", Rules())
"""
"""A program that opens the store, and is killed at a rename: its path, and the number of renames before."""
_HOLDER: Final = """
import sys
from app.domain.changes import Rules
from app.store.opening import open_store
from tests.support.examples import NOW, created, interrupted
store = open_store(f"sqlite:///{sys.argv[1]}", Rules()).store
store.apply([created(), interrupted()], NOW)
print("ready", flush=True)
sys.stdin.read()
"""


def opened(path: Path) -> Store:
    return open_store(f"sqlite:///{path}", Rules()).store


def used(path: Path) -> None:
    """Leave a store with a counted interruption, closed."""
    store = opened(path)
    store.apply([created(), interrupted()], NOW)
    store.close()


def contents(folder: Path, *, but: str = "") -> dict[str, bytes]:
    """Return the bytes of every file, without the file with the suffix `but`."""
    files = {file.name: file for file in folder.iterdir()}
    return {name: b"" if but and name.endswith(but) else file.read_bytes() for name, file in files.items()}


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start another process that has the store open, with content in it."""
    command = [sys.executable, "-c", _HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def killed(path: Path) -> None:
    """Leave a store as after `kill -9`: with a WAL that was not recovered."""
    with holder(path):
        pass


def overwrite_page(path: Path, name: str) -> None:
    """Overwrite the last page of a table or an index of a store that is not in use; its WAL becomes empty."""
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        page_bytes = int(str(connection.execute("PRAGMA page_size").get))
        page = int(str(connection.execute("SELECT max(pageno) FROM dbstat WHERE name = ?", (name,)).get))
    with path.open("r+b") as file:
        file.seek((page - 1) * page_bytes)
        file.write(b"\xa5" * page_bytes)
