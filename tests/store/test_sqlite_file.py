"""The SQLite file itself: who may have it, what is done about damage, and what is left alone."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import apsw
import pytest

from app.domain.changes import Rules
from app.domain.outcomes import Duplicate
from app.errors import StartError, StoreCorruptError
from app.store.opening import inspect_store, open_store
from app.store.port import SLICE
from app.store.sqlite.damage import inspect_file
from app.store.sqlite.file import SQLiteFile
from app.store.sqlite.schema import EARLIER_APPLICATION_ID, MIGRATIONS
from tests.store.stories import MANY
from tests.support.docs import DOCS, blocks, rows
from tests.support.examples import NAME, NOW, OTHER_NAME, TILLS, created, interrupted
from tests.support.requirement import require
from tests.support.sqlite_files import KILLED_AT_RENAME, contents, holder, killed, opened, used

BACKUP: Final = re.compile(r"python -c \\\n  \"(.*C\('([^']+)'\)\.backup\('main', C\('([^']+)'\).*)\"")
FIRST_START: Final = """
import signal, sys
from app.domain.changes import Rules
from app.store.opening import open_store
from app.store.sqlite import backend
signal.setitimer(signal.ITIMER_REAL, float(sys.argv[2]))
open_store(f"sqlite:///{sys.argv[1]}", Rules())
signal.pause()
"""
FULL_DISK: Final = """
import resource, signal, sys
from app.domain.changes import Rules
from app.errors import StoreUnavailableError
from app.store.opening import open_store
from tests.support.examples import NOW
from tests.store.stories import MANY
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = open_store(f"sqlite:///{sys.argv[1]}", Rules()).store
store.apply(MANY[:10], NOW)
before = store.state()
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
refused = False
try:
    store.apply(MANY, NOW)
except StoreUnavailableError:
    refused = True
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert refused
assert store.state() == before
outcomes = store.apply(MANY, NOW).outcomes
print(len(outcomes), sum(row.created for row in store.state().totals.label_sets.values()))
store.close()
"""
NO_ROOM: Final = """
import sys
from pathlib import Path
from app.errors import StartError
from app.store.opening import inspect_store, open_store
from app.domain.changes import Rules
folder = Path(sys.argv[1])
url = f"sqlite:///{folder}/store.db"
def begin(): open_store(url, Rules()).store.close()
def fill(size):
    try:
        with (folder / "ballast").open("ab", buffering=0) as ballast:
            while True:
                ballast.write(bytes(size))
    except OSError:
        pass
if sys.argv[2] == "existing":
    begin()
fill(4096)
fill(1)
for use in (begin, lambda: inspect_store(url)):
    try:
        use()
    except StartError as exc:
        print(exc)
(folder / "ballast").unlink()
begin()
print(inspect_store(url))
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def on_a_small_disk(folder: Path) -> list[str]:
    """A prefix for a command: only for that command the folder is a disk of 6 MiB."""
    mount = ["bash", "-c", f"mount -t tmpfs -o size=6m tmpfs '{folder}' && exec \"$@\"", "bash"]
    for unshare in (["unshare", "--map-root-user"], ["unshare"], ["sudo", "-n", "unshare"]):
        command = [*unshare, "--mount", *mount]
        if not shutil.which(unshare[0]):
            continue
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            return command
    return require("a kernel that lets us mount a disk", list[str]())


# the lock


def test_a_second_process_does_not_start_and_names_the_file(path: Path) -> None:
    with holder(path), pytest.raises(StartError, match=f"{path} is in use"):
        SQLiteFile.open(str(path), lock_seconds=0)


def test_kill_9_releases_the_lock_and_loses_no_commit(path: Path) -> None:
    killed(path)

    store = opened(path)

    assert [type(outcome) for outcome in store.apply([created(), interrupted()], NOW).outcomes] == [
        Duplicate
    ] * 2
    store.close()


def test_close_releases_the_lock(path: Path) -> None:
    used(path)

    SQLiteFile.open(str(path), lock_seconds=0).release()


def test_a_start_that_fails_holds_no_lock(path: Path) -> None:
    path.write_text("a diary")
    for _ in range(2):
        with pytest.raises(StartError, match="not a file of this exporter"):
            SQLiteFile.open(str(path), lock_seconds=0)


# damage


def overwrite(path: Path, start: int, size: int) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xa5" * size)


DAMAGES: Final[dict[str, Callable[[Path], object]]] = {
    "pages": lambda path: overwrite(path, 4096, 8 * 4096),
    "header": lambda path: overwrite(path, 0, 4096),
    "name": lambda path: overwrite(path, 68, 4032),
    "text": lambda path: path.write_text("a diary"),
    "truncated": lambda path: os.truncate(path, 4096 + 17),
    "truncated-to-a-header": lambda path: os.truncate(path, 50),
    "empty": lambda path: os.truncate(path, 0),
}
damages = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())


