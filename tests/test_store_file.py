"""The file of the store in operation: links, second names, and a file that is lost while in use."""

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.support.entries import insert, preempted
from tests.support.program import ExporterProcess, configuration, run, written
from tests.support.sqlite_files import used

pytestmark = pytest.mark.usefixtures("quick_programs")

PROGRAM: Final = "spot-interruption-exporter: "


def test_a_store_behind_a_link_is_written_through_it_and_survives_restarts(tmp_path: Path) -> None:
    for name in ("data", "disk"):
        (tmp_path / name).mkdir()
    path = tmp_path / "data/store.db"
    path.symlink_to("../disk/store.db")
    with ExporterProcess(tmp_path, store={"url": f"sqlite:///{path}"}) as exporter:
        exporter.push(insert())
        assert exporter.outcome(preempted()) == "counted"
        exporter.process.kill()
        exporter.process.start()
        assert exporter.outcome(preempted()) == "duplicate"
        exporter.process.stop()

    assert path.readlink() == Path("../disk/store.db")
    assert [file.name for file in (tmp_path / "data").iterdir()] == ["store.db"]
    assert sorted(file.name for file in (tmp_path / "disk").iterdir()) == ["store.db", "store.db.lock"]


def second_name(path: Path) -> None:
    used(path)
    path.with_name("other.db").hardlink_to(path)
    Path(f"{path}.lock").unlink()


def diary(path: Path) -> None:
    path.write_text("a diary")


@pytest.mark.parametrize(
    ("make", "what"),
    [
        pytest.param(Path.mkdir, "is a folder and not a regular file", id="folder"),
        pytest.param(os.mkfifo, "is a named pipe and not a regular file", id="pipe"),
        pytest.param(second_name, "has 2 hard links", id="hard-link"),
        pytest.param(diary, "is not a file of this exporter", id="text"),
    ],
)
def test_a_path_that_cannot_be_the_store_ends_the_start_and_is_left_alone(
    tmp_path: Path, make: Callable[[Path], object], what: str
) -> None:
    config = written(tmp_path, configuration(tmp_path, None))
    path = tmp_path / "exporter.db"
    make(path)
    before = sorted(tmp_path.iterdir())

    done = run("--config", config)
    looked = run("check", "--config", config)

    assert done.returncode == looked.returncode == 1
    *logged, line = done.stderr.splitlines()
    assert line.startswith(f"{PROGRAM}the store {path} {what}")
    assert {json.loads(line)["severity"] for line in logged} <= {"WARNING"}  # nobody authenticates here
    assert f"FAIL  store: the store {path} {what}" in looked.stdout
    assert sorted(tmp_path.iterdir()) == before


def deleted(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink()


def replaced(path: Path) -> None:
    used(path.with_name("backup.db"))
    path.with_name("backup.db").rename(path)


@pytest.mark.parametrize(
    ("lose", "what"),
    [(deleted, "was deleted or renamed while"), (replaced, "was replaced by another file while")],
)
def test_a_store_that_is_lost_while_it_is_in_use_ends_the_process(
    tmp_path: Path, lose: Callable[[Path], None], what: str
) -> None:
    with ExporterProcess(tmp_path) as exporter:
        exporter.push(insert())
        # Paused, because its periodic work could notice the loss and end it before `check` has looked.
        exporter.process.send(signal.SIGSTOP)
        lose(exporter.store)
        looked = run("check", "--config", tmp_path / "config.yaml")
        exporter.process.send(signal.SIGCONT)

        # The periodic work may have noticed it before, and ended the process.
        with suppress(httpx.ConnectError):
            assert exporter.reason(preempted()) == (503, "store_gone")
        assert exporter.process.wait() == 1

    *logged, last = exporter.process.text().splitlines()
    assert last.startswith(f"{PROGRAM}the store {exporter.store} {what}")
    [error] = [line for line in map(json.loads, logged) if line["severity"] == "ERROR"]
    assert last == f"{PROGRAM}{error['error']}"
    assert looked.returncode == 1
    assert f"FAIL  store: {exporter.store} was deleted or replaced under a running" in looked.stdout
