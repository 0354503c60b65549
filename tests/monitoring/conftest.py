from collections.abc import Iterator

import pytest

from tests.simulation.week import Week
from tests.support.rules import RULES


@pytest.fixture(scope="package")
def sqlite_week(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Week]:
    """Run a week of the simulated fleet, with an exporter and a Prometheus."""
    with Week(tmp_path_factory.mktemp("week"), rules=[RULES]) as week:
        yield week


@pytest.fixture(scope="package")
def redis_week(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Week]:
    """Run the same week with two replicas on a Redis."""
    with Week(tmp_path_factory.mktemp("shared-week"), store="redis") as week:
        yield week


@pytest.fixture(scope="module")
def week(request: pytest.FixtureRequest) -> Week:
    """Return the week of one exporter, or of the store that a test names. Tests must not change it."""
    week: Week = request.getfixturevalue(f"{getattr(request, 'param', 'sqlite')}_week")
    return week