@damages
def test_a_damaged_file_is_moved_aside_and_a_new_one_begun(
    path: Path, damage: Callable[[Path], object]
) -> None:
    used(path)
    damage(path)
    damaged = path.read_bytes()
    Path(f"{path}-wal").write_bytes(b"old WAL")
    Path(f"{path}-shm").write_bytes(b"old index")

    start = open_store(f"sqlite:///{path}", Rules())

    assert start.moved_aside_to is not None
    assert start.moved_aside_to.name.startswith("store.db.damaged-")
    moved = [Path(f"{start.moved_aside_to}{suffix}").read_bytes() for suffix in ("", "-wal", "-shm")]
    assert moved[:2] == [damaged, b"old WAL"]
    assert start.store.apply([created(), interrupted()], NOW).counted
    start.store.close()
    assert open_store(f"sqlite:///{path}", Rules()).moved_aside_to is None


@pytest.mark.parametrize("renames", range(5))
def test_a_kill_while_a_damaged_store_is_moved_leaves_no_database_without_its_wal(
    path: Path, renames: int
) -> None:
    used(path)
    path.write_bytes(b"damaged")
    Path(f"{path}-wal").write_bytes(b"newest commits")
    Path(f"{path}-shm").write_bytes(b"old index")

    command = [sys.executable, "-c", KILLED_AT_RENAME, str(path), str(renames)]
    assert subprocess.run(command, check=False).returncode == 9

    assert not path.exists() or Path(f"{path}-wal").read_bytes() == b"newest commits"
    store = opened(path)
    assert store.apply([interrupted()], NOW).pending == 1
    store.close()
    kept = {file.read_bytes() for file in path.parent.glob("*.damaged-*")}
    assert {b"damaged", b"newest commits"} <= kept


def test_two_damaged_files_of_one_second_are_both_kept(path: Path) -> None:
    for text in ("first", "second"):
        used(path)
        path.write_text(text)
        opened(path).close()

    aside = sorted(file.read_text() for file in path.parent.glob("*.damaged-*"))

    assert aside == ["first", "second"]


def test_a_deleted_file_is_not_a_damaged_file(path: Path) -> None:
    used(path)
    path.unlink()

    start = open_store(f"sqlite:///{path}", Rules())

    assert start.moved_aside_to is None
    assert start.store.apply([interrupted()], NOW).pending == 1
    start.store.close()


def test_a_wal_without_its_file_is_never_read_into_a_new_one(path: Path) -> None:
    killed(path)
    path.unlink()

    start = open_store(f"sqlite:///{path}", Rules())

    assert start.moved_aside_to is not None
    assert Path(f"{start.moved_aside_to}-wal").exists()
    assert start.store.apply([interrupted()], NOW).pending == 1
    start.store.close()


def test_a_backup_without_its_lock_file_is_ours(path: Path) -> None:
    used(path)
    Path(f"{path}.lock").unlink()

    store = opened(path)

    assert isinstance(store.apply([interrupted()], NOW).outcomes[0], Duplicate)
    store.close()


def test_the_documented_backup_of_a_store_in_use_has_what_was_committed(path: Path, tmp_path: Path) -> None:
    store = opened(path)
    store.apply([created(), *MANY, interrupted()], NOW)

    backup_path = tmp_path / "backup.db"
    command = BACKUP.search((DOCS / "operations.md").read_text())
    assert command is not None
    code, there, here = command.groups()
    code = code.replace(there, str(backup_path)).replace(here, str(path))
    subprocess.run([sys.executable, "-c", code], check=True)
    store.apply([created("later", name=OTHER_NAME)], NOW)
    before = store.state().totals
    store.close()

    assert f"{len(MANY) + 1} instances and 1 interruption" in inspect_file(str(backup_path))
    backup = opened(backup_path)
    assert isinstance(backup.apply([interrupted()], NOW).outcomes[0], Duplicate)
    clusters = backup.state().totals.clusters
    assert {name: row.interruptions for name, row in clusters.items()} == {
        name: row.interruptions for name, row in before.clusters.items()
    }
    backup.close()


def test_damage_met_while_running_is_distinguished_from_absence(path: Path) -> None:
    store = opened(path)
    for start in range(0, len(MANY), SLICE):
        store.apply(MANY[start : start + SLICE], NOW)
    store.close()
    store = opened(path)
    store.state()
    overwrite(path, 4096, path.stat().st_size - 4096)

    with pytest.raises(StoreCorruptError):
        store.apply(MANY, NOW)

    store.close()


# what is not ours


def foreign_database(path: Path) -> None:
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute("PRAGMA application_id = 7; CREATE TABLE diary (entry TEXT)")


