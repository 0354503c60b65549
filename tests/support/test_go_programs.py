"""The programs that the tests build from Go modules: a stand-in for Go takes the place of the real one."""

import threading
from pathlib import Path

import pytest

from tests.support.go_programs import GoProgram, built

PROGRAM = GoProgram("example.com/tea", "v1.0.0", "h1:mint", "./cmd/teapot")
DOWNLOADED = """echo '{"Dir": "/", "Sum": "h1:mint"}' """


def install_go(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    download: str = DOWNLOADED,
    listing: str = "true",
    build: str = 'while [ "$1" != -o ]; do shift; done; echo teapot > "$2"',
) -> Path:
    """Put a `go` with these three commands first on PATH, and return the log of its calls."""
    log = folder / "calls"
    program = folder / "bin" / "go"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\necho $1 >> {log}\n"
        f"case $1 in\nmod) {download} ;;\nlist) {listing} ;;\nbuild) {build} ;;\nesac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    return log


def test_a_program_is_built_once_and_kept_in_the_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = install_go(tmp_path, monkeypatch)

    path = built(PROGRAM)

    assert path == tmp_path / "cache/spot-interruption-exporter/go/teapot-v1.0.0"
    assert path.read_text() == "teapot\n"
    assert built(PROGRAM) == path
    assert log.read_text().split() == ["mod", "list", "build"]


def test_two_at_the_same_time_build_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = install_go(tmp_path, monkeypatch)
    threads = [threading.Thread(target=built, args=(PROGRAM,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert log.read_text().split() == ["mod", "list", "build"]


def test_without_go_the_test_is_skipped_also_in_ci(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    with pytest.raises(pytest.skip.Exception, match="needs teapot from its Go module: Go is not here"):
        built(PROGRAM)


@pytest.mark.parametrize("step", ["download", "listing"])
def test_without_the_module_proxy_the_test_is_skipped_with_the_reason(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = "echo 'no proxy' >&2; exit 1"
    install_go(
        tmp_path,
        monkeypatch,
        download=failed if step == "download" else DOWNLOADED,
        listing=failed if step == "listing" else "true",
    )

    with pytest.raises(pytest.skip.Exception, match="no proxy"):
        built(PROGRAM)


def test_a_build_that_takes_too_long_is_a_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_go(tmp_path, monkeypatch, download="exec sleep 600")

    with pytest.raises(pytest.skip.Exception, match=r"not built within 0\.1 s"):
        built(PROGRAM, within=0.1)


def test_a_build_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_go(tmp_path, monkeypatch, build="echo 'undefined: tea' >&2; exit 1")

    with pytest.raises(AssertionError, match="undefined: tea"):
        built(PROGRAM)


def test_another_module_than_the_pinned_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_go(tmp_path, monkeypatch, download=DOWNLOADED.replace("mint", "nettle"))

    with pytest.raises(AssertionError, match="nettle"):
        built(PROGRAM)
