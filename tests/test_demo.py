"""The command `demo`: the whole story on loopback, without a cloud account."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from select import select

import httpx
import pytest

from app.demo.story import differences
from tests.support.process import LOOPBACK, Process, answers, eventually, free_port
from tests.support.program import COMMAND, run

pytestmark = pytest.mark.usefixtures("quick_programs")

CLUSTER = 'interruption_events_total{kubernetes_cluster="shop"} 2.0'
UNKNOWN = 'interruption_events_total{kubernetes_cluster="unknown"} 0.0'
SPOT = 'spot_interruptions_total{kubernetes_cluster="shop",node_pool="spot-pool"} 2.0'


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run the demo once, and return its output and its folder for temporary files."""
    folder = tmp_path_factory.mktemp("temporary")
    # What is configured for an exporter is not the demo's: it must not reach another's certificates or store.
    env = {"TMPDIR": str(folder), "SIE_PUBSUB__CERTS_URL": "http://127.0.0.1:1/", "CONFIG_PATH": "/nowhere"}
    return run("demo", "--once", "--port", "0", env=env), folder


def test_the_demo_prints_its_posts_and_their_answers(
    told: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, _ = told

    posts = re.findall(
        r"POST /events/(\w+)  (\S+)\n  (\d{3}) .*?\"(?:outcome|reason)\": ?\"(\w+)\"", done.stdout
    )
    assert posts == [
        ("creation", "v1.compute.instances.insert", "200", "tracked"),
        ("interruption", "compute.instances.preempted", "200", "counted"),
        ("interruption", "compute.instances.preempted", "200", "duplicate"),
        ("interruption", "compute.instances.preempted", "200", "pending"),
        ("creation", "v1.compute.instances.insert", "200", "tracked"),
        ("interruption", "compute.instances.hostError", "200", "ignored"),
        ("interruption", "compute.instances.preempted", "401", "not_authenticated"),
    ]


def test_the_forged_token_is_refused_because_of_its_signature(
    told: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, _ = told

    [answer] = re.findall(r"^A token with a forged signature\.\n.*\n(.*)$", done.stdout, re.MULTILINE)
    assert "the token's signature is wrong" in answer


def test_the_demo_prints_the_series_and_that_they_are_right(
    told: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, _ = told

    assert done.returncode == 0
    assert done.stderr == ""
    assert f"  {CLUSTER}\n" in done.stdout
    assert f"  {UNKNOWN}\n" in done.stdout
    assert re.search(r"  spot_interruptions_total\{.*node_pool=\"spot-pool\".*\} 2\.0\n", done.stdout)
    assert done.stdout.endswith("The counts are right.\n")


def test_the_demo_leaves_nothing_behind(told: tuple[subprocess.CompletedProcess[str], Path]) -> None:
    _, folder = told

    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
    ids=["ctrl-c", "sigterm", "terminal-closed"],
)
def test_the_demo_serves_until_it_is_asked_to_stop(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    url = f"http://{LOOPBACK}:{port}"
    folder = tmp_path / "temporary"
    folder.mkdir()
    output = tmp_path / "output"
    with Process(
        [*COMMAND, "demo", "--port", str(port)],
        output=output,
        ready=lambda: f"Serving at {url}/ until Ctrl-C." in output.read_text(),
        env={"TMPDIR": str(folder)},
    ) as demo:
        assert CLUSTER in httpx.get(f"{url}/metrics", trust_env=False, timeout=60).text
        assert answers(f"{url}/")()
        [store] = folder.glob("*/demo.db")
        assert store.stat().st_size

        demo.send(number)
        assert demo.wait() == 0
        assert list(folder.iterdir()) == []


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """Return both ends of a pipe that blocks its writer until it is read."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"-" * 4096)
    os.set_blocking(writing, True)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    ("options", "number"),
    [
        pytest.param([], signal.SIGINT, id="before-it-serves-by-ctrl-c"),
        pytest.param([], signal.SIGTERM, id="before-it-serves-by-sigterm"),
        pytest.param(["--once"], signal.SIGTERM, id="once-by-sigterm"),
        pytest.param(["--once"], signal.SIGHUP, id="once-by-its-terminal"),
    ],
)
def test_a_demo_that_a_signal_cuts_short_has_not_succeeded_and_leaves_nothing_behind(
    tmp_path: Path, options: list[str], number: signal.Signals
) -> None:
    # It cannot get past its first line: the signal comes before that is read.
    with full_pipe() as (reading, writing), (tmp_path / "errors").open("wb") as errors:
        folder = tmp_path / "temporary"
        folder.mkdir()
        with subprocess.Popen(
            [*COMMAND, "demo", "--port", "0", *options],
            env=os.environ | {"TMPDIR": str(folder)},
            stdout=writing,
            stderr=errors,
        ) as demo:
            eventually(lambda: any(folder.iterdir()), within=60, what="the demo has its folder")
            demo.send_signal(number)
            with open(reading, "rb", closefd=False) as output:
                while demo.poll() is None:
                    if select([output], [], [], 0.1)[0]:
                        os.read(reading, 65536)

    assert demo.returncode == 128 + number
    assert list(folder.iterdir()) == []
    assert (tmp_path / "errors").read_text() == ""


def test_a_demo_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    output = tmp_path / "output"
    # As nohup does.
    ignoring = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
    with Process(
        [*ignoring, *COMMAND, "demo", "--port", "0"],
        output=output,
        ready=lambda: "Serving at" in output.read_text(),
    ) as demo:
        status = Path(f"/proc/{demo.pid}/status").read_text()

    ignored = re.search(r"^SigIgn:\s*(\w+)$", status, re.MULTILINE)
    assert ignored is not None
    assert int(ignored[1], 16) & 1 << (signal.SIGHUP - 1)


def test_a_port_in_use_is_reported_in_one_line_that_names_the_option(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        done = run("demo", "--once", "--port", str(port), env={"TMPDIR": str(tmp_path)})

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"spot-interruption-exporter: cannot listen on {LOOPBACK} port {port}: Address already in use;"
        " choose another port with --port\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_a_folder_for_temporary_files_is_reported_in_one_line() -> None:
    # Python takes a folder only if it can write a file there.
    done = run("demo", "--once", "--port", "0", by=["sh", "-c", 'ulimit -f 0; exec "$@"', "sh"])

    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(
        r"spot-interruption-exporter: the demo cannot make a temporary folder: No usable .*;"
        r" set TMPDIR to a folder that can be written\n",
        done.stderr,
    )


@pytest.mark.parametrize("port", ["65536", "-1", "http"])
def test_an_invalid_port_is_an_error_in_the_command(port: str) -> None:
    done = run("demo", "--once", "--port", port)

    assert done.returncode == 2
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def exposition(*lines: str) -> str:
    return "\n".join(("# TYPE interruption_events_total counter", *lines, ""))


def test_the_expected_series_are_right() -> None:
    assert differences(exposition(CLUSTER, UNKNOWN)) == []


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        pytest.param([CLUSTER.replace("2.0", "3.0"), UNKNOWN], "is 3, not 2", id="a-duplicate-counted"),
        pytest.param([CLUSTER.replace("2.0", "1.0"), UNKNOWN], "is 1, not 2", id="one-lost"),
        pytest.param([CLUSTER, UNKNOWN.replace("0.0", "1.0")], "is 1, not 0", id="one-unattributed"),
        pytest.param([UNKNOWN], "is missing", id="no-series"),
        pytest.param([CLUSTER.replace("kubernetes_", ""), UNKNOWN], "is missing", id="another-label"),
    ],
)
def test_a_wrong_series_is_reported(lines: list[str], said: str) -> None:
    [difference] = differences(exposition(*lines))

    assert difference.startswith("interruption_events_total{")
    assert difference.endswith(said)
