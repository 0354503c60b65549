"""The command `serve`: exit codes, standard error, start and stop."""

import asyncio
import fcntl
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest

from app.domain.changes import Rules
from app.store.opening import open_store
from tests.support.compute_api import ComputeApi, Hold, ManyInstances
from tests.support.entries import JsonObject, insert, preempted
from tests.support.process import LOOPBACK, Process, answers, eventually, free_port
from tests.support.program import (
    COMMAND,
    ENVIRONMENT,
    ExporterProcess,
    PushCredentials,
    body_of,
    configuration,
    endpoint_of,
    issued_credentials,
    overridden,
    run,
    written,
)
from tests.support.sqlite_files import overwrite_page

pytestmark = pytest.mark.usefixtures("quick_programs")

PROGRAM = "spot-interruption-exporter: "


@pytest.fixture(scope="module")
def credentials() -> Iterator[PushCredentials]:
    with issued_credentials() as credentials:
        yield credentials


def quiet(directory: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with which only errors are logged."""
    return {**configuration(directory, None, **sections), "log_level": "error"}


def made_store(path: Path) -> None:
    open_store(f"sqlite:///{path}", Rules()).store.close()


# Configuration


def test_each_wrong_key_has_a_line_that_names_key_and_file_and_not_the_value(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "log_level: l0ud\nprometheus: {port: 8O90, colour: r3d}\npubsub: {audience: [[s3cret]]}\n"
    )

    done = run("--config", path)

    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [re.match(r"(.*?: .*?: \S+): ", line)[1] for line in lines] == [  # type: ignore[index]
        f"{PROGRAM}{path}: {key}"
        for key in (
            "log_level",
            "pubsub.audience.0",
            "pubsub.service_account_email",
            "prometheus.port",
            "prometheus.colour",
        )
    ]
    assert not re.search("l0ud|8O90|r3d|s3cret|Traceback", done.stderr)


def test_a_wrong_variable_is_named_in_place_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, configuration(tmp_path, None))

    done = run("serve", "--config", path, env={"SIE_SERVER__PORT": "eighty"})

    assert done.returncode == 2
    assert re.fullmatch(rf"{PROGRAM}SIE_SERVER__PORT: server\.port: .+\n", done.stderr)
    assert "eighty" not in done.stderr


@pytest.mark.parametrize("command", ["serve", "check"])
def test_a_file_that_is_named_but_missing_is_a_configuration_error(tmp_path: Path, command: str) -> None:
    missing = tmp_path / "nowhere.yaml"

    by_option = run(command, "--config", missing)
    by_variable = run(command, env={"CONFIG_PATH": str(missing)})

    line = f"{PROGRAM}{missing}: cannot be read: No such file or directory; correct --config or CONFIG_PATH\n"
    assert (by_option.returncode, by_option.stderr) == (2, line)
    assert (by_variable.returncode, by_variable.stderr) == (2, line)


def test_an_unknown_option_is_an_error_with_usage() -> None:
    done = run("--no-such-option")

    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_the_version_is_printed() -> None:
    done = run("--version")

    assert done.returncode == 0
    assert re.fullmatch(rf"{PROGRAM[:-2]} \d+\.\d+\.\d+\S*\n", done.stdout)


# What keeps it from starting


@contextmanager
def the_main_port_is_taken(directory: Path) -> Iterator[tuple[dict[str, Any], str]]:
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        configured = quiet(directory, server={"port": port})
        advice = "change server.port or server.host"
        yield configured, f"cannot listen on {LOOPBACK} port {port}: Address already in use; {advice}"


@contextmanager
def the_metrics_port_is_taken(directory: Path) -> Iterator[tuple[dict[str, Any], str]]:
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        configured = quiet(directory, prometheus={"port": port})
        advice = "change prometheus.port or server.host"
        yield configured, f"cannot listen on {LOOPBACK} port {port}: Address already in use; {advice}"


@contextmanager
def the_folder_is_missing(directory: Path) -> Iterator[tuple[dict[str, Any], str]]:
    path = directory / "nowhere" / "exporter.db"
    message = f"the store {path} cannot be opened: .*No such file or directory.*"
    yield quiet(directory, store={"url": f"sqlite:///{path}"}), message
    assert not path.parent.exists()


@contextmanager
def the_store_is_a_text(directory: Path) -> Iterator[tuple[dict[str, Any], str]]:
    path = directory / "exporter.db"
    path.write_text("shopping list: tea, biscuits\n" * 300)
    yield quiet(directory), f"the store {path} is not a file of this exporter.*"


@contextmanager
def the_store_is_another_programs_database(directory: Path) -> Iterator[tuple[dict[str, Any], str]]:
    path = directory / "exporter.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE biscuits (name)")
        connection.commit()
    yield quiet(directory), f"the store {path} is not a file of this exporter.*"


@contextmanager
def the_stores_schema_is_newer(directory: Path) -> Iterator[tuple[dict[str, Any], str]]:
    path = directory / "exporter.db"
    made_store(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    yield (
        quiet(directory),
        rf"the store {path} has schema 99, newer than this program's \d+; use a newer version",
    )


@pytest.mark.parametrize(
    "obstacle",
    [
        the_main_port_is_taken,
        the_metrics_port_is_taken,
        the_folder_is_missing,
        the_store_is_a_text,
        the_store_is_another_programs_database,
        the_stores_schema_is_newer,
    ],
)
def test_it_ends_with_one_line_and_leaves_what_is_there_alone(
    tmp_path: Path, obstacle: Callable[[Path], Any]
) -> None:
    with obstacle(tmp_path) as (configured, message):
        path = tmp_path / "exporter.db"
        before = path.read_bytes() if path.exists() else None

        done = run("--config", written(tmp_path, configured))

        assert done.returncode == 1
        assert done.stdout == ""
        assert re.fullmatch(f"{PROGRAM}{message}\n", done.stderr), done.stderr
        assert before is None or path.read_bytes() == before
        assert not list(tmp_path.glob("*.damaged-*"))


def test_a_second_process_on_the_same_store_ends_and_names_the_file(
    tmp_path: Path, credentials: PushCredentials
) -> None:
    with ExporterProcess(tmp_path, credentials) as first:
        assert first.outcome(insert()) == "tracked"
        other = tmp_path / "other"
        other.mkdir()
        configured = quiet(other, store={"url": first.configured["store"]["url"]})

        begun = time.monotonic()
        done = run("--config", written(other, configured))

        assert time.monotonic() - begun >= 5
        assert done.returncode == 1
        assert done.stderr == (
            f"{PROGRAM}the store {first.store} is in use by another process, which holds its lock file;"
            " stop that process, or set another store.url\n"
        )
        assert first.outcome(preempted()) == "counted"


# Running


@pytest.mark.parametrize(
    ("arguments", "named_by", "number"),
    [
        pytest.param((), "option", signal.SIGTERM, id="by-default"),
        pytest.param(("serve",), "variable", signal.SIGTERM, id="serve"),
        pytest.param((), "variable", signal.SIGINT, id="sigint"),
    ],
)
def test_it_serves_until_it_is_asked_to_stop(
    tmp_path: Path,
    credentials: PushCredentials,
    arguments: tuple[str, ...],
    named_by: Literal["option", "variable"],
    number: signal.Signals,
) -> None:
    with ExporterProcess(tmp_path, credentials, arguments=arguments, named_by=named_by) as exporter:
        assert exporter.outcome(insert()) == "tracked"
        exporter.process.send(number)

        assert exporter.process.wait() == 0
        assert [line["message"] for line in exporter.logs()][-2:] == ["stopping", "stopped"]


def test_every_line_on_standard_error_is_json_as_cloud_logging_reads_it(
    tmp_path: Path, credentials: PushCredentials
) -> None:
    with ExporterProcess(tmp_path, credentials) as exporter:
        exporter.push(insert())
        exporter.push(preempted())
        exporter.process.stop()

        lines = exporter.logs()
        assert {line["severity"] for line in lines} == {"INFO"}
        counted = lines[1]
        assert [line["message"] for line in lines] == [
            "started",
            "interruption counted",
            "stopping",
            "stopped",
        ]
        assert counted["kubernetes_cluster"] == "tills"


def test_times_have_milliseconds_and_ages_three_decimals_at_most(
    tmp_path: Path, credentials: PushCredentials
) -> None:
    with ComputeApi() as api:
        api.projects["shop-prod"] = ManyInstances(1)
        inventory = {"enabled": True, "endpoint": api.url}
        configured = configuration(tmp_path, credentials, inventory=inventory) | {"projects": ["shop-prod"]}
        with ExporterProcess(tmp_path, credentials, configured=configured) as exporter:
            eventually(lambda: exporter.status("/readyz") == 200, within=20, what="the fleet is listed")
            exporter.push(insert(timestamp="2026-03-02T11:40:56.123456789Z"))
            exporter.push(preempted(timestamp="2026-03-02T11:41:58.7654321Z"))
            ledger = exporter.client.get(f"http://{exporter.metrics_address}/interruptions").text
            exporter.process.stop()
            lines = exporter.process.text().splitlines()

    numbers: list[str] = []
    texts = [json.loads(text, parse_float=numbers.append) for text in (*lines, ledger)]
    messages = [text.get("message") for text in texts]
    assert {"fleet listed", "interruption counted"} <= set(messages)
    assert "62.642" in numbers
    assert all(re.fullmatch(r"\d+\.\d{1,3}", number) for number in numbers)
    [row] = texts[-1]["interruptions"]
    [counted] = [text for text in texts if text.get("message") == "interruption counted"]
    assert counted["interrupted_at"] == row["interrupted_at"] == "2026-03-02T11:41:58.765Z"
    times = [text["time"] for text in texts[:-1]] + [row["recorded_at"]]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time) for time in times)


@pytest.mark.parametrize("named_by", ["option", "variable"])
def test_a_start_is_one_line_that_describes_the_exporter(
    tmp_path: Path, credentials: PushCredentials, named_by: Literal["option", "variable"]
) -> None:
    with ExporterProcess(tmp_path, credentials, named_by=named_by) as exporter:
        [started] = [line for line in exporter.logs() if line["severity"] == "INFO"]

        del started["time"]
        assert started == {
            "severity": "INFO",
            "message": "started",
            "logger": "app.serving",
            "version": version("spot-interruption-exporter"),
            "configuration_file": str(tmp_path / "config.yaml"),
            "store": f"sqlite:///{exporter.store}",
            "projects": [],
            "authentication": "oidc",
            "delivery": "push",
            "hold_seconds": 0,
            "listener": f"{LOOPBACK}:{exporter.configured['server']['port']}",
            "metrics_listener": exporter.metrics_address,
        }


def test_a_start_without_a_file_names_none_and_one_listener_twice(tmp_path: Path) -> None:
    port = free_port()
    environment = {
        "SIE_PUBSUB__AUTHENTICATION": "none",
        "SIE_SERVER__HOST": LOOPBACK,
        "SIE_SERVER__PORT": str(port),
        "SIE_STORE__URL": "sqlite:///:memory:",
        "SIE_PROJECTS": '["shop-prod", "shop-test"]',
        "SIE_INVENTORY__ENABLED": "false",
    }
    ready = answers(f"http://{LOOPBACK}:{port}/healthz")
    with Process(COMMAND, output=tmp_path / "output", ready=ready, env=environment) as process:
        lines = [json.loads(line) for line in process.text().splitlines()]

    [started] = [line for line in lines if line["message"] == "started"]
    assert started["configuration_file"] is None
    assert started["projects"] == ["shop-prod", "shop-test"]
    assert started["authentication"] == "none"
    assert started["listener"] == started["metrics_listener"] == f"{LOOPBACK}:{port}"


def test_a_risky_configuration_causes_a_warning(tmp_path: Path) -> None:
    port = free_port()
    with ExporterProcess(
        tmp_path,
        env={"SIE_SERVICE_HOST": "10.0.0.7"},
        server={"port": port},
        prometheus={"port": port},
        store={"retention_days": 7},
    ) as exporter:
        warnings = [line["message"] for line in exporter.logs() if line["severity"] == "WARNING"]

    assert len(warnings) == 4
    assert "SIE_SERVICE_HOST" in warnings[0]
    assert "10.0.0.7" not in warnings[0]
    assert "NOT AUTHENTICATED" in warnings[1]
    assert "/metrics" in warnings[2]
    assert "retention_days" in warnings[3]


@pytest.mark.parametrize("workers", ["4", "many"])
def test_web_concurrency_does_not_change_the_one_process(tmp_path: Path, workers: str) -> None:
    with ExporterProcess(tmp_path, env={"WEB_CONCURRENCY": workers}) as exporter:
        assert exporter.outcome(insert()) == "tracked"
        pid = exporter.process.pid
        children = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]

    assert children
    assert not "".join(children)


def test_reset_totals_has_counters_begin_at_0_and_keeps_everything_else(tmp_path: Path) -> None:
    labels = {
        "project": "shop-prod",
        "kubernetes_cluster": "tills",
        "cluster_location": "europe-west1",
        "node_pool": "spot",
        "zone": "europe-west1-c",
        "machine_type": "e2-standard-8",
    }
    waiting = preempted("gke-unknown")
    with ExporterProcess(tmp_path) as exporter:
        for entry in (insert(), insert("gke-alive"), preempted(), waiting):
            exporter.push(entry)
        newest = exporter.value("spot_last_interruption_timestamp_seconds", kubernetes_cluster="tills")
        configured = exporter.configured

    with ExporterProcess(tmp_path, configured=configured, arguments=["--reset-totals"]) as exporter:
        samples = exporter.samples()
        counters = {
            key: value
            for key, value in samples.items()
            if re.fullmatch("interruption_events_total|spot_.*_(total|bucket|count|sum)", key[0])
        }
        assert ("interruption_events_total", frozenset({("kubernetes_cluster", "tills")})) in counters
        lived = counters.pop(("spot_instance_seconds_total", frozenset(labels.items())))
        assert lived < 60  # since the last start; nothing of before
        assert not any(value for key, value in counters.items() if "exporter" not in key[0])
        assert exporter.value("spot_instances", **labels) == 1
        assert exporter.value("spot_interruption_exporter_pending_interruptions") == 1
        assert (
            exporter.value("spot_last_interruption_timestamp_seconds", kubernetes_cluster="tills") == newest
        )
        assert [exporter.outcome(entry) for entry in (preempted(), waiting, insert())] == ["duplicate"] * 3
        assert exporter.outcome(preempted("gke-alive")) == "counted"

    with ExporterProcess(tmp_path, configured=configured) as exporter:
        assert exporter.value("spot_interruptions_total", **labels) == 1
        assert exporter.interruptions("tills") == 1


def test_reset_totals_is_logged(tmp_path: Path) -> None:
    with ExporterProcess(tmp_path, arguments=["--reset-totals"]) as exporter:
        reset = [line for line in exporter.logs() if "--reset-totals" in line["message"]]

    assert [line["severity"] for line in reset] == ["WARNING"]
    assert "counters start at 0" in reset[0]["message"]


def test_an_idle_connection_is_kept_as_long_as_configured(tmp_path: Path) -> None:
    with (
        ExporterProcess(tmp_path, server={"keep_alive_seconds": 1}) as exporter,
        closing(HTTPConnection(LOOPBACK, exporter.configured["server"]["port"], timeout=60)) as connection,
    ):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
        answered = time.monotonic()

        assert connection.sock.recv(1) == b""
        assert time.monotonic() - answered > 0.9


# Addresses


def connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def ipv6() -> bool:
    """Return whether the kernel has IPv6 and its loopback address."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not ipv6(), reason="the kernel has no IPv6")
@pytest.mark.parametrize("host", ["::", "0:0::0"])
def test_every_address_of_ipv6_takes_ipv4_too_on_both_listeners(tmp_path: Path, host: str) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("the kernel takes no IPv4 on a socket of IPv6")
    with ExporterProcess(tmp_path, server={"host": host}) as exporter:
        ports = [exporter.configured[listener]["port"] for listener in ("server", "prometheus")]

        assert [connects(address, port) for address in (LOOPBACK, "::1") for port in ports] == [True] * 4
        assert exporter.outcome(insert()) == "tracked"
        [started] = [line for line in exporter.logs() if line["message"] == "started"]
        assert [started["listener"], started["metrics_listener"]] == [f"[{host}]:{port}" for port in ports]


@pytest.mark.skipif(not ipv6(), reason="the kernel has no IPv6")
def test_one_address_of_ipv6_takes_no_ipv4(tmp_path: Path) -> None:
    configured = configuration(tmp_path, None, server={"host": "::1"})
    port = configured["server"]["port"]
    words: list[str | Path] = [*COMMAND, "--config", written(tmp_path, configured)]
    ready = answers(f"http://[::1]:{port}/healthz")
    with Process(words, output=tmp_path / "output", ready=ready):
        assert not connects(LOOPBACK, port)


# Hanging up


HANG_UP = "SIGHUP is ignored: the configuration is read at start; restart to apply it"


def hang_ups(exporter: ExporterProcess) -> int:
    return [(line["severity"], line["message"]) for line in exporter.logs()].count(("WARNING", HANG_UP))


def test_sighup_is_logged_and_changes_nothing(tmp_path: Path) -> None:
    with ExporterProcess(tmp_path, server={"drain_seconds": 60}) as exporter:
        exporter.process.send(signal.SIGHUP)
        eventually(lambda: hang_ups(exporter) == 1, within=20, what="the warning")
        assert exporter.outcome(insert()) == "tracked"

        exporter.process.send(signal.SIGTERM)
        eventually(lambda: exporter.status("/readyz") == 503, within=20, what="it is not ready")
        exporter.process.send(signal.SIGHUP)
        eventually(lambda: hang_ups(exporter) == 2, within=20, what="the warning while draining")
        # It does not cut the draining short, as another SIGTERM would.
        assert exporter.outcome(preempted()) == "counted"

        exporter.process.send(signal.SIGTERM)
        assert exporter.process.wait() == 0
        assert [line["message"] for line in exporter.logs()][-1] == "stopped"


def test_sighup_before_it_serves_is_logged_once_it_does(tmp_path: Path) -> None:
    with Path(f"{tmp_path}/exporter.db.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        exporter = ExporterProcess(tmp_path, command=COMMAND)
        words = exporter.process.command
        output = exporter.process.output
        with Process(words, output=output, ready=lambda: True, env=ENVIRONMENT) as process:
            for stage in (imports, partial(waits_for, Path(lock.name))):
                eventually(partial(stage, process.pid), within=30, what="the next stage of a start")
                process.send(signal.SIGHUP)
            fcntl.flock(lock, fcntl.LOCK_UN)

            eventually(lambda: hang_ups(exporter) == 1, within=30, what="the warning")
            eventually(answers(f"{exporter.url}/healthz"), within=30, what="it serves")
            process.send(signal.SIGTERM)
            assert process.wait() == 0


# Damage


def test_a_damaged_store_is_moved_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    with ExporterProcess(tmp_path) as exporter:
        exporter.push(insert())
        exporter.push(preempted())
        exporter.process.stop()
        damage(exporter.store)
        damaged = exporter.store.read_bytes()

        exporter.process.start()

        [aside] = tmp_path.glob("exporter.db.damaged-*")
        assert aside.read_bytes() == damaged
        [error] = [line for line in exporter.logs() if line["severity"] == "ERROR"]
        assert error["moved_to"] == str(aside)
        assert exporter.value("spot_interruption_exporter_store_resets_total") == 1
        assert exporter.interruptions("tills") is None
        assert exporter.outcome(insert()) == "tracked"
        assert exporter.outcome(preempted()) == "counted"

        exporter.process.stop()
        exporter.process.start()
        assert exporter.value("spot_interruption_exporter_store_resets_total") == 0
        assert exporter.interruptions("tills") == 1


def test_a_damaged_ledger_costs_no_counter(tmp_path: Path) -> None:
    with ExporterProcess(tmp_path) as exporter:
        exporter.push(insert())
        exporter.push(preempted())
        exporter.process.stop()
        overwrite_page(exporter.store, "ledger")

        exporter.process.start()

        [error] = [line for line in exporter.logs() if line["severity"] == "ERROR"]
        assert error["lost"] == ["ledger: damaged, 0 rows could be read"]
        assert {"clusters", "event_keys", "instances"} <= set(error["kept"])
        assert error["countable_again"] is None
        assert exporter.value("spot_interruption_exporter_store_resets_total") == 1
        assert exporter.interruptions("tills") == 1
        assert exporter.outcome(preempted()) == "duplicate"


def test_damage_met_while_running_is_answered_503_and_ends_the_process(tmp_path: Path) -> None:
    with ExporterProcess(tmp_path) as exporter:
        exporter.push(insert())
        with closing(sqlite3.connect(exporter.store)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        damage(exporter.store)

        response = exporter.push(preempted())

        assert response.status_code == 503
        assert response.headers["retry-after"]
        assert response.json()["reason"] == "store_corrupt"
        assert exporter.process.wait() == 1
        *logged, last = exporter.process.text().splitlines()
        assert last.startswith(f"{PROGRAM}the SQLite file is damaged: ")
        assert [json.loads(line)["severity"] for line in logged].count("ERROR") == 1

        exporter.process.output.unlink()
        exporter.process.start()
        assert exporter.value("spot_interruption_exporter_store_resets_total") == 1
        assert exporter.outcome(preempted()) == "pending"


def damage(store: Path) -> None:
    """Overwrite every page except the first."""
    with store.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        assert size > 3 * 4096
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))


# Stopping


def started(directory: Path, *words: str | Path, when: Callable[[int], bool]) -> Process:
    """Return a command that is ready for its signal when the condition is true of its process id."""
    process = Process(
        [*COMMAND, *words], output=directory / "output", ready=lambda: when(process.pid), env=ENVIRONMENT
    )
    return process


def imports(pid: int) -> bool:
    """Return True if the process imports its modules: it has loaded the first large library."""
    return "pydantic_core" in Path(f"/proc/{pid}/maps").read_text()


def waits_for(lock: Path, pid: int) -> bool:
    """Return whether the process has opened the store's lock file."""
    return lock in (file.readlink() for file in Path(f"/proc/{pid}/fd").iterdir() if file.is_symlink())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "ctrl-c"])
