"""The ledger of the SQLite store, read on connections of its own that cannot change anything."""

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import apsw

from app.domain.events import UNKNOWN
from app.domain.instances import NODE, OTHER, OTHER_LABELS, Labels
from app.domain.ledger import (
    DAY_SECONDS,
    HOUR_SECONDS,
    PERIOD_SECONDS,
    PERIODS,
    LabelSetWeek,
    LedgerEntry,
    LedgerPosition,
    Pool,
    PoolWeek,
    Query,
)
from app.domain.totals import LabelSetTotals
from app.store.port import READ_SECONDS
from app.store.sqlite.file import SQLiteFile, translate_error
from app.store.sqlite.rows import LEDGER_COLUMNS, entry_of_row, select, select_label_sets
from app.store.sqlite.schema import read_clock

_INSTRUCTIONS_PER_CHECK: Final = 10_000
"""Instructions of SQLite's virtual machine between two checks of the time limit."""
_PAGE: Final = select(
    LEDGER_COLUMNS,
    """FROM ledger
    WHERE at >= :since AND at < :until
        AND (:project IS NULL OR substr(name, 1, instr(name, '/') - 1) = :project)
        AND (:cluster IS NULL OR cluster = :cluster)
        AND (:cluster_location IS NULL OR cluster_location = :cluster_location)
        AND (:counted IS NULL OR (counted_as <> '') = :counted)
        AND at <= :before_at AND (at < :before_at OR key < :before_key)
    ORDER BY at DESC, key DESC LIMIT :limit""",
)
_COUNTS: Final = """
    SELECT substr(name, 1, instr(name, '/') - 1) AS project, cluster, cluster_location, node_pool,
        sum(counted_as <> '' AND at >= :hour), sum(counted_as <> '' AND at >= :day), sum(counted_as <> ''),
        max(at)
    FROM ledger WHERE at >= :week AND at < :now
    GROUP BY 1, 2, 3, 4 ORDER BY count(*) DESC, 1, 2, 3, 4 LIMIT :limit"""
_BY_PERIOD: Final = """
    SELECT substr(name, 1, instr(name, '/') - 1) AS project, cluster, cluster_location, node_pool,
        CAST((at - :week) / :period AS INTEGER), sum(counted_as <> ''), sum(counted_as = '')
    FROM ledger WHERE at >= :week AND at < :now GROUP BY 1, 2, 3, 4, 5"""
_MEDIANS: Final = """
    SELECT project, cluster, cluster_location, node_pool, avg(age_seconds)
    FROM (
        SELECT *, row_number() OVER by_age AS place, count(*) OVER pool AS number
        FROM (
            SELECT substr(name, 1, instr(name, '/') - 1) AS project, cluster, cluster_location, node_pool,
                age_seconds
            FROM ledger
            WHERE at >= :week AND at < :now AND counted_as <> '' AND age_seconds IS NOT NULL)
        WINDOW pool AS (PARTITION BY project, cluster, cluster_location, node_pool),
            by_age AS (pool ORDER BY age_seconds))
    WHERE place IN ((number + 1) / 2, (number + 2) / 2)
    GROUP BY 1, 2, 3, 4"""


_LABELS: Final = """project, cluster, cluster_location, node_pool,
        substr(place, 1, instr(place, '/') - 1) AS zone, machine_type"""
_SPLIT: Final = (
    "substr(name, 1, instr(name, '/') - 1) AS project, substr(name, instr(name, '/') + 1) AS place"
)
_INTERRUPTED: Final = f"""
    SELECT {_LABELS}, counted_as = '{OTHER}', count(*), sum(counted_as = '{UNKNOWN}')
    FROM (SELECT *, {_SPLIT} FROM ledger WHERE at >= :week AND at < :now AND counted_as <> '')
    GROUP BY 1, 2, 3, 4, 5, 6, 7"""  # noqa: S608 - constants of this module
