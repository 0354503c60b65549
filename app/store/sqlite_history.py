"""The embedded store's ledger, read on connections of its own that can change nothing."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import apsw

from app.domain.events import Node
from app.domain.history import (
    DAY_SECONDS,
    HOUR_SECONDS,
    PERIOD_SECONDS,
    PERIODS,
    Entry,
    Place,
    Pool,
    PoolHistory,
    Query,
)
from app.domain.instances import id_of
from app.domain.outcomes import Counted
from app.domain.totals import LabelSetTotals
from app.store import READ_SECONDS
from app.store.sqlite_file import SQLiteFile, translated
from app.store.sqlite_places import name_of
from app.store.sqlite_rows import label_sets

_STEPS: Final = 10_000
"""Instructions of SQLite's machine between two looks at the clock."""
_PAGE: Final = """
    SELECT key, at, recorded_at, name, identity, cluster, cluster_location, node_pool, machine_type,
        counted_as, age_seconds, explained, released_by
    FROM ledger
    WHERE at >= :since AND at < :until
        AND (:project IS NULL OR substr(name, 1, instr(name, '/') - 1) = :project)
        AND (:cluster IS NULL OR cluster = :cluster)
        AND (:cluster_location IS NULL OR cluster_location = :cluster_location)
        AND (:counted IS NULL OR (counted_as <> '') = :counted)
        AND at <= :before_at AND (at < :before_at OR key < :before_key)
    ORDER BY at DESC, key DESC LIMIT :limit"""
_COUNTS: Final = """
    SELECT substr(name, 1, instr(name, '/') - 1) AS project, cluster, cluster_location, node_pool,
        sum(at >= :hour), sum(at >= :day), count(*), max(at)
    FROM ledger WHERE at >= :week AND at < :now
    GROUP BY 1, 2, 3, 4 ORDER BY count(*) DESC, 1, 2, 3, 4 LIMIT :limit"""
_BY_PERIOD: Final = """
    SELECT substr(name, 1, instr(name, '/') - 1) AS project, cluster, cluster_location, node_pool,
        CAST((at - :week) / :period AS INTEGER), count(*)
    FROM ledger WHERE at >= :week AND at < :now GROUP BY 1, 2, 3, 4, 5"""
_MEDIANS: Final = """
    SELECT project, cluster, cluster_location, node_pool, avg(age_seconds)
    FROM (
        SELECT *, row_number() OVER by_age AS place, count(*) OVER pool AS number
        FROM (
            SELECT substr(name, 1, instr(name, '/') - 1) AS project, cluster, cluster_location, node_pool,
                age_seconds
            FROM ledger WHERE at >= :week AND at < :now AND age_seconds IS NOT NULL)
        WINDOW pool AS (PARTITION BY project, cluster, cluster_location, node_pool),
            by_age AS (pool ORDER BY age_seconds))
    WHERE place IN ((number + 1) / 2, (number + 2) / 2)
    GROUP BY 1, 2, 3, 4"""


class SQLiteHistory:
    """See `app.store.History`."""

    def __init__(self, file: SQLiteFile, *, read_seconds: float = READ_SECONDS) -> None:
        self._file = file
        self._read_seconds = read_seconds

    def interruptions(self, query: Query) -> Sequence[Entry]:
        before = query.before or Place(float("inf"), "")
        values = {
            "since": query.since,
            "until": query.until,
            "project": query.project,
            "cluster": query.cluster,
            "cluster_location": query.cluster_location,
            "counted": query.counted,
            "before_at": before.at,
            "before_key": before.key,
            "limit": query.limit,
        }
        with self._reading() as connection:
            return [_entry(row) for row in connection.execute(_PAGE, values)]

    def pools(self, now: float, limit: int) -> Sequence[PoolHistory]:
        week = now - PERIODS * PERIOD_SECONDS
        moments = {
            "now": now,
            "hour": now - HOUR_SECONDS,
            "day": now - DAY_SECONDS,
            "week": week,
            "period": PERIOD_SECONDS,
            "limit": limit,
        }
        periods: dict[Pool, list[int]] = defaultdict(lambda: [0] * PERIODS)
        with self._reading() as connection:
            connection.execute("BEGIN")
            counts: list[Any] = connection.execute(_COUNTS, moments).fetchall()
            for *pool, period, number in connection.execute(_BY_PERIOD, moments):
                periods[Pool(*pool)][min(period, PERIODS - 1)] = number
            medians = {Pool(*pool): age for *pool, age in connection.execute(_MEDIANS, moments)}
        return [
            PoolHistory(pool, hour, day, in_week, newest, medians.get(pool), periods[pool])
            for pool, (hour, day, in_week, newest) in ((Pool(*row[:4]), row[4:]) for row in counts)
        ]

    def label_sets(self) -> Sequence[LabelSetTotals]:
        with self._reading() as connection:
            return label_sets(connection)

    @contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        until = time.monotonic() + self._read_seconds
        try:
            with self._file.reading() as connection:
                connection.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
                yield connection
        except (apsw.Error, OSError) as exc:
            raise translated(exc) from exc


def _entry(row: Sequence[Any]) -> Entry:
    key, at, recorded_at, name, identity, *node, counted_as, age, explained, released_by = row
    counted = Counted(
        key, at, name_of(name), id_of(identity), Node(*node), counted_as, age, bool(explained), released_by
    )
    return Entry(counted, recorded_at)