@pytest.mark.parametrize("command", ["serve", "check", "demo"])
def test_a_signal_while_it_starts_ends_it_and_only_serve_has_succeeded(
    tmp_path: Path, command: str, number: signal.Signals
) -> None:
    path = written(tmp_path, quiet(tmp_path))
    words = (command, "--port", "0") if command == "demo" else (command, "--config", path)

    with started(tmp_path, *words, when=imports) as process:
        process.send(number)

        assert process.wait() == (0 if command == "serve" else 128 + number)
        assert process.text() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "ctrl-c"])
def test_a_signal_while_it_waits_for_the_stores_lock_ends_it_at_once(
    tmp_path: Path, number: signal.Signals
) -> None:
    configured = quiet(tmp_path)
    lock = Path(f"{tmp_path}/exporter.db.lock")

    with lock.open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with started(
            tmp_path, "--config", written(tmp_path, configured), when=partial(waits_for, lock)
        ) as process:
            process.send(number)

            assert process.wait(within=3) == 0
            assert process.text() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["sigterm", "ctrl-c"])
def test_a_check_that_a_signal_ends_has_not_succeeded(tmp_path: Path, number: signal.Signals) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        silent.settimeout(30)
        configured = configuration(
            tmp_path,
            None,
            pubsub={
                "authentication": "oidc",
                "audience": "a",
                "service_account_email": "b@c.d",
                "certs_url": f"http://{LOOPBACK}:{silent.getsockname()[1]}/",
            },
        )
        output = tmp_path / "output"
        words = ("check", "--config", written(tmp_path, configured))
        with started(tmp_path, *words, when=lambda _: "ok    store" in output.read_text()) as process:
            asked, _ = silent.accept()
            process.send(number)

            assert process.wait() == 128 + number
            assert "Traceback" not in process.text()
            asked.close()


