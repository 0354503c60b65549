"""Short runs of the benchmarks in `tests/bench/`: their counts must be right. Speed is not asserted."""

import shutil
from argparse import Namespace
from pathlib import Path

import pytest

from tests.bench import latency, layers, pull, scrape, throughput
from tests.bench.loads import LOADS
from tests.support.requirement import require


def test_under_full_load_the_exporter_and_the_plain_way_count_all_that_they_answer(tmp_path: Path) -> None:
    require("wrk", shutil.which("wrk"))
    options = Namespace(seconds=1, rounds=1, instances=200, connections=8)

    results = throughput.run(tmp_path, options)

    assert throughput.count_errors(results, options.connections) == []
    assert all(one.load.answered_200 for measured in results.values() for one in measured)
    assert not any(one.load.errors for measured in results.values() for one in measured)


@pytest.mark.parametrize("load", LOADS)
def test_pushes_at_a_constant_rate_are_all_counted_beside_each_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], load: str
) -> None:
    options = Namespace(rate=200, seconds=1, rounds=2, entries=1200, series=500)

    report = latency.run(tmp_path, load, options)

    assert report.errors == []
    assert [len(phase.ratios()) for phase in report.phases.values()] == [2] * len(report.phases)
    assert report.peak_mib > 0
    latency.print_report(report)
    assert "nan" not in capsys.readouterr().out


def test_each_layer_is_measured_on_interruptions_that_count(tmp_path: Path) -> None:
    rounds = list(layers.run(tmp_path, Namespace(events=40, batch=10, instances=100)))

    assert len(rounds) == 3
    assert all(sum(measured.values()) > 0 for measured in rounds)


@pytest.mark.parametrize("go", [None, "go"])
def test_scraped_exporters_count_every_push_and_the_peer_has_the_same_series(
    tmp_path: Path, go: str | None
) -> None:
    if go is not None:
        require("go", shutil.which(go))
    options = Namespace(series=[200], changed=[0, 1, 100], rounds=1, rate=100, seconds=1, before=None, go=go)

    report = scrape.run(tmp_path, options)

    assert report.errors == []
    assert report.skipped == ["client_golang: Go is not installed", "before: no --before"][go is not None :]
    assert set(report.costs[200]) == {"exporter", *([] if go is None else ["client_golang"])}


def test_each_subscriber_handles_all_messages_in_bulk_and_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = Namespace(waiting=20, lone=5, rounds=1, original=str(tmp_path / "nowhere"))

    report = pull.run(tmp_path, options)

    assert set(report.figures) == {"pull", "push", "library alone"}
    assert all(min(figures) > 0 for rounds in report.figures.values() for figures in rounds)
    assert [line.partition(":")[0] for line in report.skipped] == ["original"]
    pull.print_report(report, options)
    assert "library alone" in capsys.readouterr().out
