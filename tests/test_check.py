"""The command `check`: a line per check, and no changes."""

import os
import re
import shutil
import socket
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, redirect_stderr, redirect_stdout
from http import HTTPStatus
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from app.check import run_check
from app.domain.changes import Rules
from app.settings import load_settings
from app.store.opening import open_store
from tests.support.compute_api import (
    ACCESS_NOT_CONFIGURED,
    FORBIDDEN,
    ComputeApi,
    Hold,
    ManyInstances,
    ManyOperations,
)
from tests.support.entries import insert, preempted
from tests.support.process import LOOPBACK, Process, free_port
from tests.support.program import (
    COMMAND,
    ENVIRONMENT,
    ExporterProcess,
    PushCredentials,
    configuration,
    issued_credentials,
    run,
    written,
)
from tests.support.redis import RedisServer
from tests.support.requirement import require

pytestmark = pytest.mark.usefixtures("quick_programs")


@pytest.fixture(scope="module")
def credentials() -> Iterator[PushCredentials]:
    with issued_credentials() as credentials:
        yield credentials


def made_store(path: Path) -> None:
    open_store(f"sqlite:///{path}", Rules()).store.close()


def listed(directory: Path) -> dict[str, bytes]:
    """Return the content of every file below a directory."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def checked(
    directory: Path, configured: Mapping[str, Any], *, by: Sequence[str] = (), page_seconds: float = 60
) -> tuple[int, dict[str, tuple[str, str]]]:
    """Return the exit code, and the last grade and finding of each subject. No file may change."""
    path = written(directory, configured)
    before = listed(directory)
    if by:
        done = run("check", "--config", path, by=by)
        code, output, errors = done.returncode, done.stdout, done.stderr
    else:
        code, output, errors = checked_here(path, page_seconds)
    assert errors == ""
    assert listed(directory) == before
    return code, findings(output)


def checked_here(path: Path, page_seconds: float) -> tuple[int, str, str]:
    """Run the check in the process of the test, which is faster; return its exit code and output."""
    with (
        pytest.MonkeyPatch.context() as environment,
        redirect_stdout(StringIO()) as output,
        redirect_stderr(StringIO()) as errors,
    ):
        for name, value in ENVIRONMENT.items():
            environment.setenv(name, value)
        settings, warnings = load_settings(path, os.environ)
        code = run_check(settings, path, warnings, page_seconds=page_seconds)
    return code, output.getvalue(), errors.getvalue()


def findings(output: str) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for line in output.splitlines():
        parts = re.fullmatch(r"(ok|warn|FAIL) +(.+?): (.+)", line)
        assert parts, line
        found[parts[2]] = (parts[1], parts[3])
    return found


def test_without_a_problem_every_line_is_ok(tmp_path: Path, credentials: PushCredentials) -> None:
    code, found = checked(tmp_path, configuration(tmp_path, credentials))

    assert code == 0
    assert found == {
        "configuration": ("ok", f"{tmp_path / 'config.yaml'} and environment"),
        "store": ("ok", f"there is no store yet; it can be created in {tmp_path}"),
        "certificates": ("ok", f"1 key at {credentials.server.url}"),
        "fleet": ("ok", "not listed, because inventory.enabled is false"),
    }


def test_a_warning_is_printed_as_one_and_does_not_fail(tmp_path: Path) -> None:
    code, found = checked(tmp_path, configuration(tmp_path, None))

    assert code == 0
    assert found["configuration"][0] == "warn"
    assert "NOT AUTHENTICATED" in found["configuration"][1]
    assert found["certificates"] == ("ok", "not needed, because pushes are not authenticated")


def test_a_wrong_configuration_is_an_error_and_not_a_finding(tmp_path: Path) -> None:
    configured = configuration(tmp_path, None, server={"port": "eighty"})

    done = run("check", "--config", written(tmp_path, configured))

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"spot-interruption-exporter: {tmp_path / 'config.yaml'}: server.port: ")


# Certificates


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(HTTPStatus.OK, b"<html>welcome to the hotel</html>", id="a-page"),
        pytest.param(HTTPStatus.OK, b"{}", id="no-certificate"),
        pytest.param(HTTPStatus.OK, b'{"a": "-----BEGIN CERTIFICATE-----\\nqq==\\n"}', id="no-pem"),
        pytest.param(HTTPStatus.BAD_GATEWAY, None, id="an-error"),
    ],
)
def test_an_endpoint_without_certificates_fails(
    tmp_path: Path, credentials: PushCredentials, status: HTTPStatus, body: bytes | None
) -> None:
    credentials.server.status, credentials.server.body = status, body
    try:
        code, found = checked(tmp_path, configuration(tmp_path, credentials))
    finally:
        credentials.server.status, credentials.server.body = HTTPStatus.OK, None

    assert code == 1
    assert found["certificates"][0] == "FAIL"
    assert found["store"][0] == "ok"


def test_an_endpoint_that_does_not_answer_fails(tmp_path: Path, credentials: PushCredentials) -> None:
    url = f"http://{LOOPBACK}:{free_port()}/certs"

    code, found = checked(tmp_path, configuration(tmp_path, credentials, pubsub={"certs_url": url}))

    assert code == 1
    assert found["certificates"][0] == "FAIL"


# The store


def a_text(path: Path) -> str:
    path.write_text("shopping list: tea, biscuits\n" * 300)
    return "not a file of this exporter"


def another_programs_database(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE biscuits (name)")
        connection.commit()
    return "not a file of this exporter"


def one_whose_pages_are_nonsense(path: Path) -> str:
    made_store(path)
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    return "damaged"


def one_whose_every_byte_is_nonsense(path: Path) -> str:
    made_store(path)
    path.write_bytes(b"\xa5" * path.stat().st_size)
    return "damaged"


def a_newer_schema(path: Path) -> str:
    made_store(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    return "schema 99"


def a_folder(path: Path) -> str:
    path.mkdir()
    return "is a folder and not a regular file"


@pytest.mark.parametrize(
    "make",
    [
        a_text,
        another_programs_database,
        one_whose_pages_are_nonsense,
        one_whose_every_byte_is_nonsense,
        a_newer_schema,
        a_folder,
    ],
)
def test_a_store_with_which_it_could_not_start_fails(
    tmp_path: Path, credentials: PushCredentials, make: Callable[[Path], str]
) -> None:
    reason = make(tmp_path / "exporter.db")

    code, found = checked(tmp_path, configuration(tmp_path, credentials))

    assert code == 1
    assert found["store"][0] == "FAIL"
    assert reason in found["store"][1]
    assert found["certificates"][0] == "ok"


def test_a_folder_that_is_missing_fails(tmp_path: Path, credentials: PushCredentials) -> None:
    url = f"sqlite:///{tmp_path}/nowhere/exporter.db"

    code, found = checked(tmp_path, configuration(tmp_path, credentials, store={"url": url}))

    assert code == 1
    assert found["store"] == (
        "FAIL",
        f"the folder {tmp_path}/nowhere does not exist; create it, or change store.url",
    )


def bound_by_permissions() -> list[str]:
    """Return a command prefix that makes file permissions apply to root too."""
    if os.geteuid():
        return []
    setpriv = require("setpriv of util-linux", shutil.which("setpriv"))
    return [setpriv, "--bounding-set=-dac_override,-dac_read_search"]


NOT_WRITABLE = "the exporter may not write to the folder {}; correct its owner or its permissions"


def test_a_folder_that_may_not_be_written_fails(tmp_path: Path, credentials: PushCredentials) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(0o555)
    configured = configuration(tmp_path, credentials, store={"url": f"sqlite:///{folder}/exporter.db"})

    code, found = checked(tmp_path, configured, by=bound_by_permissions())

    assert code == 1
    assert found["store"] == ("FAIL", NOT_WRITABLE.format(folder))
    assert found["certificates"][0] == "ok"


def test_a_store_whose_folder_may_not_be_written_fails_and_cannot_be_opened(
    tmp_path: Path, credentials: PushCredentials
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "exporter.db"
    made_store(path)
    folder.chmod(0o555)
    configured = configuration(tmp_path, credentials, store={"url": f"sqlite:///{path}"})

    code, found = checked(tmp_path, configured, by=bound_by_permissions())
    done = run("--config", written(tmp_path, configured), by=bound_by_permissions())

    assert code == done.returncode == 1
    assert found["store"] == ("FAIL", NOT_WRITABLE.format(folder))
    start = f"the store {path} cannot be opened: {NOT_WRITABLE.format(folder)} "
    assert done.stderr.splitlines()[-1].removeprefix("spot-interruption-exporter: ").startswith(start)


@pytest.mark.parametrize("suffix", ["", ".lock", "-wal", "-shm"], ids=["file", "lock", "wal", "index"])
@pytest.mark.parametrize("mode", [0o444, 0o000], ids=["not-written", "not-read"])
def test_a_store_with_a_file_that_may_not_be_used_fails_and_cannot_be_opened(
    tmp_path: Path, credentials: PushCredentials, mode: int, suffix: str
) -> None:
    path = tmp_path / "exporter.db"
    made_store(path)
    forbidden = Path(f"{path}{suffix}")
    forbidden.touch()
    forbidden.chmod(mode)
    configured = written(tmp_path, configuration(tmp_path, credentials))

    check, start = (
        run(*command, "--config", configured, by=bound_by_permissions()) for command in (["check"], [])
    )

    assert check.returncode == start.returncode == 1
    reason = f"the exporter may not read and write {forbidden}; correct its owner or its permissions"
    assert findings(check.stdout)["store"] == ("FAIL", reason)
    assert start.stderr.splitlines()[-1] == f"spot-interruption-exporter: {reason}"


def test_a_redis_that_may_lose_what_it_acknowledged_is_a_warning(
    tmp_path: Path, credentials: PushCredentials
) -> None:
    with RedisServer(tmp_path / "redis", "--appendonly", "no") as server:
        configured = configuration(tmp_path, credentials, store={"url": server.url, "replica": "exporter-0"})
        done = run("check", "--config", written(tmp_path, configured))

    assert done.returncode == 0
    assert [line[:17] for line in done.stdout.splitlines() if " store: " in line] == [
        "ok    store: redi",
        "warn  store: redi",
    ]


# The fleet


@pytest.fixture
def api() -> Iterator[ComputeApi]:
    with ComputeApi() as api:
        yield api


def naming(api: ComputeApi | None, *projects: str) -> dict[str, Any]:
    """Return the sections of a configuration with projects to list."""
    inventory = {"enabled": True} | ({} if api is None else {"endpoint": api.url})
    return {"projects": list(projects), "inventory": inventory}


def test_one_page_of_each_project_is_listed(tmp_path: Path, api: ComputeApi) -> None:
    api.projects |= {"shop": ManyInstances(1250), "till": ManyInstances(3)}
    api.unreachables["till"] = ["projects/till/zones/us-east1-c"]
    configured = configuration(tmp_path, None) | naming(api, "shop", "till")

    code, found = checked(tmp_path, configured)

    assert code == 0
    assert found["fleet of project shop"] == ("ok", "500 instances on the first page")
    assert found["fleet of project till"] == (
        "warn",
        "3 instances on the first page; us-east1-c not reachable",
    )
    assert sorted((request.project, request.page) for request in api.requests) == [("shop", 1), ("till", 1)]


def test_a_project_that_fails_says_what_to_do_and_the_others_are_listed(
    tmp_path: Path, api: ComputeApi
) -> None:
    api.projects |= {"shop": ManyInstances(1), "till": ManyInstances(1), "bakery": ManyInstances(1)}
    api.fail(FORBIDDEN, project="shop")
    api.fail(ACCESS_NOT_CONFIGURED, project="till")
    configured = configuration(tmp_path, None) | naming(api, "shop", "till", "butcher", "bakery")

    code, found = checked(tmp_path, configured)

    assert code == 1
    assert {subject: well for subject, (well, _) in found.items() if subject.startswith("fleet")} == {
        "fleet of project shop": "FAIL",
        "fleet of project till": "FAIL",
        "fleet of project butcher": "FAIL",
        "fleet of project bakery": "ok",
    }
    assert "it needs the permission compute.instances.list" in found["fleet of project shop"][1]
    assert "enable compute.googleapis.com there" in found["fleet of project till"][1]
    assert "project butcher does not exist" in found["fleet of project butcher"][1]


def test_operations_that_cannot_be_read_are_a_warning(tmp_path: Path, api: ComputeApi) -> None:
    api.projects |= {"shop": ManyInstances(3), "till": ManyInstances(3)}
    api.operations["till"] = ManyOperations(2)
    api.fail(FORBIDDEN, project="shop", of="operations")

    code, found = checked(tmp_path, configuration(tmp_path, None) | naming(api, "shop", "till"))

    assert code == 0
    assert found["operations of project till"] == ("ok", "2 preemptions on the first page")
    assert found["operations of project shop"][0] == "warn"
    assert "compute.globalOperations.list" in found["operations of project shop"][1]


def test_it_lists_one_project_after_the_other_in_half_the_memory(tmp_path: Path, api: ComputeApi) -> None:
    hold = Hold()
    for project in ("shop", "till"):
        api.projects[project] = ManyInstances(500)
        api.fail(hold, project=project)
    path = written(tmp_path, configuration(tmp_path, None) | naming(api, "shop", "till"))
    with Process(
        [*COMMAND, "check", "--config", path],
        output=tmp_path / "output",
        ready=lambda: bool(api.requests),
        env=ENVIRONMENT,
    ) as check:
        tasks = Path(f"/proc/{check.pid}/task").glob("*/children")
        [child] = [child for task in tasks for child in task.read_text().split()]
        limits = Path(f"/proc/{child}/limits").read_text()
        hold.until.set()

        assert check.wait() == 0
    assert re.search(rf"Max data size +{128 << 20} ", limits)
    assert [request.project for request in api.requests] == ["shop", "till"]


def test_without_an_answer_of_the_compute_api_it_fails(tmp_path: Path) -> None:
    configured = configuration(tmp_path, None) | naming(None, "shop")
    configured["inventory"]["endpoint"] = f"http://{LOOPBACK}:{free_port()}"

    code, found = checked(tmp_path, configured, page_seconds=0.05)

    assert code == 1
    assert found["fleet of project shop"][0] == "FAIL"
    assert "is unavailable for project shop" in found["fleet of project shop"][1]


def test_without_a_project_no_fleet_is_listed(tmp_path: Path) -> None:
    code, found = checked(tmp_path, configuration(tmp_path, None) | naming(None))

    assert code == 0
    assert found["fleet"] == ("ok", "not listed, because no project is named")


# Beside a live exporter


def test_beside_a_live_exporter_it_works_and_changes_nothing(
    tmp_path: Path, credentials: PushCredentials
) -> None:
    with ExporterProcess(tmp_path, credentials) as exporter:
        exporter.push(insert())
        exporter.push(preempted())
        before = listed(tmp_path)

        done = run("check", "--config", tmp_path / "config.yaml")

        assert done.returncode == 0
        assert findings(done.stdout)["store"] == (
            "ok",
            f"{exporter.store} holds 1 instance and 1 interruption",
        )
        after = listed(tmp_path)
        # The index of the write-ahead log is memory that its readers share: each marks there what it reads.
        assert {name: after[name] for name in after if not name.endswith("-shm")} == {
            name: before[name] for name in before if not name.endswith("-shm")
        }
        assert after.keys() == before.keys()
        assert exporter.outcome(preempted()) == "duplicate"
        assert exporter.outcome(preempted(operation="systemevent-2")) == "counted"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_store_of_a_stopped_exporter_is_inspected_and_not_changed(
    tmp_path: Path, credentials: PushCredentials, end: str
) -> None:
    with ExporterProcess(tmp_path, credentials) as exporter:
        exporter.push(insert())
        exporter.push(preempted())
        getattr(exporter.process, end)()
        # With `kill` what was committed is in the write-ahead log alone.
        assert exporter.store.with_name("exporter.db-wal").exists() is (end == "kill")

        code, found = checked(tmp_path, exporter.configured)

        assert code == 0
        assert found["store"] == ("ok", f"{exporter.store} holds 1 instance and 1 interruption")
        exporter.process.start()
        assert exporter.interruptions("tills") == 1


def test_a_port_in_use_is_not_an_obstacle(tmp_path: Path, credentials: PushCredentials) -> None:
    # It would be for a second exporter; `check` is for beside the first one.
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        code, _ = checked(tmp_path, configuration(tmp_path, credentials, server={"port": port}))

    assert code == 0
