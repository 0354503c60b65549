from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.exporter import Exporter


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