def foreign_in_our_place(path: Path) -> None:
    used(path)
    path.unlink()
    foreign_database(path)


def earlier_database(path: Path) -> None:
    used(path)
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(f"PRAGMA application_id = {EARLIER_APPLICATION_ID}; PRAGMA user_version = 4")


def newer_database(path: Path) -> None:
    used(path)
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")


def newer_database_after_kill_9(path: Path) -> None:
    newer_database(path)
    script = (
        "import os, signal, sys, apsw\n"
        "connection = apsw.Connection(sys.argv[1])\n"
        "connection.execute('DELETE FROM event_keys')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert Path(f"{path}-wal").stat().st_size


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda path: path.write_text("a diary"), "not a file of this exporter", id="text"),
        pytest.param(lambda path: path.write_text("x"), "not a file of this exporter", id="one-byte"),
        pytest.param(foreign_database, "not a file of this exporter", id="another-database"),
        pytest.param(earlier_database, "from a version before 1.0", id="earlier-version"),
        pytest.param(
            foreign_in_our_place,
            "not a file of this exporter",
            id="another-in-its-place",
        ),
        pytest.param(newer_database, "newer than this program", id="newer"),
        pytest.param(newer_database_after_kill_9, "newer than this program", id="newer-after-kill-9"),
    ],
)
@pytest.mark.parametrize("lock_file", [True, False], ids=["lock-file", "no-lock-file"])
def test_a_foreign_file_is_left_alone(
    path: Path, make: Callable[[Path], object], reason: str, *, lock_file: bool
) -> None:
    if lock_file:
        Path(f"{path}.lock").touch()
    make(path)
    if not lock_file:
        Path(f"{path}.lock").unlink(missing_ok=True)
    before = contents(path.parent, but="-shm")

    with pytest.raises(StartError, match=reason):
        opened(path)

    assert contents(path.parent, but="-shm") == before


@pytest.mark.parametrize("look", [opened, lambda path: inspect_file(str(path))], ids=["open", "inspect"])
def test_a_missing_folder_is_named(tmp_path: Path, look: Callable[[Path], object]) -> None:
    with pytest.raises(StartError, match="nowhere"):
        look(tmp_path / "nowhere" / "store.db")


def test_a_folder_is_not_a_store(path: Path) -> None:
    path.mkdir()

    with pytest.raises(StartError, match=str(path)):
        opened(path)


def test_another_scheme_is_refused() -> None:
    with pytest.raises(StartError, match="scheme"):
        open_store("mysql://x", Rules())
    with pytest.raises(StartError, match="scheme"):
        inspect_store("mysql://x")


# the schema


def test_migrations_are_applied_in_order_and_once(path: Path) -> None:
    used(path)
    later = (
        *MIGRATIONS,
        "CREATE TABLE notes (text); INSERT INTO notes VALUES ('2');",
        "INSERT INTO notes VALUES ('3');",
    )
    for _ in range(2):
        SQLiteFile.open(str(path), migrations=later).release()

    with closing(apsw.Connection(str(path))) as connection:
        assert [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY rowid")] == ["2", "3"]
        assert connection.execute("PRAGMA user_version").get == len(MIGRATIONS) + 2
        assert connection.execute("SELECT count(*) FROM ledger").get == 1


def test_a_migration_that_fails_leaves_the_version_before(path: Path) -> None:
    used(path)
    broken = (*MIGRATIONS, "CREATE TABLE notes (text);", "CREATE TABLE more (text); nonsense;")

    with pytest.raises(StartError, match="nonsense"):
        SQLiteFile.open(str(path), migrations=broken)

    with closing(apsw.Connection(str(path))) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
        assert connection.execute("PRAGMA user_version").get == len(MIGRATIONS) + 1
    assert "notes" in tables
    assert "more" not in tables


def test_the_architecture_page_lists_the_tables_and_their_keys(path: Path) -> None:
    used(path)

    with closing(apsw.Connection(str(path))) as connection:
        tables = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        ]
        keys = {
            table: [
                name
                for name, _ in connection.execute(
                    "SELECT name, pk FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", (table,)
                )
            ]
            for table in tables
        }
    described = {table.strip("`"): key for table, key, _ in rows("store-tables")}
    assert described.pop("label_sets") == "the six labels"
    assert len(keys.pop("label_sets")) == 6
    assert described == {table: ", ".join(f"`{name}`" for name in key) for table, key in keys.items()}


def test_the_query_of_the_architecture_page_finds_the_newest_interruption(path: Path) -> None:
    used(path)
    (query,) = blocks(DOCS / "architecture.md", "sql")

    with closing(apsw.Connection(str(path))) as connection:
        ((time, name, cluster),) = connection.execute(query.code)

    assert (time, name, cluster) == ("1970-01-01 00:16:40", NAME.path, TILLS.cluster)


