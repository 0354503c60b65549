"""Short runs of `tests/bench/memory.py` and `backlog.py`. Speed is not asserted."""

from pathlib import Path

import pytest

from tests.bench import backlog, memory


def test_a_copied_fleet_is_counted_as_the_exporters_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [size] = memory.measure(tmp_path, [1_000], events=200, rounds=1, seed=1)

    assert (size.instances, size.counted, size.refused) == (1_000, 400, 0)
    assert len(size.prune) > 1  # more than one slice: the pass covered all rows
    memory.print_report([size])
    assert "1,000 instances" in capsys.readouterr().out


def test_a_backlog_is_counted_exactly_once_and_pruned_after_a_month(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = backlog.measure(tmp_path, messages=2_000, connections=16, window=500, seed=1)

    assert report.errors == []
    assert sum(report.outcomes.values()) == 2_000
    assert report.outcomes["duplicate"]
    assert len(report.windows) == 4
    assert report.pruned.left == 0
    assert report.pruned_under_load.refused == 0
    backlog.print_report(report)
    assert "totals: exact" in capsys.readouterr().out
