"""The stores of released versions, which this version opens and continues."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from redis import Redis

from app.domain.ledger import LedgerEntry, Query
from app.domain.outcomes import Duplicate
from app.store.port import OpenedStore, StoredState
from tests.store.conftest import empty_redis
from tests.support.docs import rows
from tests.support.examples import NOW
from tests.support.releases import (
    FOLDER,
    LATER_EVENTS,
    dump_redis,
    dump_sqlite,
    fill,
    load_redis,
    load_sqlite,
    open_recorded,
)

RELEASES = sorted(path.stem for path in FOLDER.glob("*.sql"))


class Contents(NamedTuple):
    """The contents of a store, as the rest of the exporter sees them."""

    state: StoredState
    ledger: Sequence[LedgerEntry]


def contents(opened: OpenedStore) -> Contents:
    return Contents(opened.store.state(), opened.ledger.interruptions(Query()))


class Kind(NamedTuple):
    """A kind of store."""

    url: str
    load: Callable[[str], None]
    """Makes the store from what was recorded."""
    dump: Callable[[], str]
    empty: Callable[[], object]
    suffix: str


@pytest.fixture(params=["sqlite", "redis"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    if request.param == "sqlite":
        path = tmp_path / "store.db"
        yield Kind(
            f"sqlite:///{path}",
            lambda script: load_sqlite(path, script),
            lambda: dump_sqlite(path),
            path.unlink,
            ".sql",
        )
        return
    url = empty_redis(request)
    with closing(Redis.from_url(url, decode_responses=True)) as client:
        yield Kind(
            url,
            lambda script: load_redis(client, script),
            lambda: dump_redis(client),
            client.flushall,
            ".redis.json",
        )


def filled_by_this_version(kind: Kind, stack: ExitStack) -> OpenedStore:
    opened = open_recorded(kind.url)
    stack.callback(opened.store.close)
    fill(opened)
    return opened


def filled_by(release: str, kind: Kind, stack: ExitStack) -> OpenedStore:
    kind.load((FOLDER / f"{release}{kind.suffix}").read_text())
    opened = open_recorded(kind.url)
    stack.callback(opened.store.close)
    return opened


@pytest.mark.parametrize("release", RELEASES)
def test_a_store_of_a_release_has_the_same_contents_and_continues_in_the_same_way(
    release: str, kind: Kind
) -> None:
    seen = []
    for fill_store in (filled_by_this_version, partial(filled_by, release)):
        with ExitStack() as stack:
            opened = fill_store(kind, stack)
            before = contents(opened)
            outcomes = opened.store.apply(LATER_EVENTS, NOW + 120.0).outcomes
            seen.append((before, outcomes, contents(opened)))
        kind.empty()

    new, old = seen
    assert old == new
    assert [isinstance(outcome, Duplicate) for outcome in old[1]] == [True, True, *[False] * 5]


def test_the_newest_release_has_what_this_version_writes(kind: Kind) -> None:
    newest = rows("schema-versions")[0][0]

    with ExitStack() as stack:
        filled_by_this_version(kind, stack)

    assert kind.dump() == (FOLDER / f"{newest}{kind.suffix}").read_text()
