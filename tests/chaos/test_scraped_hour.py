"""A short run of `tests/chaos/scraped_hour.py` for each version of Prometheus."""

import shutil
from pathlib import Path

import pytest

from tests.chaos.scraped_hour import FORMATS, Scraper, run
from tests.support.prometheus_3 import built_prometheus
from tests.support.requirement import require


@pytest.fixture(params=["2", "3"])
def scrapers(request: pytest.FixtureRequest) -> list[Scraper]:
    version: str = request.param
    if version == "2":
        program = Path(require("prometheus", shutil.which("prometheus")))
    elif (built := built_prometheus()) is not None:
        program = built
    else:
        pytest.skip("needs Prometheus 3, which `python -m tests.support.prometheus_3` builds")
    return [Scraper(f"{version} {format_}", program, format_) for format_ in FORMATS]


def test_every_scrape_succeeds_and_the_last_shows_the_totals_of_the_store(
    tmp_path: Path, scrapers: list[Scraper]
) -> None:
    report = run(tmp_path, scrapers, seconds=8)

    assert report.errors == []
    assert report.outcomes[200] > 50
    for scraped in report.scraped.values():
        assert scraped.scrapes >= 3
        assert scraped.series > 100
        assert sum(scraped.answers.values()) >= scraped.scrapes