_LIVED: Final = f"""
    SELECT {_LABELS}, overflowed, sum(max(0.0, until - since))
    FROM (
        SELECT *, {_SPLIT}, CASE WHEN alive THEN :now ELSE min(ended_at, :now) END AS until,
            max(coalesce(started_at, created_at, recorded_at), coalesce(created_at, 0), :week) AS since
        FROM (SELECT * FROM instances UNION ALL SELECT * FROM archived_instances)
        WHERE spot AND NOT failed AND kind = {NODE:d} AND (alive OR ended_at > :week))
    GROUP BY 1, 2, 3, 4, 5, 6, 7"""  # noqa: S608 - constants of this module


class _PoolRow(NamedTuple):
    """The number of interruptions of a node pool."""

    pool: Pool
    last_hour: int
    last_day: int
    last_week: int
    newest_at: float


class SQLiteLedger:
    """See `app.store.port.LedgerReader`."""

    def __init__(self, file: SQLiteFile, *, read_seconds: float = READ_SECONDS) -> None:
        self._file = file
        self._read_seconds = read_seconds

    def interruptions(self, query: Query) -> Sequence[LedgerEntry]:
        before = query.before or LedgerPosition(float("inf"), "")
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
            return [entry_of_row(row) for row in connection.execute(_PAGE, values)]

    def pools(self, now: float, limit: int) -> Sequence[PoolWeek]:
        begin = now - PERIODS * PERIOD_SECONDS
        moments = {
            "now": now,
            "hour": now - HOUR_SECONDS,
            "day": now - DAY_SECONDS,
            "week": begin,
            "period": PERIOD_SECONDS,
            "limit": limit,
        }
        periods: dict[Pool, list[int]] = defaultdict(lambda: [0] * PERIODS)
        past: dict[Pool, list[int]] = defaultdict(lambda: [0] * PERIODS)
        with self._reading() as connection:
            connection.execute("BEGIN")
            counts = [
                _PoolRow(Pool(*pool), hour, day, week, newest)
                for *pool, hour, day, week, newest in connection.execute(_COUNTS, moments)
            ]
            for *pool, period, counted, uncounted in connection.execute(_BY_PERIOD, moments):
                periods[Pool(*pool)][min(period, PERIODS - 1)] = counted
                past[Pool(*pool)][min(period, PERIODS - 1)] = uncounted
            medians = {Pool(*pool): age for *pool, age in connection.execute(_MEDIANS, moments)}
        return [
            PoolWeek(
                row.pool,
                row.last_hour,
                row.last_day,
                row.last_week,
                row.newest_at,
                medians.get(row.pool),
                periods[row.pool],
                past[row.pool],
            )
            for row in counts
        ]

    def week(self, now: float) -> Sequence[LabelSetWeek]:
        moments = {"now": now, "week": now - PERIODS * PERIOD_SECONDS}
        with self._reading() as connection:
            connection.execute("BEGIN")
            interrupted = [
                LabelSetWeek(_series_labels(labels, overflowed), number, unknown)
                for *labels, overflowed, number, unknown in connection.execute(_INTERRUPTED, moments)
            ]
            lived = [
                LabelSetWeek(_series_labels(labels, overflowed), instance_seconds=seconds)
                for *labels, overflowed, seconds in connection.execute(_LIVED, moments)
            ]
        return [*interrupted, *lived]

    def counting_since(self) -> float | None:
        with self._reading() as connection:
            return read_clock(connection, "keys_complete_since")

    def label_sets(self) -> Sequence[LabelSetTotals]:
        with self._reading() as connection:
            return select_label_sets(connection)

    @contextmanager
    def _reading(self) -> Iterator[apsw.Connection]:
        until = time.monotonic() + self._read_seconds
        try:
            with self._file.reading() as connection:
                connection.set_progress_handler(lambda: time.monotonic() > until, _INSTRUCTIONS_PER_CHECK)
                yield connection
        except (apsw.Error, OSError) as exc:
            raise translate_error(exc) from exc


def _series_labels(labels: Sequence[str], overflowed: int) -> Labels:
    return OTHER_LABELS if overflowed else Labels(*labels)
