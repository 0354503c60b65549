from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.exporter import Exporter


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run in several processes: a file's in one, and all of the simulated week's in one."""
    for item in items:
        shares_the_week = "week" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("week" if shares_the_week else str(item.path)))


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
