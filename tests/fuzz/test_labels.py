from http import HTTPStatus
from pathlib import Path
from typing import Final

import pytest

from tests.fuzz.hostile import LIMIT
from tests.fuzz.labels import run
from tests.support.entries import insert
from tests.support.exporter import Exporter
from tests.web.problems import assert_problem

_NAMES, _LIMIT = 1_200, 200
_GROWTH_MIB: Final = 25
"""For what is not bounded by the limit and does not stay: pages of the store, memory not yet given back."""


def test_hostile_clusters_are_shown_exactly_and_bounded(tmp_path: Path) -> None:
    report = run(tmp_path, number=_NAMES, limit=_LIMIT)

    assert not report.wrong, "\n".join(report.wrong[:20])
    assert report.warnings == 1  # of the limit, once
    assert report.mib_in_the_end < report.mib_at_limit + _GROWTH_MIB


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("tills\n", id="newline"),
        pytest.param("tills\r", id="return"),
        pytest.param("ti\tlls", id="tab"),
        pytest.param("\x00", id="nul"),
        pytest.param("tills\x7f", id="delete"),
        pytest.param("tills\x85", id="next-line"),
        pytest.param("\U0001f600" * (LIMIT + 1), id="too-long"),
    ],
)
def test_a_name_that_cannot_be_shown_is_refused(shared_exporter: Exporter, name: str) -> None:
    before = shared_exporter.exposition()
    refused = shared_exporter.deliver("creation", insert("node-1", cluster=name))

    assert_problem(refused, HTTPStatus.UNPROCESSABLE_ENTITY, "malformed_entry")
    after = shared_exporter.exposition()
    assert {sample for sample, _ in after.items() if "cluster" in str(sample)} == {
        sample for sample, _ in before.items() if "cluster" in str(sample)
    }
