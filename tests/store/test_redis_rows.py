"""The values of the Redis store."""

import json
from typing import Any, Final

import pytest

from app.domain.events import InterruptionDetails
from app.domain.outcomes import Counted
from app.store.redis.rows import decode_entry, encode_counted
from tests.support.examples import NAME, NOW, TILLS

UNUSED: Final = InterruptionDetails()


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        pytest.param(["operation"], InterruptionDetails("operation"), id="same"),
        pytest.param([], InterruptionDetails(), id="older"),
        pytest.param(["operation", "later field"], InterruptionDetails("operation"), id="newer"),
    ],
)
def test_a_ledger_row_of_another_version_is_read(details: list[Any], expected: InterruptionDetails) -> None:
    counted = Counted(
        "key", 1.0, NAME, "1", TILLS, "tills", 5.0, attributed=True, released_by=None, details=UNUSED
    )
    *row, _ = json.loads(encode_counted(counted, "1", NOW))

    entry = decode_entry("key", json.dumps([*row, details]), None, {})

    assert entry.counted.details == expected
