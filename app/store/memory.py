"""The part of the stored state that is kept in memory, and its change by a commit."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from app.domain.batch import Applied, Batch, Rollback, Shared
from app.domain.changes import Rules
from app.domain.events import UNKNOWN
from app.domain.instances import UNKNOWN_LABELS
from app.domain.replicas import NO_SETTINGS, ReplicaSettings, all_projects
from app.domain.totals import ClusterTotals, LabelSetTotals, LifetimeTotals, Totals, TotalsDelta

_LARGEST_CREDIBLE_STEP_SECONDS: Final = 86400.0
"""After a larger step of the clock between two beats, the clock is doubted for this long."""
_LONGEST_BEAT_SECONDS: Final = 300.0
"""Instance-seconds are added each minute. After a longer time, no exporter ran or the store was away."""
PERMANENT: Final = Totals(
    {UNKNOWN_LABELS: LabelSetTotals(UNKNOWN_LABELS)},
    {UNKNOWN: ClusterTotals(UNKNOWN)},
    {(UNKNOWN, UNKNOWN): LifetimeTotals(UNKNOWN, UNKNOWN)},
)
"""Rows that exist from the start and are never removed."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A time in which no exporter ran or the store was away, so that no push could come."""

    begin: float = 0.0
    end: float = 0.0

    def time_without(self, since: float, until: float) -> float:
        """Return the seconds between two moments, without those of the outage."""
        return until - since - max(min(until, self.end) - max(since, self.begin), 0.0)


class Memory:
    """The totals, and a few small values. A backend loads them each time when it connects."""

    def __init__(
        self,
        rules: Rules,
        *,
        hold: bool,
        settings: ReplicaSettings = NO_SETTINGS,
        reset_totals: bool = False,
    ) -> None:
        """`hold`: new series export 0 until they are released. `settings`: those of this replica.

        `reset_totals`: the counters began at 0 when this process opened the store.
        """
        self.rules = rules
        self.settings = settings
        self.replicas: Mapping[str, ReplicaSettings] = {}
        """The settings of the other living replicas, by name."""
        self._listed_projects = settings.projects
        self.totals = Totals()
        self.pending = 0
        self.projects: Mapping[str, str] = {}
        """Project number to project id."""
        self.listed: dict[str, float] = {}
        """Project id to the time at which its last complete listing began."""
        self.whole: dict[str, float] = {}
        """The same, of the last one that has read every zone."""
        self.lease_ends_at: float | None = None
        """See `Shared`. None: there are no other replicas."""
        self.downtime = 0.0
        """The seconds, in sum, for which no exporter ran or the store was away.

        A grace period does not run then, because no creation and no listing could end it. Negative if the
        clock was set back.
        """
        self.outage = Outage()
        """The latest outage that this process has noticed."""
        self.rollback: Rollback | None = None
        """The rollback that has not been reported yet."""
        self.beat_at: float | None = None
        """The time up to which instance-seconds were added, and to which `downtime` refers."""
        self.counts_from_now = reset_totals
        """The first beat of this process adds no instance-seconds: they are of the time before the reset."""
        self.jumped_at: float | None = None
        """The time after the latest jump of the clock that was too large to be believed at once."""
        self._hold = hold
        self._unreported = Totals()
        """Totals from before the last load that have not been reported to the metrics yet."""

    def batch(self, now: float) -> Batch:
        """Return an empty batch over the totals."""
        downtime = downtime_at(now, self.downtime, self.beat_at)
        return Batch(
            self.delta(self.totals, now),
            self.rules,
            now,
            pending=self.pending,
            downtime=downtime,
            listed=self.whole,
        )

    def delta(self, base: Totals, now: float) -> TotalsDelta:
        """Return an empty delta over these totals."""
        return TotalsDelta(base, max_label_sets=self.rules.max_label_sets, released=not self._hold, now=now)

    def load(self, totals: Totals) -> None:
        """Replace the totals by those that are stored. The backend sets the other stored values itself."""
        self._unreported.update(self.totals)
        self.totals = totals
        permanent = self.delta(totals, 0.0)
        for labels in PERMANENT.label_sets:
            permanent.ensure_series(labels)
        totals.update(permanent.changed)

    def kept_since(self, now: float) -> float:
        """Return the time since when everything is kept; minus infinity while the clock is doubted.

        So a wrong time that is corrected within a day costs nothing.
        """
        doubted = self.doubts_clock(now) or has_jumped(self.beat_at, now)
        return -inf if doubted else now - self.rules.retention_seconds

    def doubts_clock(self, now: float) -> bool:
        """Return True if the clock shows a time within a day of its latest jump."""
        return self.jumped_at is not None and abs(now - self.jumped_at) < _LARGEST_CREDIBLE_STEP_SECONDS

    def forget(self, rows: Totals) -> None:
        """Remove rows that the store may have dropped. The next load returns those that it has not."""
        self._unreported.update(rows)
        self.totals.remove(rows)

    def snapshot(self) -> Totals:
        """Return all totals, for a caller who needs no report of earlier ones any more."""
        self._unreported = Totals()
        return copy_of(self.totals)

    def update_replicas(self, replicas: Mapping[str, ReplicaSettings]) -> Sequence[str]:
        """Note the other living replicas, and return the projects that at least one replica lists."""
        self.replicas = replicas
        self._listed_projects = all_projects([self.settings, *replicas.values()])
        return self._listed_projects

    def shared(self, lease_ends_at: float, requested: Collection[str]) -> Shared:
        """Return the state that replicas share, without projects that no living replica lists."""
        projects = self._listed_projects
        return Shared(
            lease_ends_at,
            [project for project in requested if project in projects],
            {project: at for project, at in self.listed.items() if project in projects},
            self.replicas,
        )

    def take_rollback(self) -> Rollback | None:
        """Return the rollback that has not been reported yet, for a caller who reports it."""
        rollback, self.rollback = self.rollback, None
        return rollback

    def commit(self, applied: Applied) -> Applied:
        """Make a commit's changes, and return them as they must be reported."""
        applied.rollback = self.take_rollback()
        self.totals.update(applied.changed)
        self.totals.remove(applied.removed)
        self.pending = applied.pending
        if self.lease_ends_at is not None and applied.shared is None:
            applied.shared = self.shared(self.lease_ends_at, ())
        if self._unreported:
            gone, self._unreported = self._unreported, Totals()
            gone.remove(self.totals)
            gone.update(applied.removed)
            applied.removed = gone
            applied.changed = copy_of(self.totals)
        return applied


def has_jumped(beat_at: float | None, now: float) -> bool:
    """Return True if the clock is so far from the last beat, if any, that one of the two may be wrong."""
    return beat_at is not None and abs(now - beat_at) > _LARGEST_CREDIBLE_STEP_SECONDS


def downtime_at(now: float, downtime: float, beat_at: float | None) -> float:
    """Return the downtime up to now, from the downtime up to the last beat.

    A jump of the clock is downtime too. If the clock was set back, or if another replica's clock is ahead,
    the downtime becomes shorter, and perhaps negative. So all replicas agree when a grace period ends.
    """
    gap = 0.0 if beat_at is None else now - beat_at
    return downtime + gap if gap > _LONGEST_BEAT_SECONDS or gap < 0 else downtime


def copy_of(totals: Totals) -> Totals:
    """Return the same rows in dictionaries of their own."""
    return Totals(dict(totals.label_sets), dict(totals.clusters), dict(totals.lifetimes))
