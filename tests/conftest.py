import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from tests.support.exporter import Exporter
from tests.support.warm_python import COMPUTE, PROGRAM, warm_python

_MONITORING: Final = Path("tests/monitoring")
"""Creating its simulated week takes half a minute."""
LONGEST: Final = (
    "tests/e2e/test_bounds.py",
    str(_MONITORING),
    "tests/e2e/test_chaos.py",
    "tests/k8s/test_real_api_server.py",
    "tests/chaos/test_scraped_hour.py",
    "tests/e2e/test_replicas.py",
    "tests/test_environment.py",
    "tests/e2e/test_collectors.py",
    "tests/test_victoriametrics.py",
    "tests/test_cli.py",
    "tests/infra/test_terraform.py",
    "tests/test_store_file.py",
    "tests/compose/test_topology.py",
    "tests/test_inventory.py",
    "tests/test_demo.py",
    "tests/e2e/test_stopped_disk.py",
    "tests/web/test_limits.py",
    "tests/test_check.py",
    "tests/support/test_servers.py",
    "tests/e2e/test_datadog.py",
    "tests/e2e/test_prometheus.py",
    "tests/e2e/test_benchmarks.py",
    "tests/e2e/test_pubsub_emulator.py",
    "tests/e2e/test_page_in_chromium.py",
    "tests/e2e/test_redis_rollback.py",
    "tests/fuzz/test_openapi.py",
    "tests/test_recovery.py",
    "tests/e2e/test_pull.py",
)
"""The slowest files, the slowest first. They start first, so that no worker runs alone at the end."""


# Containers often forbid bytecode. Hundreds of processes would then compile the program, each for itself.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Prometheus and promtool run for seconds here. By default they collect garbage four times as often.
os.environ.setdefault("GOGC", "400")
# A shell that starts the tests in the background has them ignore these, and every child inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist is untyped
    """Runs the tests of a file in one process, and all tests of a folder whose fixtures are shared."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        for scope in LONGEST:
            if scope in self.workqueue:
                self.workqueue.move_to_end(scope, last=False)
                break
        super()._assign_work_unit(node)

    def _split_scope(self, nodeid: str) -> str:
        path, _, _ = nodeid.partition("::")
        return str(_MONITORING) if _MONITORING in Path(path).parents else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Distribute the tests file by file, because many fixtures have the scope of a module."""
    return _ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """Have one worker more than cores, because many tests wait for other processes."""
    workers = yield
    return workers + 1


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    """A new exporter for one test."""
    with Exporter(tmp_path) as exporter:
        yield exporter


@pytest.fixture(scope="module")
def shared_exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """An exporter for the tests of a module that do not depend on the pushes of other tests."""
    with Exporter(tmp_path_factory.mktemp("exporter")) as exporter:
        yield exporter


@pytest.fixture(scope="session")
def compute_python() -> Iterator[str]:
    """A Python in which the child process of a listing or a reading starts in milliseconds."""
    with warm_python(*COMPUTE) as python:
        yield python


@pytest.fixture(scope="session")
def program_python() -> Iterator[str]:
    """A Python in which the exporter and its child processes start in milliseconds."""
    with warm_python(*COMPUTE, *PROGRAM) as python:
        yield python


@pytest.fixture(scope="module")
def quick_programs(program_python: str) -> Iterator[None]:
    """Let the exporters of a module's tests start in milliseconds, except those of `program.COMMAND`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.executable", program_python)
        yield


@pytest.fixture
def quick_children(compute_python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an exporter in the process of the test start its child processes in milliseconds."""
    monkeypatch.setattr("sys.executable", compute_python)
