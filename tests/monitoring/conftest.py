from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.simulation.week import Week

RULES: Final = Path(__file__).parents[2] / "k8s" / "monitoring" / "rules.yaml"
_WITHIN_SECONDS: Final = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that asks for the week waits until it is over, on a busy machine for long."""
    for item in items:
        if isinstance(item, pytest.Function) and "week" in item.fixturenames:
            item.add_marker(pytest.mark.timeout(_WITHIN_SECONDS))


@pytest.fixture(scope="package")
def week(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Week]:
    """A week of the simulated fleet, in an exporter and a Prometheus that go on. It is shared: only look."""
    with Week(tmp_path_factory.mktemp("week"), rules=[RULES]) as week:
        yield week
