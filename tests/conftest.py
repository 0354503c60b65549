from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.exporter import Exporter

_MONITORING: Final = Path("tests/monitoring")
"""Its simulated week takes half a minute to make."""


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist is untyped
    """A file's tests run in one process; so do all of a folder whose fixtures are for the whole of it."""

    def _split_scope(self, nodeid: str) -> str:
        path, _, _ = nodeid.partition("::")
        return str(_MONITORING) if _MONITORING in Path(path).parents else path


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Hand tests out file by file: many fixtures are a module's."""
    return _ByFile(config, log)


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    """A fresh exporter, for this test alone."""
    with Exporter(tmp_path) as exporter:
        yield exporter


@pytest.fixture(scope="module")
def shared_exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """An exporter for the tests of a module that do not mind what the others have pushed."""
    with Exporter(tmp_path_factory.mktemp("exporter")) as exporter:
        yield exporter
