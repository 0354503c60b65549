"""Reads of the ledger: pages of interruptions, and summaries of the last week by node pool."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from app.domain.instances import Labels
from app.domain.outcomes import Counted

HOUR_SECONDS: Final = 3600.0
DAY_SECONDS: Final = 86400.0
PERIOD_SECONDS: Final = 6 * HOUR_SECONDS
PERIODS: Final = 28
"""Number of periods in a week: the bars of a pool's chart."""


class LedgerPosition(NamedTuple):
    """The position of an interruption in the ledger, which is ordered by time, then by key."""

    at: float
    key: str


@dataclass(frozen=True, slots=True)
class Query:
    """The filters and the limit for a page of interruptions, newest first."""

    since: float = float("-inf")
    until: float = float("inf")
    """Event times: at or after `since`, and before `until`."""
    project: str | None = None
    cluster: str | None = None
    """The cluster as it is known now: an interruption counted as `unknown` may have been attributed later.

    Cluster names are unique only within a project and a location.
    """
    cluster_location: str | None = None
    counted: bool | None = None
    """True: only rows that the totals include; False: only rows that they do not include."""
    before: LedgerPosition | None = None
    """The position of the last row of the previous page. Only rows after it are read."""
    limit: int = 100


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A row of the ledger."""

    counted: Counted
    recorded_at: float

    @property
    def position(self) -> LedgerPosition:
        """The position of the row."""
        return LedgerPosition(self.counted.at, self.counted.key)


class Pool(NamedTuple):
    """A node pool. Cluster names are unique only within a project and a location."""

    project: str
    cluster: str
    cluster_location: str
    node_pool: str


@dataclass(frozen=True, slots=True)
class PoolWeek:
    """The counted interruptions of a node pool in the week before a given time."""

    pool: Pool
    last_hour: int
    last_day: int
    last_week: int
    newest_at: float
    """The time of the newest interruption, counted or not."""
    median_age: float | None
    """Seconds; None if no age is known."""
    periods: Sequence[int]
    """Counted interruptions in each of the week's `PERIODS`, oldest first."""
    past_periods: Sequence[int] = ()
    """Interruptions in the same periods that the totals do not include."""


@dataclass(frozen=True, slots=True)
class LabelSetWeek:
    """The last 7 days of one label set."""

    labels: Labels
    interruptions: int = 0
    counted_as_unknown: int = 0
    """The part of these interruptions that the metrics count under `unknown`."""
    instance_seconds: float = 0.0
    """Time that Spot instances lived, from their stored starts and ends."""
