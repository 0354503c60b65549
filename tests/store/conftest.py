from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from app.domain.changes import Rules
from app.store.opening import open_store
from app.store.port import OpenedStore, Store
from tests.store.stories import synced
from tests.support.examples import DAY, GRACE
from tests.support.redis import RedisServer

LEASE_SECONDS = 3600.0
"""The lease of a test's store. It lasts for the whole test, however slow the machine is."""
RULES = Rules(grace_seconds=GRACE, retention_seconds=31 * DAY)

Opener: TypeAlias = Callable[..., Store]
"""Opens the store, with `rules`, `hold` and `reset_totals`; what it opened before is closed first."""


def opener(url: str) -> tuple[Opener, Callable[[], None]]:
    """Something that opens the store at the URL again and again, and something that closes it."""
    opened: list[Store] = []

    def close() -> None:
        while opened:
            opened.pop().close()

    def open_again(*, rules: Rules = RULES, hold: bool = False, reset_totals: bool = False) -> Store:
        close()
        opened.append(
            synced(open_store(url, rules, hold=hold, reset_totals=reset_totals, lease_seconds=LEASE_SECONDS))
        )
        return opened[0]

    return open_again, close


@pytest.fixture(scope="package")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One for all tests; each finds it empty. What is on disk is another test's business."""
    with RedisServer(tmp_path_factory.mktemp("redis"), "--appendonly", "no") as server:
        yield server


def empty_redis(request: pytest.FixtureRequest) -> str:
    """The URL of the one Redis, emptied."""
    server: RedisServer = request.getfixturevalue("redis_server")
    server.client.flushall()
    return server.url


def make_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "sqlite-memory":
            return "sqlite:///:memory:"
        case "sqlite-file":
            return f"sqlite:///{tmp_path}/store.db"
        case _:
            return empty_redis(request)


@pytest.fixture(params=["sqlite-file", "sqlite-memory", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Every implementation's."""
    return make_url(request, tmp_path)


@pytest.fixture
def open_again(url: str) -> Iterator[Opener]:
    """Every implementation."""
    open_again, close = opener(url)
    yield open_again
    close()


@pytest.fixture
def opened(url: str) -> Iterator[OpenedStore]:
    """A store of every implementation, and its ledger."""
    opened = open_store(url, RULES, lease_seconds=LEASE_SECONDS)
    synced(opened)
    yield opened
    opened.store.close()


@pytest.fixture(params=["sqlite-file", "redis"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Every implementation that outlives its process."""
    open_again, close = opener(make_url(request, tmp_path))
    yield open_again
    close()


@pytest.fixture
def reopen_sqlite(tmp_path: Path) -> Iterator[Opener]:
    """The SQLite file `store.db`."""
    open_again, close = opener(f"sqlite:///{tmp_path}/store.db")
    yield open_again
    close()


@pytest.fixture
def store(open_again: Opener) -> Store:
    return open_again()
