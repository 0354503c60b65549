"""The command `demo`: the whole story on loopback, with no cloud account."""

import re
import signal
import socket
import subprocess
from pathlib import Path

import httpx
import pytest

from app.demo.story import differences
from tests.support.process import LOOPBACK, Process, answers, free_port
from tests.support.program import COMMAND, run

CLUSTER = 'interruption_events_total{kubernetes_cluster="shop"} 2.0'
UNKNOWN = 'interruption_events_total{kubernetes_cluster="unknown"} 0.0'
SPOT = 'spot_interruptions_total{kubernetes_cluster="shop",node_pool="spot-pool"} 2.0'


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """The demo told once, and its folder for temporary files."""
    folder = tmp_path_factory.mktemp("temporary")
    # What is configured for an exporter is not the demo's: it must not reach another's certificates or store.
    env = {"TMPDIR": str(folder), "SIE_PUBSUB__CERTS_URL": "http://127.0.0.1:1/", "CONFIG_PATH": "/nowhere"}
    return run("demo", "--once", "--port", "0", env=env), folder


def test_the_demo_tells_what_it_posts_and_what_came_back(
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


def test_the_demo_tells_the_series_and_that_they_are_right(
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
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
        assert CLUSTER in httpx.get(f"{url}/metrics", trust_env=False).text
        assert answers(f"{url}/")()
        [store] = folder.glob("*/demo.db")
        assert store.stat().st_size

        demo.send(number)
        assert demo.wait() == 0
        assert list(folder.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_while_the_demo_begins_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    with Process(
        [*COMMAND, "demo", "--port", "0"],
        output=tmp_path / "output",
        ready=lambda: any(folder.iterdir()),
        env={"TMPDIR": str(folder)},
    ) as demo:
        demo.send(number)

        assert demo.wait() == 0
        assert list(folder.iterdir()) == []
        assert "Traceback" not in demo.text()


def test_a_port_in_use_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        done = run("demo", "--once", "--port", str(port), env={"TMPDIR": str(tmp_path)})

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"spot-interruption-exporter: cannot listen on {LOOPBACK} port {port}: Address already in use\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("port", ["65536", "-1", "http"])
def test_a_port_that_is_none_is_an_error_in_the_command(port: str) -> None:
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
def test_a_series_that_is_wrong_is_told(lines: list[str], said: str) -> None:
    [difference] = differences(exposition(*lines))

    assert difference.startswith("interruption_events_total{")
    assert difference.endswith(said)
