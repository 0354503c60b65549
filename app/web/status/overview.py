"""The status page's view model, computed from the facts. It is pure; the template adds only words."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from app.domain.events import UNKNOWN
from app.domain.history import PERIODS, Entry, Pool, PoolHistory
from app.domain.instances import OTHER, Labels
from app.web.status.charts import Chart, chart
from app.web.status.checks import Check, State, checks
from app.web.status.snapshot import CountedLabels, Facts, Window

MOST_POOLS: Final = 200
MOST_FLAVOURS: Final = 12
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
class Flavour:
    """A machine type or a zone."""

    name: str
    numbers: Numbers


@dataclass(frozen=True, slots=True)
class Overview:
    """The page."""

    now: float
    window: Window
    """The time that rates and shares are about."""
    numbers: Numbers
    unknown: int
    """Interruptions in the window that were counted as unknown."""
    pending: int
    pools: int
    """Node pools with a live Spot instance."""
    clusters: Sequence[ClusterRows]
    left_out: int
    """Pools without a row, because there are too many."""
    machine_types: Sequence[Flavour]
    zones: Sequence[Flavour]
    chart: Chart
    newest: Sequence[Entry]
    checks: Sequence[Check]
    is_empty: bool
    """No Spot instance is known yet."""

    @property
    def troubles(self) -> Sequence[Check]:
        """The checks that someone should look at."""
        return [check for check in self.checks if check.state is State.ATTENTION]


def overview(facts: Facts) -> Overview:
    """Return the page of these facts."""
    counted = facts.counted()
    rows = sorted(_pool_rows(facts, counted), key=lambda row: row.weight)
    numbers = _sum(row.numbers for row in rows)
    known = [row for row in counted if row.labels.cluster not in {UNKNOWN, OTHER}]
    return Overview(
        now=facts.now,
        window=facts.window,
        numbers=numbers,
        unknown=sum(row.counted_as_unknown for row in counted),
        pending=facts.pending,
        pools=sum(row.numbers.instances > 0 for row in rows),
        clusters=_clusters(rows),
        left_out=max(0, sum(_is_shown(row) for row in rows) - MOST_POOLS),
        machine_types=_flavours(known, lambda labels: labels.machine_type),
        zones=_flavours(known, lambda labels: labels.zone),
        chart=chart(numbers.periods or [0] * PERIODS, facts.now),
        newest=facts.ledger.newest if facts.ledger else (),
        checks=checks(facts),
        is_empty=_is_empty(facts),
    )


def _is_empty(facts: Facts) -> bool:
    known = any(row.labels.cluster != UNKNOWN or row.interruptions for row in facts.label_sets)
    return not known and not facts.pending and not (facts.ledger and facts.ledger.newest)


def _pool_rows(facts: Facts, counted: Iterable[CountedLabels]) -> list[PoolRow]:
    """Return a row for every pool that the totals or the ledger know."""
    by_pool: defaultdict[Pool, list[CountedLabels]] = defaultdict(list)
    for row in counted:
        labels = row.labels
        by_pool[Pool(labels.project, labels.cluster, labels.cluster_location, labels.node_pool)].append(row)
    histories = {history.pool: history for history in facts.ledger.pools} if facts.ledger else {}
    return [
        _pool_row(pool, by_pool.get(pool, ()), histories.get(pool), read=facts.ledger is not None)
        for pool in by_pool.keys() | histories.keys()
    ]


def _pool_row(
    pool: Pool, rows: Sequence[CountedLabels], history: PoolHistory | None, *, read: bool
) -> PoolRow:
    counted = _counted(rows)
    if history is None:
        none = 0 if read else None
        numbers = Numbers(*counted, none, none, none, [0] * PERIODS if read else ())
        return PoolRow(pool, numbers, None)
    numbers = Numbers(*counted, history.last_hour, history.last_day, history.last_week, history.periods)
    return PoolRow(pool, numbers, history.median_age)


def _counted(rows: Sequence[CountedLabels]) -> tuple[int, int, float]:
    return (
        sum(row.instances for row in rows),
        sum(row.interruptions for row in rows),
        sum(row.instance_seconds for row in rows) / 3600,
    )


def _is_shown(row: PoolRow) -> bool:
    numbers = row.numbers
    if numbers.last_week is None:
        return bool(numbers.instances or numbers.interruptions)
    return bool(numbers.instances or numbers.last_week)


def _clusters(rows: Sequence[PoolRow]) -> Sequence[ClusterRows]:
    """Group the first pools by cluster. The numbers of a cluster are the sums of all its pools."""
    everything: defaultdict[_Cluster, list[Numbers]] = defaultdict(list)
    shown: defaultdict[_Cluster, list[PoolRow]] = defaultdict(list)
    for row in rows:
        everything[row.pool[:3]].append(row.numbers)
    for row in [row for row in rows if _is_shown(row)][:MOST_POOLS]:
        shown[row.pool[:3]].append(row)
    clusters = [
        ClusterRows(project, name, location, _sum(everything[project, name, location]), pools)
        for (project, name, location), pools in shown.items()
    ]
    return sorted(clusters, key=lambda row: (-(row.numbers.last_week or 0), -row.numbers.instances))


def _flavours(rows: Iterable[CountedLabels], name_of: Callable[[Labels], str]) -> Sequence[Flavour]:
    """Return the machine types, or the zones, with the highest rates."""
    by_name: defaultdict[str, list[CountedLabels]] = defaultdict(list)
    for row in rows:
        by_name[name_of(row.labels)].append(row)
    flavours = [Flavour(name, Numbers(*_counted(of_name))) for name, of_name in by_name.items()]
    seen = [flavour for flavour in flavours if flavour.numbers.instances or flavour.numbers.interruptions]
    return sorted(seen, key=lambda row: (-(row.numbers.rate or 0.0), -row.numbers.instances, row.name))[
        :MOST_FLAVOURS
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
        [sum(period) for period in zip(*(part.periods for part in numbers), strict=True)],
    )
