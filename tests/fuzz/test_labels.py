from http import HTTPStatus
from pathlib import Path
from typing import Final

import pytest

from tests.fuzz.hostile_values import LIMIT
from tests.fuzz.labels import run
from tests.support.entries import insert
from tests.support.exporter import Exporter
from tests.web.problems import assert_problem

pytestmark = pytest.mark.usefixtures("quick_programs")

_NAMES, _LIMIT = 1_200, 200
_GROWTH_MIB: Final = 25
"""Allowed growth that is unrelated to the limit: the store's page cache, memory that is not yet released."""


def test_hostile_cluster_names_are_exposed_unchanged_and_bounded(tmp_path: Path) -> None:
    report = run(tmp_path, number=_NAMES, limit=_LIMIT)

    assert not report.errors, "\n".join(report.errors[:20])
    assert report.warnings == 1  # about the limit, once
    assert report.mib_at_end < report.mib_at_limit + _GROWTH_MIB


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
def test_a_cluster_name_with_a_forbidden_character_or_length_is_refused(
    shared_exporter: Exporter, name: str
) -> None:
    before = shared_exporter.exposition()
    refused = shared_exporter.deliver("creation", insert("node-1", cluster=name))

    assert_problem(refused, HTTPStatus.UNPROCESSABLE_ENTITY, "malformed_entry")
    after = shared_exporter.exposition()
    assert {sample for sample, _ in after.items() if "cluster" in str(sample)} == {
        sample for sample, _ in before.items() if "cluster" in str(sample)
    }
