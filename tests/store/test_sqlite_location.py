"""The store file is the file to which a path leads. Links are followed, other nodes are left alone."""

import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest

from app.domain.changes import Rules
from app.domain.outcomes import Duplicate
from app.errors import StartError
from app.store.opening import open_store
from app.store.sqlite.damage import inspect_file
from app.store.sqlite.file import SQLiteFile
from tests.support.examples import NOW, interrupted
from tests.support.requirement import require
from tests.support.sqlite_files import opened, used

# links


def link(path: Path, target: str) -> str:
    path.symlink_to(target)
    return str(path)


PATHS: Final[dict[str, Callable[[Path], str]]] = {
    "absolute": lambda folder: link(folder / "data/store.db", f"{folder}/disk/store.db"),
    "relative": lambda folder: link(folder / "data/store.db", "../disk/store.db"),
    "chain": lambda folder: link(folder / "data/first", link(folder / "data/second", "../disk/store.db")),
    "folder": lambda folder: link(folder / "data/folder", "../disk") + "/store.db",
    "beyond": lambda folder: link(folder / "data/folder", "../disk/inner") + "/../store.db",
    "dots": lambda folder: f"{folder}/data/../disk/store.db",
    "working-directory": lambda _: "disk/store.db",
}
"""Makes a path that leads to `disk/store.db` in the folder, and gives it."""
paths = pytest.mark.parametrize("path_in", PATHS.values(), ids=PATHS.keys())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "disk/inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def nodes(folder: Path) -> dict[str, tuple[int, str]]:
    """Every node below the folder, with its kind, and its target if it is a link."""
    return {
        str(path.relative_to(folder)): (
            stat.S_IFMT(path.lstat().st_mode),
            str(path.readlink()) if path.is_symlink() else "",
        )
        for path in folder.rglob("*")
    }


@paths
@pytest.mark.parametrize("exists", [True, False], ids=["there", "to-be-made"])
def test_everything_of_a_store_is_where_the_path_leads(
    folder: Path, path_in: Callable[[Path], str], *, exists: bool
) -> None:
    path = path_in(folder)
    before = nodes(folder)
    if exists:
        used(folder / "disk/store.db")

    store = opened(Path(path))
    store.apply([interrupted()], NOW)
    during = nodes(folder)
    store.close()

    made = {f"disk/store.db{suffix}": (stat.S_IFREG, "") for suffix in ("", ".lock", "-wal", "-shm")}
    assert during == before | made
    again = opened(folder / "disk/store.db")
    assert isinstance(again.apply([interrupted()], NOW).outcomes[0], Duplicate)
    again.close()


@paths
def test_every_path_to_a_file_meets_the_same_lock(folder: Path, path_in: Callable[[Path], str]) -> None:
    path = path_in(folder)
    for first, second in ((folder / "disk/store.db", path), (path, folder / "disk/store.db")):
        store = SQLiteFile.open(str(first))
        with pytest.raises(StartError, match=r"disk/store\.db\b.* is in use .* its lock file"):
            SQLiteFile.open(str(second), lock_seconds=0)
        store.release()


@paths
def test_inspecting_follows_the_path(folder: Path, path_in: Callable[[Path], str]) -> None:
    path = path_in(folder)
    assert inspect_file(path) == f"there is no store yet; it can be created in {folder}/disk"

    used(folder / "disk/store.db")

    assert "holds 1 instance and 1 interruption" in inspect_file(path)


def test_a_damaged_file_is_moved_aside_where_it_is_and_its_link_stays(folder: Path) -> None:
    path = link(folder / "data/store.db", "../disk/store.db")
    used(folder / "disk/store.db")
    (folder / "disk/store.db").write_text("a diary")

    start = open_store(f"sqlite:///{path}", Rules())
    start.store.close()

    assert start.moved_aside_to is not None
    assert start.moved_aside_to.parent == folder / "disk"
    assert start.moved_aside_to.read_text() == "a diary"
    assert [file.name for file in (folder / "data").iterdir()] == ["store.db"]
    assert Path(path).is_symlink()


LOOKS: Final[dict[str, Callable[[Path], object]]] = {
    "open": opened,
    "check": lambda path: inspect_file(str(path)),
}
looks = pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS.keys())


@looks
def test_the_missing_folder_of_a_link_s_target_is_named(folder: Path, look: Callable[[Path], object]) -> None:
    path = link(folder / "data/store.db", "../nowhere/store.db")

    with pytest.raises(StartError, match=f"the folder {folder}/nowhere does not exist"):
        look(Path(path))


# what is not a file of one name


def listener(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def device(path: Path) -> None:
    """A device like /dev/null."""
    with suppress(PermissionError):
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    require("a kernel that lets us make a device", path.exists())


def second_name(path: Path) -> None:
    used(path)
    path.with_name("other.db").hardlink_to(path)


def loop(path: Path) -> None:
    path.symlink_to(path)


OTHERS: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "folder": (Path.mkdir, "is a folder and not a regular file, and was left alone; "),
    "pipe": (os.mkfifo, "is a named pipe and not a regular file, and was left alone; "),
    "socket": (listener, "is a socket and not a regular file, and was left alone; "),
    "device": (device, "is a character device and not a regular file, and was left alone; "),
    "loop": (loop, "is a symbolic link and not a regular file, and was left alone; "),
    "hard-link": (second_name, "has 2 hard links, and was left alone, "),
}
others = pytest.mark.parametrize(("make", "reason"), OTHERS.values(), ids=OTHERS.keys())


@looks
@others
@pytest.mark.parametrize("linked", [False, True], ids=["itself", "by-a-link"])
def test_a_path_that_is_not_a_file_of_one_name_is_left_alone(
    folder: Path,
    look: Callable[[Path], object],
    make: Callable[[Path], object],
    reason: str,
    *,
    linked: bool,
) -> None:
    path = folder / "disk/store.db"
    make(path)
    (folder / "disk/store.db.lock").unlink(missing_ok=True)
    named = Path(link(folder / "data/store.db", "../disk/store.db")) if linked else path
    before = nodes(folder)

    with pytest.raises(StartError) as refused:
        look(named)

    assert f"{path}) {reason}" in str(refused.value) if linked else f"{path} {reason}" in str(refused.value)
    assert str(named) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert nodes(folder) == before


@looks
@pytest.mark.parametrize("suffix", [".lock", "-wal", "-shm", "-journal"])
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        pytest.param(Path.mkdir, "a folder", id="folder"),
        pytest.param(os.mkfifo, "a named pipe", id="pipe"),
        pytest.param(lambda path: path.symlink_to("elsewhere"), "a symbolic link", id="link"),
    ],
)
def test_a_node_beside_the_store_that_is_not_a_file_is_named_and_left_alone(
    folder: Path, look: Callable[[Path], object], suffix: str, make: Callable[[Path], object], kind: str
) -> None:
    path = folder / "disk/store.db"
    used(path)
    beside = Path(f"{path}{suffix}")
    beside.unlink(missing_ok=True)
    make(beside)
    before = nodes(folder)

    with pytest.raises(StartError, match=f"{beside} is {kind} and not a regular file; move it away"):
        look(path)

    assert nodes(folder) == before
