"""Snapshots for the view model, from real metrics."""

from dataclasses import replace
from typing import Any, Final

from app.domain.instances import Labels
from app.domain.ledger import DAY_SECONDS, PERIODS, LabelSetWeek, Pool, PoolWeek
from app.domain.totals import LabelSetTotals
from app.gcp.listing import FAILURES
from app.metrics import Metrics
from app.web.problems import leaves
from app.web.status.snapshot import Ledger, SelfMetrics, Snapshot
from tests.support.examples import LABELS

NOW: Final = 1_772_451_656.0
POOL: Final = Pool(*LABELS[:4])


def new_metrics(*projects: str) -> Metrics:
    return Metrics(reasons=[leaf.reason for leaf in leaves()], projects=projects, listing_failures=FAILURES)


def snapshot(metrics: Metrics | None = None, **fields: Any) -> Snapshot:  # noqa: ANN401  # of `Snapshot`
    """Return the snapshot of a healthy exporter that is up for a day, with these fields changed."""
    seen = SelfMetrics((metrics or new_metrics()).self_samples(SelfMetrics.SERIES))
    quiet = Snapshot(NOW, NOW - DAY_SECONDS, label_sets=(), pending=0, self_metrics=seen, ledger=Ledger())
    return replace(quiet, **fields)


def totals(labels: Labels = LABELS, *, hours: float = 0.0, **fields: Any) -> LabelSetTotals:  # noqa: ANN401  # of `LabelSetTotals`
    return LabelSetTotals(labels, instance_seconds=hours * 3600, **fields)


def history(pool: Pool = POOL, week: int = 1, **fields: Any) -> PoolWeek:  # noqa: ANN401  # of `PoolWeek`
    """Return a pool whose interruptions were all in the last hour."""
    return replace(PoolWeek(pool, week, week, week, NOW - 1, 60.0, [0] * (PERIODS - 1) + [week]), **fields)


def week(labels: Labels = LABELS, *, hours: float = 0.0, **fields: Any) -> LabelSetWeek:  # noqa: ANN401  # of `LabelSetWeek`
    return LabelSetWeek(labels, instance_seconds=hours * 3600, **fields)