@pytest.mark.parametrize("words", [["check"], ["demo", "--once", "--port", "0"]], ids=["check", "demo"])
def test_a_command_whose_output_nobody_reads_ends_quietly(tmp_path: Path, words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with closing(os.fdopen(writing, "wb")) as unread:
        done = subprocess.run(
            [*COMMAND, *words],
            env=os.environ | ENVIRONMENT | {"SIE_PUBSUB__AUTHENTICATION": "none", "TMPDIR": str(tmp_path)},
            cwd=tmp_path,
            stdout=unread,
            stderr=subprocess.PIPE,
            timeout=180,
            check=False,
        )

    assert (done.returncode, done.stderr) == (1, b"")
    assert list(tmp_path.iterdir()) == []


def test_a_listener_that_fails_ends_the_exporter_and_its_error_is_in_the_log(tmp_path: Path) -> None:
    # Nothing that a test can configure makes uvicorn fail.
    program = """
import sys, uvicorn
async def fail(*_, **__): raise OSError("made by the test")
uvicorn.Server.startup = fail
from app.__main__ import main
sys.exit(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "--config", written(tmp_path, configuration(tmp_path, None))],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )

    *_, last = done.stderr.splitlines()
    assert (done.returncode, last) == (
        1,
        "spot-interruption-exporter: a listener has failed; the log has its error",
    )
    assert "made by the test" in done.stdout + done.stderr


def test_ctrl_c_in_a_terminal_reaches_its_listing_by_the_exporter_alone(tmp_path: Path) -> None:
    hold = Hold()
    with ComputeApi() as api:
        api.projects["shop-prod"] = ManyInstances(1)
        api.fail(hold)
        inventory = {"enabled": True, "endpoint": api.url}
        configured = configuration(tmp_path, None, inventory=inventory) | {"projects": ["shop-prod"]}
        with ExporterProcess(tmp_path, configured=configured, env=ENVIRONMENT) as exporter:
            eventually(lambda: api.requests, within=20, what="the listing's request")
            # As a terminal does: to every process of the group.
            os.killpg(exporter.process.pid, signal.SIGINT)

            assert exporter.process.wait() == 0
            assert "KeyboardInterrupt" not in exporter.process.text()
            assert exporter.logs()[-1]["message"] == "stopped"


def test_while_draining_pushes_are_taken_and_while_lingering_only_scrapes(tmp_path: Path) -> None:
    with ExporterProcess(
        tmp_path, server={"drain_seconds": 60}, prometheus={"linger_seconds": 60}
    ) as exporter:
        assert exporter.status("/readyz") == 200
        exporter.process.send(signal.SIGTERM)
        eventually(lambda: exporter.status("/readyz") == 503, within=5, what="it is not ready")

        assert exporter.outcome(insert()) == "tracked"
        assert exporter.outcome(preempted()) == "counted"
        assert exporter.status("/healthz") == 200

        # Another signal cuts the draining short.
        exporter.process.send(signal.SIGTERM)
        eventually(lambda: exporter.push(preempted()).status_code == 503, within=5, what="a push is refused")
        refused = exporter.push(preempted())
        assert refused.json()["reason"] == "stopping"
        assert refused.headers["retry-after"]
        assert exporter.interruptions("tills") == 1
        assert exporter.status("/readyz") == 503
        assert exporter.status("/healthz") == 200

        # And another one the lingering.
        exporter.process.send(signal.SIGINT)
        assert exporter.process.wait(within=5) == 0


@pytest.mark.parametrize("drain_seconds", [60, 0], ids=["a-push-taken", "a-push-refused"])
def test_while_it_stops_a_connection_is_closed_with_its_next_answer(
    tmp_path: Path, drain_seconds: int
) -> None:
    with (
        ExporterProcess(
            tmp_path, server={"drain_seconds": drain_seconds}, prometheus={"linger_seconds": 60}
        ) as exporter,
        closing(HTTPConnection(LOOPBACK, exporter.configured["server"]["port"], timeout=60)) as pushing,
        closing(HTTPConnection(LOOPBACK, exporter.configured["server"]["port"], timeout=60)) as probing,
    ):
        paths = {
            pushing: ("POST", "/events/creation", json.dumps(insert())),
            probing: ("GET", "/readyz", None),
        }
        for connection, asked in paths.items():
            connection.request(*asked)
            response = connection.getresponse()
            assert response.read()
            assert not response.will_close
        exporter.process.send(signal.SIGTERM)
        eventually(lambda: exporter.status("/readyz") == 503, within=5, what="it is not ready")

        for connection, asked in paths.items():
            connection.request(*asked)
            response = connection.getresponse()
            assert response.read()
            assert response.getheader("connection") == "close"
            assert response.will_close
        exporter.process.send(signal.SIGTERM)
        exporter.process.send(signal.SIGINT)
        assert exporter.process.wait(within=5) == 0


def test_draining_and_lingering_last_as_long_as_configured(tmp_path: Path) -> None:
    with ExporterProcess(tmp_path, server={"drain_seconds": 1}, prometheus={"linger_seconds": 1}) as exporter:
        begun = time.monotonic()
        exporter.process.send(signal.SIGTERM)

        eventually(lambda: exporter.push(insert()).status_code == 503, within=5, what="a push is refused")
        drained = time.monotonic() - begun
        assert drained > 0.9
        assert exporter.status("/metrics") == 200
        assert exporter.process.wait(within=5) == 0
        assert time.monotonic() - begun > 1.9


def test_a_body_that_never_arrives_does_not_keep_it_from_stopping(tmp_path: Path) -> None:
    with (
        ExporterProcess(tmp_path, command=overridden(shutdown_seconds=1)) as exporter,
        socket.create_connection((LOOPBACK, exporter.configured["server"]["port"])) as connection,
    ):
        connection.sendall(b"POST /events/creation HTTP/1.1\r\nHost: sie\r\nContent-Length: 1000\r\n\r\n{")
        assert exporter.outcome(insert()) == "tracked"

        exporter.process.send(signal.SIGTERM)
        assert exporter.process.wait(within=10) == 0
        # It did not wait for the end of the time that a body may take.
        assert not connection.recv(65536).startswith(b"HTTP/1.1 408")


def test_a_name_that_is_being_looked_up_does_not_keep_it_from_stopping(
    tmp_path: Path, credentials: PushCredentials
) -> None:
    # For a name without a dot, glibc reads the file of HOSTALIASES: here a pipe to which nobody writes.
    aliases = tmp_path / "aliases"
    os.mkfifo(aliases)
    configured = configuration(tmp_path, credentials)
    configured["pubsub"]["certs_url"] = "http://certificates/"
    env = {"HOSTALIASES": str(aliases)}

    with ExporterProcess(tmp_path, credentials, configured=configured, env=env) as exporter:
        assert exporter.reason(insert()) == (503, "certificates_unavailable")

        assert exporter.process.stop(within=60) == 0
        assert exporter.logs()[-1]["message"] == "stopped"


def test_a_store_that_cannot_be_written_does_not_keep_it_from_stopping(tmp_path: Path) -> None:
    with ExporterProcess(tmp_path) as exporter, ThreadPoolExecutor(8) as callers:
        with closing(sqlite3.connect(exporter.store, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            refused = [callers.submit(exporter.reason, insert(f"gke-{number}")) for number in range(8)]
            eventually(lambda: connections(exporter) >= 8, within=5, what="the pushes are under way")

            exporter.process.send(signal.SIGTERM)
            assert exporter.process.wait(within=10) == 0

        assert {future.result() for future in refused} <= {(503, "store_unavailable"), (503, "stopping")}


def connections(exporter: ExporterProcess) -> int:
    """Return the number of established connections to the main listener."""
    port = f":{exporter.configured['server']['port']:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[1].endswith(port) and line.split()[3] == "01" for line in lines)


def test_accepted_pushes_are_committed_and_answered_when_it_stops(
    tmp_path: Path, credentials: PushCredentials
) -> None:
    # More than can be posted before the listener is closed: the last ones are never taken.
    entries = [insert(f"gke-{number}") for number in range(300)]
    with ExporterProcess(tmp_path, credentials) as exporter:
        answers = asyncio.run(posted_until_it_stops(exporter, entries))
        assert exporter.process.wait() == 0

        taken = [entry for entry, status in zip(entries, answers, strict=True) if status == 200]
        others = [entry for entry, status in zip(entries, answers, strict=True) if status != 200]
        assert 60 <= len(taken) < len(entries)
        assert set(answers) <= {200, 503, None}

        exporter.process.start()
        assert Counter(map(exporter.outcome, taken)) == {"duplicate": len(taken)}
        # What was not answered was not committed either: nothing was accepted and then dropped.
        assert Counter(map(exporter.outcome, others)) == {"tracked": len(others)}


async def posted_until_it_stops(exporter: ExporterProcess, entries: list[JsonObject]) -> list[int | None]:
    """Return the status of the answer to each entry, or None. SIGTERM comes after 60 answers."""
    answered: dict[int, int] = {}
    waiting = iter(enumerate(entries))
    async with httpx.AsyncClient(
        base_url=exporter.url, headers=exporter.headers, trust_env=False, timeout=15
    ) as client:

        async def post() -> None:
            for number, entry in waiting:
                try:
                    response = await client.post(f"/events/{endpoint_of(entry)}", content=body_of(entry))
                except httpx.TransportError:
                    continue
                answered[number] = response.status_code
                if len(answered) == 60:
                    exporter.process.send(signal.SIGTERM)

        await asyncio.gather(*(post() for _ in range(24)))
    return [answered.get(number) for number in range(len(entries))]
