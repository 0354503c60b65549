"""Programs that the tests build from their Go modules, because distributions do not have these versions.

https://go.dev/ref/mod
"""

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import pytest

_LIMIT_SECONDS: Final = 400
"""The time for a build, and for waiting for builds of other test processes. A test has 600 s in all.

promtool and vmalert-tool take four minutes of processor time on a machine that has compiled nothing before.
"""
_POLL_SECONDS: Final = 0.2


class GoProgram(NamedTuple):
    """A main package of a Go module. The checksum is the `h1:` of the module's zip file."""

    module: str
    version: str
    checksum: str
    package: str
    tags: str = ""


PROMTOOL: Final = GoProgram(
    "github.com/prometheus/prometheus",
    "v0.315.1",  # Prometheus 3.15.1
    "h1:ZXaNKyUO5szJhhw7gKiP6b2jpx1QkS0S3CI1R1bPqIA=",
    "./cmd/promtool",
    # Without the clients of all clouds, which would double the time of the build.
    tags="remove_all_sd",
)
PROMETHEUS: Final = PROMTOOL._replace(package="./cmd/prometheus")
VMALERT_TOOL: Final = GoProgram(
    "github.com/VictoriaMetrics/VictoriaMetrics",
    "v1.151.0",
    "h1:Svzb/7gPYbzmQnvLjab8h1Jl9olB76mokDE7ykvF/ro=",
    "./app/vmalert-tool",
)


def built(program: GoProgram, *, within: float = _LIMIT_SECONDS) -> Path:
    """Return the path of the program. It is built once, and kept in the user's cache folder.

    Skips the test, also if CI is set, if Go or a module cannot be had here, or if `within` seconds are not
    enough. Go keeps what it has compiled, so that the next build continues there.
    """
    deadline = time.monotonic() + within
    name = Path(program.package).name
    path = path_of(program)
    if path.exists():
        return path
    go = shutil.which("go")
    if go is None:
        _skip(name, "Go is not here")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(path.parent / "lock", deadline):
            if not path.exists():
                _build(program, go, path, deadline)
    except (subprocess.TimeoutExpired, TimeoutError):
        _skip(name, f"it was not built within {within:g} s; the next run continues the build")
    return path


def path_of(program: GoProgram) -> Path:
    """Return the path at which the program is, once it is built."""
    # A relative path is invalid there. https://specifications.freedesktop.org/basedir-spec/latest/
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = (cache if cache.is_absolute() else Path.home() / ".cache") / "spot-interruption-exporter" / "go"
    return folder / f"{Path(program.package).name}-{program.version}"


def _skip(name: str, reason: str) -> NoReturn:
    pytest.skip(f"needs {name} from its Go module: {reason}")


@contextmanager
def _locked(path: Path, deadline: float) -> Iterator[None]:
    """Hold the lock of all builds, so that two test processes do not compile the same packages."""
    with path.open("ab") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise TimeoutError from None
                time.sleep(_POLL_SECONDS)
            else:
                break
        yield


def _build(program: GoProgram, go: str, path: Path, deadline: float) -> None:
    # `go install` refuses modules with `replace`, as Prometheus has. So the build runs in its folder,
    # with the go.mod and go.sum of its project.
    module = _run([go, "mod", "download", "-json", f"{program.module}@{program.version}"], deadline)
    if module.returncode:
        _skip(path.name, json.loads(module.stdout or "{}").get("Error") or _last_line(module.stderr))
    found = json.loads(module.stdout)
    assert found["Sum"] == program.checksum, f"the checksum of {program.module} is {found['Sum']}"
    options = ["-mod=readonly", "-tags", program.tags]
    # This downloads the other modules. The build then needs no network, so its errors are real errors.
    listed = _run([go, "list", *options, "-deps", program.package], deadline, found["Dir"])
    if listed.returncode:
        _skip(path.name, _last_line(listed.stderr))
    unfinished = path.with_name(f"{path.name}.unfinished")
    command = [go, "build", *options, "-ldflags=-s -w", "-o", str(unfinished), program.package]
    done = _run(command, deadline, found["Dir"])
    assert done.returncode == 0, done.stderr
    unfinished.replace(path)


def _run(command: list[str], deadline: float, folder: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        check=False,
        cwd=folder,
        # No C compiler is needed, and no workspace is read.
        env=os.environ | {"CGO_ENABLED": "0", "GOWORK": "off"},
        text=True,
        timeout=max(0, deadline - time.monotonic()),
    )


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]
