"""The view model of the status page, computed from a snapshot. It is pure; the template adds only words."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from app.domain.events import UNKNOWN
from app.domain.instances import OTHER, Labels
from app.domain.ledger import PERIODS, LedgerEntry, Pool, PoolWeek
from app.web.status.charts import Chart, chart
from app.web.status.checks import Check, State, checks
from app.web.status.snapshot import CountedLabels, Snapshot, Window

MAX_POOLS: Final = 200
MAX_BREAKDOWNS: Final = 12
_FEWEST_HOURS: Final = 10.0
"""No rate is shown below this number of instance-hours."""

_Cluster: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of some Spot instances."""

    instances: int = 0
    """Spot instances that live now."""
    interruptions: int = 0
    """Interruptions in the page's window, as the instance-hours."""
    instance_hours: float = 0.0
    last_hour: int | None = None
    """None if the ledger cannot be read."""
    last_day: int | None = None
    last_week: int | None = None
    periods: Sequence[int] = ()
    past: Sequence[int] = ()
    """Interruptions in the same periods that no total includes."""

    @property
    def rate(self) -> float | None:
        """Interruptions per 1,000 instance-hours, or None if there are too few hours."""
        if self.instance_hours < _FEWEST_HOURS:
            return None
        return self.interruptions / self.instance_hours * 1000


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A node pool."""

    pool: Pool
    numbers: Numbers
    median_age: float | None

    @property
    def weight(self) -> tuple[float, float, Pool]:
        """The sort key: most interruptions first, then most instances, then by name."""
        return (-(self.numbers.last_week or 0), -self.numbers.instances, self.pool)


@dataclass(frozen=True, slots=True)
class ClusterRows:
    """A cluster and its pools. A cluster name is unique only with its project and location."""

    project: str
    name: str
    location: str
    numbers: Numbers
    pools: Sequence[PoolRow]


@dataclass(frozen=True, slots=True)
class Breakdown:
    """A machine type or a zone."""

    name: str
    numbers: Numbers


@dataclass(frozen=True, slots=True)
class Overview:
    """The page."""

    now: float
    window: Window
    """The period of the rates and shares."""
    numbers: Numbers
    unknown: int
    """Interruptions in the window that were counted as unknown."""
    pending: int
    pools: int
    """Node pools with a live Spot instance."""
    clusters: Sequence[ClusterRows]
    hidden_pools: int
    """Pools without a row, because there are too many."""
    machine_types: Sequence[Breakdown]
    zones: Sequence[Breakdown]
    chart: Chart
    past: int
    """Interruptions of the last 7 days that no total includes, from before counting began."""
    counting_since: float | None
    newest: Sequence[LedgerEntry]
    checks: Sequence[Check]
    is_empty: bool
    """No Spot instance is known yet."""

    @property
    def attention(self) -> Sequence[Check]:
        """The checks that someone should look at."""
        return [check for check in self.checks if check.state is State.ATTENTION]


def overview(snapshot: Snapshot) -> Overview:
    """Return the view model of a snapshot."""
    counted = snapshot.counted
    rows = sorted(_pool_rows(snapshot, counted), key=lambda row: row.weight)
    numbers = _sum(row.numbers for row in rows)
    known = [row for row in counted if row.labels.cluster not in {UNKNOWN, OTHER}]
    return Overview(
        now=snapshot.now,
        window=snapshot.window,
        numbers=numbers,
        unknown=sum(row.counted_as_unknown for row in counted),
        pending=snapshot.pending,
        pools=sum(row.numbers.instances > 0 for row in rows),
        clusters=_clusters(rows),
        hidden_pools=max(0, sum(_is_shown(row) for row in rows) - MAX_POOLS),
        machine_types=_breakdowns(known, lambda labels: labels.machine_type),
        zones=_breakdowns(known, lambda labels: labels.zone),
        chart=chart(numbers.periods or [0] * PERIODS, snapshot.now, numbers.past),
        past=sum(numbers.past),
        counting_since=snapshot.ledger.counting_since if snapshot.ledger else None,
        newest=snapshot.ledger.newest if snapshot.ledger else (),
        checks=checks(snapshot),
        is_empty=_is_empty(snapshot),
    )


def _is_empty(snapshot: Snapshot) -> bool:
    known = any(row.labels.cluster != UNKNOWN or row.interruptions for row in snapshot.label_sets)
    return not known and not snapshot.pending and not (snapshot.ledger and snapshot.ledger.newest)


def _pool_rows(snapshot: Snapshot, counted: Iterable[CountedLabels]) -> list[PoolRow]:
    """Return a row for every pool that the totals or the ledger know."""
    by_pool: defaultdict[Pool, list[CountedLabels]] = defaultdict(list)
    for row in counted:
        labels = row.labels
        by_pool[Pool(labels.project, labels.cluster, labels.cluster_location, labels.node_pool)].append(row)
    histories = {history.pool: history for history in snapshot.ledger.pools} if snapshot.ledger else {}
    return [
        _pool_row(pool, by_pool.get(pool, ()), histories.get(pool), read=snapshot.ledger is not None)
        for pool in by_pool.keys() | histories.keys()
    ]


def _pool_row(pool: Pool, rows: Sequence[CountedLabels], history: PoolWeek | None, *, read: bool) -> PoolRow:
    counted = _counted(rows)
    if history is None:
        none = 0 if read else None
        numbers = Numbers(*counted, none, none, none, [0] * PERIODS if read else ())
        return PoolRow(pool, numbers, None)
    numbers = Numbers(
        *counted,
        history.last_hour,
        history.last_day,
        history.last_week,
        history.periods,
        history.past_periods,
    )
    return PoolRow(pool, numbers, history.median_age)


def _counted(rows: Sequence[CountedLabels]) -> tuple[int, int, float]:
    instances, interruptions, seconds = 0, 0, 0.0
    for row in rows:
        instances += row.instances
        interruptions += row.interruptions
        seconds += row.instance_seconds
    return instances, interruptions, seconds / 3600


def _is_shown(row: PoolRow) -> bool:
    numbers = row.numbers
    if numbers.last_week is None:
        return bool(numbers.instances or numbers.interruptions)
    return bool(numbers.instances or numbers.last_week or any(numbers.past))


def _clusters(rows: Sequence[PoolRow]) -> Sequence[ClusterRows]:
    """Group the first pools by cluster. The numbers of a cluster are the sums of all its pools."""
    everything: defaultdict[_Cluster, list[Numbers]] = defaultdict(list)
    shown: defaultdict[_Cluster, list[PoolRow]] = defaultdict(list)
    for row in rows:
        everything[row.pool[:3]].append(row.numbers)
    for row in [row for row in rows if _is_shown(row)][:MAX_POOLS]:
        shown[row.pool[:3]].append(row)
    clusters = [
        ClusterRows(project, name, location, _sum(everything[project, name, location]), pools)
        for (project, name, location), pools in shown.items()
    ]
    return sorted(clusters, key=lambda row: (-(row.numbers.last_week or 0), -row.numbers.instances))


def _breakdowns(rows: Iterable[CountedLabels], name_of: Callable[[Labels], str]) -> Sequence[Breakdown]:
    """Return the machine types, or the zones, with the highest rates."""
    by_name: defaultdict[str, list[CountedLabels]] = defaultdict(list)
    for row in rows:
        by_name[name_of(row.labels)].append(row)
    breakdowns = [Breakdown(name, Numbers(*_counted(of_name))) for name, of_name in by_name.items()]
    not_empty = [row for row in breakdowns if row.numbers.instances or row.numbers.interruptions]
    return sorted(not_empty, key=lambda row: (-(row.numbers.rate or 0.0), -row.numbers.instances, row.name))[
        :MAX_BREAKDOWNS
    ]


def _sum(parts: Iterable[Numbers]) -> Numbers:
    numbers = list(parts)
    counted = (
        sum(part.instances for part in numbers),
        sum(part.interruptions for part in numbers),
        sum(part.instance_hours for part in numbers),
    )
    if any(part.last_week is None for part in numbers):
        return Numbers(*counted)
    return Numbers(
        *counted,
        sum(part.last_hour or 0 for part in numbers),
        sum(part.last_day or 0 for part in numbers),
        sum(part.last_week or 0 for part in numbers),
        _sums(part.periods for part in numbers),
        tuple(_sums(part.past for part in numbers if part.past)),
    )


def _sums(periods: Iterable[Sequence[int]]) -> Sequence[int]:
    return [sum(period) for period in zip(*periods, strict=True)]
