from collections.abc import Iterator

import pytest

from tests.simulation.week import Week
from tests.support.rules import RULES


@pytest.fixture(scope="package")
def week(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Week]:
    """Run a week of the simulated fleet, with an exporter and a Prometheus. Tests must not change it."""
    with Week(tmp_path_factory.mktemp("week"), rules=[RULES]) as week:
        yield week
