"""A store whose files are deleted, renamed or replaced while it is in use: nothing more is acknowledged."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import apsw
import pytest

from app.domain.changes import Rules
from app.domain.ledger import Query
from app.domain.outcomes import Duplicate, Pending
from app.errors import StartError, StoreGoneError, StoreUnavailableError
from app.store.opening import open_store
from app.store.port import OpenedStore
from app.store.sqlite.damage import inspect_file
from tests.support.examples import NOW, OTHER_NAME, created, interrupted
from tests.support.sqlite_files import holder, opened, used

PUSH: Final = [created("later", name=OTHER_NAME)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store's path in a folder of its own, through a link."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk-2").mkdir()
    (tmp_path / "link").symlink_to("disk")
    return tmp_path / "link/store.db"


@pytest.fixture
def start(path: Path) -> Iterator[OpenedStore]:
    """A living store that has counted an interruption."""
    start = open_store(f"sqlite:///{path}", Rules())
    start.store.apply([created(), interrupted()], NOW)
    yield start
    start.store.close()


def deleted(path: Path) -> None:
    path.unlink()


def deleted_with_its_wal(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()


def renamed(path: Path) -> None:
    path.rename(path.with_name("moved.db"))


def replaced(path: Path) -> None:
    used(path.with_name("backup.db"))
    path.with_name("backup.db").rename(path)


def moved_behind_a_link(path: Path) -> None:
    renamed(path)
    path.symlink_to("moved.db")


def folder_deleted(path: Path) -> None:
    shutil.rmtree(path.parent.resolve())


def folder_renamed(path: Path) -> None:
    path.parent.resolve().rename(path.parent.with_name("elsewhere"))


def link_changed(path: Path) -> None:
    path.parent.unlink()
    path.parent.symlink_to("disk-2")


def wal_deleted(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def wal_replaced(path: Path) -> None:
    shutil.copy(f"{path}-wal", path.with_name("copy"))
    path.with_name("copy").rename(f"{path}-wal")


def index_deleted(path: Path) -> None:
    Path(f"{path}-shm").unlink()


DATABASE: Final = [
    (deleted, "was deleted or renamed while"),
    (deleted_with_its_wal, "was deleted or renamed while"),
    (renamed, "was deleted or renamed while"),
    (replaced, "was replaced by another file while"),
    (moved_behind_a_link, "was replaced by another file while"),
    (folder_deleted, "was deleted or renamed while"),
    (folder_renamed, "was deleted or renamed while"),
    (link_changed, "no longer leads to"),
]
BESIDE: Final = [
    (wal_deleted, "store.db-wal was deleted or replaced while"),
    (wal_replaced, "store.db-wal was deleted or replaced while"),
    (index_deleted, "store.db-shm was deleted or replaced while"),
]
losses = pytest.mark.parametrize(
    ("lose", "what"), DATABASE + BESIDE, ids=[lose.__name__ for lose, _ in DATABASE + BESIDE]
)


@losses
def test_no_event_is_acknowledged_from_then_on(
    start: OpenedStore, path: Path, lose: Callable[[Path], None], what: str
) -> None:
    lose(path)

    for _ in range(2):
        with pytest.raises(StoreGoneError, match=what) as noticed:
            start.store.apply(PUSH, NOW)
        assert str(path) in str(noticed.value)


@losses
def test_the_work_of_each_minute_notices(
    start: OpenedStore, path: Path, lose: Callable[[Path], None], what: str
) -> None:
    lose(path)

    with pytest.raises(StoreGoneError, match=what):
        start.store.accrue_instance_seconds(NOW + 60)


@pytest.mark.parametrize(("lose", "what"), DATABASE, ids=[lose.__name__ for lose, _ in DATABASE])
def test_no_row_is_read_from_a_file_that_was_never_locked(
    start: OpenedStore, path: Path, lose: Callable[[Path], None], what: str
) -> None:
    lose(path)

    with pytest.raises(StoreUnavailableError, match=what):
        start.ledger.interruptions(Query())


@losses
def test_a_file_that_is_lost_is_not_made_again(
    start: OpenedStore, path: Path, lose: Callable[[Path], None], what: str
) -> None:
    lose(path)
    existed = path.exists()
    with pytest.raises(StoreGoneError, match=what):
        start.store.apply(PUSH, NOW)

    with pytest.raises(StoreGoneError, match=what):
        start.store.state()
    start.store.close()

    assert path.exists() == existed


def test_a_file_that_is_deleted_while_no_connection_has_it_is_not_made_again(
    start: OpenedStore, path: Path
) -> None:
    with closing(apsw.Connection(str(path))) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="locked"):
            start.store.apply(PUSH, NOW)
    path.unlink()

    with pytest.raises(StoreGoneError, match="was deleted"):
        start.store.apply(PUSH, NOW)

    assert not path.exists()


@pytest.mark.parametrize("lose", [lose for lose, _ in BESIDE])
def test_acknowledged_events_outlive_the_loss_of_the_wal(
    start: OpenedStore, path: Path, lose: Callable[[Path], None]
) -> None:
    lose(path)
    with pytest.raises(StoreGoneError):
        start.store.accrue_instance_seconds(NOW)
    start.store.close()

    assert_known(path)


@pytest.mark.parametrize("move", [renamed, moved_behind_a_link])
def test_a_file_that_is_moved_alone_gets_what_was_acknowledged(
    start: OpenedStore, path: Path, move: Callable[[Path], None]
) -> None:
    move(path)
    with pytest.raises(StoreGoneError):
        start.store.accrue_instance_seconds(NOW)
    start.store.close()

    assert_known(path.with_name("moved.db"))


def test_a_file_that_takes_the_store_s_place_is_not_mixed_with_its_wal(
    start: OpenedStore, path: Path
) -> None:
    # As a restored backup is put there without a stop. It is older: it knows nothing of what was counted.
    opened(path.with_name("backup.db")).close()
    path.with_name("backup.db").rename(path)
    backup = path.read_bytes()
    with pytest.raises(StoreGoneError):
        start.store.apply(PUSH, NOW)
    start.store.close()

    assert path.read_bytes() == backup
    again = open_store(f"sqlite:///{path}", Rules())
    assert again.moved_aside_to is None
    assert isinstance(again.store.apply([interrupted()], NOW).outcomes[0], Pending)
    again.store.close()


def assert_known(path: Path) -> None:
    again = open_store(f"sqlite:///{path}", Rules())
    assert again.moved_aside_to is None
    assert isinstance(again.store.apply([interrupted()], NOW).outcomes[0], Duplicate)
    again.store.close()


def test_a_path_that_cannot_be_looked_at_is_an_absence_that_may_pass(path: Path) -> None:
    # Permissions do not bind root: a path that is too long cannot be looked at either.
    start = open_store(f"sqlite:///{path}", Rules())
    start.store.state()
    target = path.parent.readlink()
    path.parent.unlink()
    path.parent.symlink_to("x" * 300)

    with pytest.raises(StoreUnavailableError, match="cannot be used") as away:
        start.store.apply([created(), interrupted()], NOW)
    assert not isinstance(away.value, StoreGoneError)

    path.parent.unlink()
    path.parent.symlink_to(target)
    assert isinstance(start.store.apply([interrupted()], NOW).outcomes[0], Duplicate)
    assert start.store.state().totals.clusters["tills"].interruptions == 1
    start.store.close()


# looking


@pytest.mark.parametrize("lose", [deleted, deleted_with_its_wal, renamed, replaced])
def test_inspecting_says_that_the_file_of_a_running_exporter_is_lost(
    path: Path, lose: Callable[[Path], None]
) -> None:
    with holder(path):
        lose(path)
        before = sorted(path.parent.iterdir())

        with pytest.raises(StartError, match="was deleted or replaced under a running exporter"):
            inspect_file(str(path))

        assert sorted(path.parent.iterdir()) == before
