"""The ledger as it is read: interruptions by page, and what those of the last week come to by node pool."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from app.domain.instances import Labels
from app.domain.outcomes import Counted

HOUR_SECONDS: Final = 3600.0
DAY_SECONDS: Final = 86400.0
PERIOD_SECONDS: Final = 6 * HOUR_SECONDS
PERIODS: Final = 28
"""How many periods a week has: the bars of a pool's chart."""


class Place(NamedTuple):
    """Where in the ledger an interruption stands: they are in the order of their time, then of their key."""

    at: float
    key: str


@dataclass(frozen=True, slots=True)
class Query:
    """Which interruptions to read, newest first."""

    since: float = float("-inf")
    until: float = float("inf")
    """Event times: from `since` on, and before `until`."""
    project: str | None = None
    cluster: str | None = None
    """As it is known by now: an interruption counted as `unknown` may have been explained since.

    The names of clusters are unique only with project and location.
    """
    cluster_location: str | None = None
    counted: bool | None = None
    """True: only rows that the totals include; False: only rows that they do not include."""
    before: Place | None = None
    """Only what stands behind this one: it was the last of the page before."""
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the ledger."""

    counted: Counted
    recorded_at: float

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(self.counted.at, self.counted.key)


class Pool(NamedTuple):
    """A node pool; the names of clusters are unique only with project and location."""

    project: str
    cluster: str
    cluster_location: str
    node_pool: str


@dataclass(frozen=True, slots=True)
class PoolHistory:
    """The interruptions of a node pool in the week before a moment."""

    pool: Pool
    last_hour: int
    last_day: int
    last_week: int
    newest_at: float
    median_age: float | None
    """Seconds; None where no age is known."""
    periods: Sequence[int]
    """Interruptions in each of the week's `PERIODS`, oldest first."""


@dataclass(frozen=True, slots=True)
class LabelSetWeek:
    """The last 7 days of one label set."""

    labels: Labels
    interruptions: int = 0
    counted_as_unknown: int = 0
    """Of these interruptions, those that the metrics have under `unknown`."""
    instance_seconds: float = 0.0
    """Time that Spot instances lived, from the starts and ends that are remembered of them."""
