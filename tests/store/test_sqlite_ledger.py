from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from app.errors import StoreUnavailableError
from app.store.engine import Engine
from app.store.memory import Memory
from app.store.sqlite.backend import SQLiteBackend
from app.store.sqlite.file import SQLiteFile
from app.store.sqlite.ledger import SQLiteLedger
from tests.store.conftest import RULES
from tests.store.stories import life, lives
from tests.support.examples import NOW


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SQLiteFile]:
    file = SQLiteFile.open(f"{tmp_path}/store.db")
    store = Engine(SQLiteBackend(file, Memory(RULES, hold=False)))
    store.apply(lives(*(life(number) for number in range(2000))), NOW)
    yield file
    store.close()


def test_reading_that_takes_too_long_is_given_up(file: SQLiteFile) -> None:
    assert SQLiteLedger(file).pools(NOW + 1, 10)

    with pytest.raises(StoreUnavailableError, match="interrupted"):
        SQLiteLedger(file, read_seconds=-1).pools(NOW + 1, 10)


def test_its_connections_can_change_nothing(file: SQLiteFile) -> None:
    with file.reading() as connection, pytest.raises(apsw.ReadOnlyError, match="readonly"):
        connection.execute("DELETE FROM ledger")
