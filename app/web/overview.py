"""The status page's view model: facts made into what the page says. Pure; the template adds only words."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from app.domain.events import UNKNOWN
from app.domain.history import PERIODS, Entry, Pool, PoolHistory
from app.domain.instances import OTHER, Labels
from app.domain.totals import LabelSetTotals
from app.web.charts import Chart, chart
from app.web.checks import Check, State, checks
from app.web.facts import Facts

MOST_POOLS: Final = 200
MOST_FLAVOURS: Final = 12
_FEWEST_HOURS: Final = 10.0
"""Of less than so many instance-hours no rate is told."""

_Cluster: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Numbers:
    """What is counted of some Spot instances."""

    instances: int = 0
    """Alive now."""
    interruptions: int = 0
    """Since counting began, as the hours."""
    instance_hours: float = 0.0
    last_hour: int | None = None
    """None: the ledger cannot be read."""
    last_day: int | None = None
    last_week: int | None = None
    periods: Sequence[int] = ()

    @property
    def rate(self) -> float | None:
        """Interruptions per 1,000 instance-hours; None: too few hours tell nothing."""
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
        """The order of pools: most interruptions first, then most instances, then by name."""
        return (-(self.numbers.last_week or 0), -self.numbers.instances, self.pool)


@dataclass(frozen=True, slots=True)
class ClusterRows:
    """A cluster, whose name is unique only with project and location, and its pools."""

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
    numbers: Numbers
    unknown: int
    """Interruptions counted as unknown, since counting began."""
    waiting: int
    pools: int
    clusters: Sequence[ClusterRows]
    left_out: int
    """Pools that have no row, for there are too many."""
    machine_types: Sequence[Flavour]
    zones: Sequence[Flavour]
    chart: Chart
    newest: Sequence[Entry]
    checks: Sequence[Check]
    is_empty: bool
    """Nothing is known of any Spot instance yet."""

    @property
    def troubles(self) -> Sequence[Check]:
        """What someone should look at."""
        return [check for check in self.checks if check.state is State.ATTENTION]


def overview(facts: Facts) -> Overview:
    """What the page says of the facts."""
    rows = sorted(_pool_rows(facts), key=lambda row: row.weight)
    numbers = _sum(row.numbers for row in rows)
    known = [row for row in facts.label_sets if row.labels.cluster not in {UNKNOWN, OTHER}]
    return Overview(
        now=facts.now,
        numbers=numbers,
        unknown=sum(row.interruptions for row in facts.label_sets if row.labels.cluster == UNKNOWN),
        waiting=facts.waiting,
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
    return not known and not facts.waiting and not (facts.ledger and facts.ledger.newest)


def _pool_rows(facts: Facts) -> list[PoolRow]:
    """Every pool that the totals or the ledger know."""
    by_pool: defaultdict[Pool, list[LabelSetTotals]] = defaultdict(list)
    for row in facts.label_sets:
        labels = row.labels
        by_pool[Pool(labels.project, labels.cluster, labels.cluster_location, labels.node_pool)].append(row)
    histories = {history.pool: history for history in facts.ledger.pools} if facts.ledger else {}
    return [
        _pool_row(pool, by_pool.get(pool, ()), histories.get(pool), read=facts.ledger is not None)
        for pool in by_pool.keys() | histories.keys()
    ]


def _pool_row(
    pool: Pool, totals: Sequence[LabelSetTotals], history: PoolHistory | None, *, read: bool
) -> PoolRow:
    counted = _counted(totals)
    if history is None:
        none = 0 if read else None
        numbers = Numbers(*counted, none, none, none, [0] * PERIODS if read else ())
        return PoolRow(pool, numbers, None)
    numbers = Numbers(*counted, history.last_hour, history.last_day, history.last_week, history.periods)
    return PoolRow(pool, numbers, history.median_age)


def _counted(totals: Iterable[LabelSetTotals]) -> tuple[int, int, float]:
    rows = list(totals)
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
    """The first pools by cluster; a cluster's own numbers are those of all its pools."""
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
    return sorted(clusters, key=lambda one: (-(one.numbers.last_week or 0), -one.numbers.instances))


def _flavours(rows: Iterable[LabelSetTotals], of: Callable[[Labels], str]) -> Sequence[Flavour]:
    """The flavours that are interrupted most often, by their rate."""
    by_name: defaultdict[str, list[LabelSetTotals]] = defaultdict(list)
    for row in rows:
        by_name[of(row.labels)].append(row)
    flavours = [Flavour(name, Numbers(*_counted(totals))) for name, totals in by_name.items()]
    seen = [flavour for flavour in flavours if flavour.numbers.instances or flavour.numbers.interruptions]
    return sorted(seen, key=lambda one: (-(one.numbers.rate or 0.0), -one.numbers.instances, one.name))[
        :MOST_FLAVOURS
    ]


def _sum(several: Iterable[Numbers]) -> Numbers:
    numbers = list(several)
    if any(one.last_week is None for one in numbers):
        return Numbers(
            sum(one.instances for one in numbers),
            sum(one.interruptions for one in numbers),
            sum(one.instance_hours for one in numbers),
        )
    return Numbers(
        sum(one.instances for one in numbers),
        sum(one.interruptions for one in numbers),
        sum(one.instance_hours for one in numbers),
        sum(one.last_hour or 0 for one in numbers),
        sum(one.last_day or 0 for one in numbers),
        sum(one.last_week or 0 for one in numbers),
        [sum(several) for several in zip(*(one.periods for one in numbers), strict=True)],
    )
