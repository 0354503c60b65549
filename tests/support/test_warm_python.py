"""The programs of a warm Python are like those of a real start, and live as long."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.process import Process, eventually
from tests.support.warm_python import Forked, warm_python

DESCRIBE: Final = """
import json, os, sys
described = {"arguments": sys.argv[1:], "variable": os.environ.get("VARIABLE"), "folder": os.getcwd()}
print(json.dumps({**described, "input": sys.stdin.read(), "real": sys.executable == sys.argv[1]}))
print("on stderr", file=sys.stderr)
sys.exit(7)
"""
WAIT: Final = """
import os, pathlib, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
signal.pause()
"""


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    with warm_python("json") as python:
        yield python


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the programs, which can be run with `-m` there."""
    (tmp_path / "describe.py").write_text(DESCRIBE)
    (tmp_path / "wait.py").write_text(WAIT)
    return tmp_path


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def written(path: Path) -> int:
    """Return the process id that the program has written."""
    return int(eventually(lambda: path.read_text() if path.exists() else "", within=30, what="it runs"))


def test_a_program_has_the_arguments_the_streams_and_the_status_of_a_real_start(
    python: str, folder: Path
) -> None:
    def described(by: str) -> tuple[dict[str, Any], str, int]:
        done = subprocess.run(
            [by, "-m", "describe", python, "--option"],
            cwd=folder,
            env={"VARIABLE": "a=b", "PYTHONPATH": str(folder)},
            input="given",
            capture_output=True,
            text=True,
            check=False,
        )
        return json.loads(done.stdout), done.stderr, done.returncode

    real, warm = described(sys.executable), described(python)

    assert (real[0].pop("real"), warm[0].pop("real")) == (False, True)
    assert warm == real
    assert warm[2] == 7


def test_code_that_is_not_a_module_gets_a_real_start(python: str) -> None:
    code = "import sys; print(sys.executable)"
    assert subprocess.check_output([python, "-c", code], text=True).strip() == sys.executable


def test_a_signal_reaches_the_program_of_a_starter(python: str, folder: Path) -> None:
    with subprocess.Popen([python, "-m", "wait", folder / "pid"], cwd=folder) as starter:
        assert written(folder / "pid") != starter.pid
        starter.send_signal(signal.SIGTERM)

        assert starter.wait() == 3


def test_a_program_ends_with_its_starter(python: str, folder: Path) -> None:
    with subprocess.Popen([python, "-m", "wait", folder / "pid"], cwd=folder) as starter:
        program = written(folder / "pid")
        starter.kill()

    eventually(lambda: not is_alive(program), within=30, what="the end of the program")


def test_a_program_ends_with_the_process_that_wanted_it(python: str, folder: Path) -> None:
    code = f"import subprocess; subprocess.run([{python!r}, '-m', 'wait', {str(folder / 'pid')!r}])"
    with subprocess.Popen([sys.executable, "-c", code], cwd=folder) as parent:
        program = written(folder / "pid")
        parent.kill()

    eventually(lambda: not is_alive(program), within=30, what="the end of the program")


def test_a_starter_ends_as_its_program_does(python: str, folder: Path) -> None:
    with subprocess.Popen([python, "-m", "wait", folder / "pid"], cwd=folder) as starter:
        os.kill(written(folder / "pid"), signal.SIGKILL)

        assert starter.wait() == -signal.SIGKILL


def test_a_process_with_a_warm_python_is_the_program_itself(
    python: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    path = folder / "pid"
    with Process([python, "-m", "wait", path], output=folder / "output", ready=path.exists) as process:
        assert written(path) == process.pid
        process.send(signal.SIGTERM)
        assert process.wait() == 3

        process.start()
        assert process.kill() == -signal.SIGKILL


def test_a_program_can_be_killed_with_its_group_from_the_start(
    python: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with Path(os.devnull).open("wb") as output:
        program = Forked([python, "-m", "wait", str(folder / "pid")], output=output.fileno(), env={})

    os.killpg(program.pid, signal.SIGKILL)

    assert program.wait() == -signal.SIGKILL
