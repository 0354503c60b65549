"""The ledger's rows, which the port cannot read yet."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from app.domain.attribution import Rules
from app.domain.events import UNKNOWN, Event
from app.store import open_store
from tests.domain.examples import GRACE, NAME, NOW, created, interrupted

END_OF_GRACE: Final = None
NUMBERED: Final = NAME._replace(project="123456789")
TEACHES: Final = created("99", name=NAME._replace(instance="teacher"), number="123456789")
UNDER_ID: Final = "/".join(NAME)


@pytest.mark.parametrize(
    ("story", "row"),
    [
        pytest.param(
            [created(), interrupted()], (UNDER_ID, "1", "tills", "tills", 900.0, 1, None), id="at-once"
        ),
        pytest.param(
            [interrupted(), created()], (UNDER_ID, "1", "tills", "tills", 900.0, 1, "creation"), id="released"
        ),
        pytest.param(
            [interrupted(), END_OF_GRACE], (UNDER_ID, "1", UNKNOWN, UNKNOWN, None, 0, "expiry"), id="expired"
        ),
        pytest.param(
            [interrupted(), END_OF_GRACE, created()],
            (UNDER_ID, "1", "tills", UNKNOWN, None, 1, "expiry"),
            id="completed",
        ),
        pytest.param(
            [created(name=NUMBERED), interrupted(name=NUMBERED), TEACHES],
            (UNDER_ID, "1", "tills", "tills", 900.0, 1, None),
            id="counted-under-the-number",
        ),
        pytest.param(
            [interrupted(name=NUMBERED), END_OF_GRACE, TEACHES, created()],
            (UNDER_ID, "1", "tills", UNKNOWN, None, 1, "expiry"),
            id="completed-under-the-id",
        ),
        pytest.param(
            [interrupted(), END_OF_GRACE, created(name=NUMBERED), TEACHES],
            (UNDER_ID, "1", "tills", UNKNOWN, None, 1, "expiry"),
            id="completed-once-the-number-is-known",
        ),
    ],
)
def test_an_interruption_stands_in_the_ledger_so(
    tmp_path: Path, story: list[Event | None], row: tuple[object, ...]
) -> None:
    path = tmp_path / "store.db"
    store = open_store(f"sqlite:///{path}", Rules(GRACE)).store
    for event in story:
        if event is END_OF_GRACE:
            store.expire(NOW + GRACE)
        else:
            store.apply([event], NOW)
    store.close()

    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(
            "SELECT name, identity, cluster, counted_as, age_seconds, explained, released_by FROM ledger"
        ).fetchall() == [row]
