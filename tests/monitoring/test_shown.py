"""The status page and the ledger show the truth about the simulated week."""

import time
from collections import Counter
from collections.abc import Iterator
from math import inf
from typing import Any, Final

import pytest

from tests.simulation.fleet import DAY
from tests.simulation.week import Week
from tests.support.pages import StatusPage

_AROUND: Final = 600.0


def ledger(week: Week) -> Iterator[dict[str, Any]]:
    """Yield all rows of the ledger, page by page."""
    parameters: dict[str, str | int] = {"limit": 1000}
    while True:
        response = week.exporter.client.get(
            f"{week.exporter.metrics_url}/interruptions", params=parameters
        ).raise_for_status()
        answer = response.json()
        yield from answer["interruptions"]
        if answer["next"] is None:
            return
        parameters["cursor"] = answer["next"]


def test_the_ledger_has_each_interruption_once(week: Week) -> None:
    rows = list(ledger(week))

    true = week.truth.interruptions(-inf, inf, "kubernetes_cluster")
    assert Counter((row["counted_as"],) for row in rows) == true
    assert len({(row["instance_id"], row["interrupted_at"]) for row in rows}) == true.total() > 1000
    assert [row["interrupted_at"] for row in rows] == sorted(
        (row["interrupted_at"] for row in rows), reverse=True
    )


def test_the_page_shows_the_true_counts(week: Week) -> None:
    page = StatusPage(week.exporter.client.get(f"{week.exporter.metrics_url}/").text)

    living, of_the_week = (
        int(page.tiles[tile].replace(",", "")) for tile in ("Live Spot instances", "Last 7 days")
    )
    assert living == week.truth.alive(week.ends).total()
    # The week of the page ends now, and is measured by the times of the log entries.
    begins = time.time() - 7 * DAY
    ends = [one.ended_at for one in week.truth.incarnations if one.counted_at is not None]
    least, most = (sum(end > begins + around for end in ends) for around in (_AROUND, -_AROUND))
    assert least <= of_the_week <= most < 1.01 * least


def test_the_page_shows_the_true_rates(week: Week) -> None:
    page = StatusPage(week.exporter.client.get(f"{week.exporter.metrics_url}/").text)
    begins = week.ends - 7 * DAY
    interruptions = week.truth.interruptions(begins, inf, "machine_type")
    hours = week.truth.instance_hours(begins, week.ends, "machine_type")

    shown = {
        row[0]: float(row[2]) for row in page.tables["breakdowns"] if row[0] in {key[0] for key in hours}
    }
    assert shown == {
        machine_type: pytest.approx(1000 * interruptions[machine_type,] / lived, rel=0.05)
        for (machine_type,), lived in hours.items()
    }
