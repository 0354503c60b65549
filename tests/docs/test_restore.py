"""The restoring of a backup, as docs/operations.md has it, resets the counters exactly once."""

import re
from pathlib import Path

import pytest
import yaml

from tests.support.docs import DOCS, ROOT, blocks
from tests.support.entries import insert, preempted
from tests.support.process import LOOPBACK, Process, answers, free_port
from tests.support.program import COMMAND, ExporterProcess

pytestmark = pytest.mark.usefixtures("quick_programs")


def test_the_counters_begin_at_0_once_and_continue_after_the_next_restart(tmp_path: Path) -> None:
    with ExporterProcess(tmp_path) as exporter:
        assert [exporter.outcome(entry) for entry in (insert(), preempted())] == ["tracked", "counted"]
        configured, store = exporter.configured, exporter.store

    with _documented_reset(tmp_path, store) as reset:
        assert reset.stop() == 0

    with ExporterProcess(tmp_path, configured=configured) as exporter:
        assert exporter.interruptions("tills") == 0
        assert exporter.outcome(preempted()) == "duplicate"
        exporter.push(insert("gke-later"))
        assert exporter.outcome(preempted("gke-later")) == "counted"
    with ExporterProcess(tmp_path, configured=configured) as exporter:
        assert exporter.interruptions("tills") == 1


def _documented_reset(directory: Path, store: Path) -> Process:
    """Return the process that the pod for restoring runs by hand, on another store and port."""
    commands = "".join(block.code for block in blocks(DOCS / "operations.md", "sh"))
    [arguments] = re.findall(r"timeout --preserve-status \d+ spot-interruption-exporter (.*)", commands)
    pod = yaml.safe_load((ROOT / "k8s/restore/pod.yaml").read_text())
    [container] = pod["spec"]["containers"]
    port = free_port()
    environment = {one["name"]: one["value"] for one in container["env"]} | {
        "SIE_STORE__URL": f"sqlite:///{store}",
        "SIE_SERVER__PORT": str(port),
    }
    return Process(
        [*COMMAND, *arguments.split()],
        output=directory / "reset.log",
        ready=answers(f"http://{LOOPBACK}:{port}/healthz"),
        env=environment,
    )


def test_only_the_restore_uses_the_option_that_resets() -> None:
    manifests = "".join(path.read_text() for path in (ROOT / "k8s").rglob("*.yaml"))

    assert "args: " not in manifests
    assert not re.search(r"^\s*-\s*--reset-totals", manifests, re.MULTILINE)
