"""The state of a listing under way in a SQLite store."""

from contextlib import closing
from pathlib import Path

import apsw
import pytest

from app.errors import StoreUnavailableError
from app.store.port import Store
from tests.store.conftest import Opener
from tests.store.stories import list_fleet, living, name_all
from tests.support.examples import NAME, NOW, OTHER_NAME, created, listed


def test_a_listing_is_lost_with_the_connection_and_ends_nothing(
    reopen_sqlite: Opener, tmp_path: Path
) -> None:
    store = reopen_sqlite()
    store.apply([created("1"), created("2", name=OTHER_NAME)], NOW)
    name_all(store, [listed("1")], NOW + 600)
    lose_connection(store, tmp_path / "store.db")

    with pytest.raises(StoreUnavailableError, match="unavailable"):
        store.record_listed(NAME.project, NOW + 600, [listed("2", name=OTHER_NAME)], NOW + 602)
    with pytest.raises(StoreUnavailableError, match="unavailable"):
        store.end_listing(NAME.project, NOW + 600, (), NOW + 603)
    assert living(store) == 2
    assert not store.state().listed

    list_fleet(store, [listed("1")], NOW + 1200)
    assert living(store) == 1


def test_listed_ids_are_not_in_the_file(reopen_sqlite: Opener, tmp_path: Path) -> None:
    name_all(reopen_sqlite(), [listed()], NOW)

    with closing(apsw.Connection(str(tmp_path / "store.db"), flags=apsw.SQLITE_OPEN_READONLY)) as reader:
        tables = {table for (table,) in reader.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert not {table for table in tables if "listed" in table}


def test_a_listing_that_was_lost_is_not_complete_even_if_it_may_end_nothing(
    reopen_sqlite: Opener, tmp_path: Path
) -> None:
    store = reopen_sqlite()
    list_fleet(store, [listed()], NOW + 600)
    name_all(store, [listed()], NOW + 630)
    lose_connection(store, tmp_path / "store.db")

    with pytest.raises(StoreUnavailableError, match="unavailable"):
        store.end_listing(NAME.project, NOW + 630, (), NOW + 631)
    assert store.state().listed == {NAME.project: NOW + 600}


def lose_connection(store: Store, path: Path) -> None:
    with closing(apsw.Connection(str(path))) as intruder:
        intruder.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="locked"):
            store.apply([created("3", name=NAME._replace(instance="third"))], NOW + 601)