def test_a_migration_is_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    used(path)
    with caplog.at_level("INFO"):
        SQLiteFile.open(str(path), migrations=(*MIGRATIONS, "CREATE TABLE notes (text);")).release()

    assert [record.message for record in caplog.records].count("the store is being migrated") == 1


@pytest.mark.parametrize("milliseconds", [0.1, 0.3, 1, 2, 3, 4, 5, 7, 10, 15, 20, 30])
def test_a_first_start_may_be_killed_at_any_moment(path: Path, milliseconds: float) -> None:
    # An alarm that nobody handles ends a process as suddenly as SIGKILL.
    run = subprocess.run(
        [sys.executable, "-c", FIRST_START, str(path), str(milliseconds / 1000)], check=False
    )
    assert run.returncode == -signal.SIGALRM

    start = open_store(f"sqlite:///{path}", Rules())
    assert start.store.apply([created(), interrupted()], NOW).counted
    start.store.close()

    start = open_store(f"sqlite:///{path}", Rules())
    assert start.moved_aside_to is None
    assert isinstance(start.store.apply([interrupted()], NOW).outcomes[0], Duplicate)
    start.store.close()


# looking


def test_inspecting_a_missing_store_says_that_it_could_be_created(path: Path) -> None:
    assert "can be created" in inspect_file(str(path))
    assert not list(path.parent.iterdir())


def test_inspecting_the_memory_store_says_what_that_means() -> None:
    assert "forgotten" in inspect_store("sqlite:///:memory:")


def empty(path: Path) -> None:
    path.touch()


def unfinished(path: Path) -> None:
    """A first start that ended before there was a schema."""
    SQLiteFile.open(str(path), migrations=()).release()


def copied(path: Path) -> None:
    killed(path)
    Path(f"{path}-shm").unlink()


def killed_before_the_index(path: Path) -> None:
    killed(path)
    Path(f"{path}-shm").write_bytes(bytes(32768))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        pytest.param(used, "holds 1 instance and 1 interruption", id="closed"),
        pytest.param(killed, "holds 1 instance and 1 interruption", id="after-kill-9"),
        pytest.param(copied, "the next start recovers it", id="copied-after-kill-9"),
        pytest.param(killed_before_the_index, "store.db", id="killed-before-the-index"),
        pytest.param(empty, "can be created", id="empty"),
        pytest.param(unfinished, "still empty", id="without-a-schema"),
    ],
)
def test_inspecting_changes_nothing(path: Path, make: Callable[[Path], object], text: str) -> None:
    make(path)
    before = contents(path.parent)

    assert text in inspect_store(f"sqlite:///{path}")
    assert contents(path.parent) == before
    opened(path).close()


def test_inspecting_works_beside_a_live_exporter(path: Path) -> None:
    with holder(path):
        before = contents(path.parent, but="-shm")

        assert "holds 1 instance and 1 interruption" in inspect_file(str(path))
        assert contents(path.parent, but="-shm") == before


@damages
def test_inspecting_a_damaged_store_reports_and_keeps_it(
    path: Path, damage: Callable[[Path], object]
) -> None:
    used(path)
    damage(path)
    before = contents(path.parent)

    with pytest.raises(StartError, match="moves it aside"):
        inspect_file(str(path))

    assert contents(path.parent) == before


@pytest.mark.parametrize("make", [foreign_database, newer_database], ids=["foreign", "newer"])
def test_inspecting_a_foreign_file_reports_it(path: Path, make: Callable[[Path], object]) -> None:
    make(path)

    with pytest.raises(StartError, match=r"not a file of this exporter|newer"):
        inspect_file(str(path))


# a full disk


def test_a_full_disk_takes_nothing_and_works_again_once_there_is_room(path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", FULL_DISK, str(path)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)

    assert run.stdout.split() == ["2000", "2000"]


@pytest.mark.parametrize("store", ["existing", "yet-to-be-made"])
def test_a_full_disk_is_reported_at_the_start_and_harms_no_store(tmp_path: Path, store: str) -> None:
    environment = f"PYTHONPATH={Path(__file__).parent.parent.parent}"
    command = ["env", environment, sys.executable, "-W", "error", "-c", NO_ROOM, str(tmp_path), store]
    run = subprocess.run([*on_a_small_disk(tmp_path), *command], check=True, capture_output=True, text=True)

    path, full = (
        re.escape(f"{tmp_path}/store.db"),
        re.escape(f"the disk of {tmp_path} is full: 0 KiB are free; make room, or enlarge the volume"),
    )
    started, looked, afterwards = run.stdout.splitlines()
    assert re.fullmatch(rf"the store {path} cannot be opened: {full} \(.+\)", started)
    assert re.fullmatch(full, looked)
    assert afterwards == f"{tmp_path}/store.db holds 0 instances and 0 interruptions"
