"""The locks on the store file: against a second process under any name, and in no way of SQLite's own."""

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from app.errors import StartError, StoreUnavailableError
from app.store.sqlite.file import SQLiteFile
from tests.support.examples import NAME, NOW, created, interrupted
from tests.support.process import eventually
from tests.support.requirement import require
from tests.support.sqlite_files import holder, opened, used

IN_USE: Final = "is in use by another process, which holds the file itself"
BY_ANOTHER_NAME: Final = """
import sys
from app.errors import StartError
from app.store.sqlite.file import SQLiteFile
try:
    SQLiteFile.open(sys.argv[1], lock_seconds=0)
except StartError as exc:
    print(exc)
"""
READ: Final = (
    "import sys, sqlite3; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM event_keys'); c.close()"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@contextmanager
def in_use(path: Path) -> Iterator[SQLiteFile]:
    file = SQLiteFile.open(str(path))
    yield file
    file.release()


def test_a_second_process_does_not_start_when_the_lock_file_was_deleted(path: Path) -> None:
    with holder(path):
        Path(f"{path}.lock").unlink()

        with pytest.raises(StartError, match=f"{path} {IN_USE}"):
            SQLiteFile.open(str(path), lock_seconds=0)

        assert not Path(f"{path}.lock").exists()


def test_a_second_process_does_not_start_on_another_mount_of_the_file(path: Path) -> None:
    other = path.with_name("other.db")
    other.touch()
    script = f"mount --bind '{path}' '{other}' && exec \"$@\""
    unshare = require("unshare of util-linux", shutil.which("unshare"))
    by = [unshare, "--map-root-user", "--mount", "bash", "-c", script, "bash"]
    with holder(path):
        if subprocess.run([*by, "true"], capture_output=True, check=False).returncode:
            require("a kernel that lets us mount a file", found=False)

        run = subprocess.run(
            [*by, sys.executable, "-c", BY_ANOTHER_NAME, str(other)],
            capture_output=True,
            text=True,
            check=True,
        )

    assert f"{other} {IN_USE}" in run.stdout
    assert not Path(f"{other}.lock").exists()


def test_kill_9_releases_the_lock_on_the_file(path: Path) -> None:
    with holder(path):
        pass
    Path(f"{path}.lock").unlink()

    SQLiteFile.open(str(path), lock_seconds=0).release()


def test_a_waiter_for_a_removed_lock_file_takes_the_next_file(path: Path) -> None:
    lock = Path(f"{path}.lock")
    opened: list[SQLiteFile] = []
    first = os.open(lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(first, fcntl.LOCK_EX)
    waiting = threading.Thread(target=lambda: opened.append(SQLiteFile.open(str(path), lock_seconds=60)))
    waiting.start()
    eventually(lambda: descriptors_of(lock) > 1, within=60, what="the second has opened the lock file")

    lock.unlink()
    os.close(first)
    waiting.join(60)

    with pytest.raises(StartError, match="which holds its lock file"):
        SQLiteFile.open(str(path), lock_seconds=0)
    opened[0].release()


def descriptors_of(path: Path) -> int:
    """The number of descriptors of the file in this process."""
    return sum(link.readlink() == path for link in Path("/proc/self/fd").iterdir() if link.is_symlink())


def test_a_lock_that_another_start_left_is_waited_for(path: Path) -> None:
    used(path)
    files: list[SQLiteFile] = []
    with in_use(path):
        Path(f"{path}.lock").unlink()
        waiting = threading.Thread(target=lambda: files.append(SQLiteFile.open(str(path), lock_seconds=60)))
        waiting.start()
        eventually(lambda: descriptors_of(path) > 1, within=60, what="the second has opened the file")
    waiting.join(60)

    files[0].release()


# SQLite's own locks


def test_an_outside_reader_does_not_end_the_wal_of_a_live_exporter(path: Path) -> None:
    # SQLite of another process removes a WAL when it closes the file and meets no lock of ours.
    store = opened(path)
    for number in range(3):
        store.apply([created(str(number), name=NAME._replace(instance=f"node-{number}"))], NOW)
    before = Path(f"{path}-wal").stat().st_ino

    subprocess.run([sys.executable, "-c", READ, str(path)], check=True)

    assert Path(f"{path}-wal").stat().st_ino == before
    assert store.apply([created(), interrupted()], NOW).counted
    store.close()


def test_a_reader_that_outlives_the_writer_keeps_the_locks_until_it_ends(path: Path) -> None:
    with in_use(path) as file, file.reading() as connection:
        file.release()
        with pytest.raises(StartError, match="is in use"):
            SQLiteFile.open(str(path), lock_seconds=0)
        assert connection.execute("SELECT count(*) FROM ledger").get == 0

    SQLiteFile.open(str(path), lock_seconds=0).release()


def test_a_closed_store_cannot_be_read(path: Path) -> None:
    with in_use(path) as file:
        pass

    with pytest.raises(StoreUnavailableError, match="closed"), file.reading():
        pass
