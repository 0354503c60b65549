"""The part of the totals that replicas share: living instances, newest interruptions, all series."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from app.domain.instances import Labels
from app.domain.totals import Totals
from app.store.memory import PERMANENT, Memory, copy_of
from app.store.redis.connection import Command
from app.store.redis.rows import Pairs, key, pairs, scores
from app.store.redis.totals import Series, decode_series


class SharedReplies(NamedTuple):
    """The replies to `COMMANDS`, in their order."""

    changed: Pairs
    alive: Pairs
    newest: Pairs
    pending: int
    listings: Pairs
    projects: Pairs
    downtime: str | None
    """Seconds."""
    clock: str | None
    """The time up to which instance-seconds were added."""
    whole: Pairs
    jumped: str | None
    """The time after the latest jump of the clock that was not believed at once."""


COMMANDS: Final[Sequence[Command]] = (
    ("ZRANGE", key("changed"), 0, -1, "WITHSCORES"),
    ("HGETALL", key("alive")),
    ("ZRANGE", key("newest"), 0, -1, "WITHSCORES"),
    ("ZCARD", key("until")),
    ("HGETALL", key("listings")),
    ("HGETALL", key("projects")),
    ("GET", key("downtime")),
    ("GET", key("clock")),
    ("HGETALL", key("whole")),
    ("GET", key("jumped")),
)


def update_memory(memory: Memory, replies: SharedReplies) -> None:
    """Note in the memory what the replicas share, apart from the totals and what is pending."""
    memory.projects = dict(pairs(replies.projects))
    memory.listed, memory.whole = scores(replies.listings), scores(replies.whole)
    memory.downtime = float(replies.downtime or 0)
    memory.beat_at = None if replies.clock is None else float(replies.clock)
    memory.jumped_at = None if replies.jumped is None else float(replies.jumped)


class SharedTotals:
    """Compares what the replicas share with what is known of it."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._series: Mapping[str, Series] = {}
        """The series of each member of `changed`, because decoding thousands takes long."""

    def diff(self, known: Totals, replies: SharedReplies) -> tuple[Totals, Totals]:
        """Return the rows that differ from the known ones, as they are now, and the rows that are gone."""
        alive, newest = dict(pairs(replies.alive)), scores(replies.newest)
        changes, gone = self._memory.delta(known, 0.0), copy_of(known)
        times = scores(replies.changed)
        self._series = {text: self._series.get(text) or decode_series(text) for text in times}
        for text, changed_at in times.items():
            series = self._series[text]
            match series:
                case Labels():
                    row = gone.label_sets.pop(series, None)
                    instances = max(int(alive.get(text, 0)), 0)
                    if row is None or (row.instances, row.changed_at) != (instances, changed_at):
                        row = changes.label_set(series)
                        row.instances, row.changed_at = instances, changed_at
                case str():
                    cluster, last = gone.clusters.pop(series, None), newest.get(series)
                    if cluster is None or (cluster.last_interruption_at, cluster.changed_at) != (
                        last,
                        changed_at,
                    ):
                        cluster = changes.cluster(series)
                        cluster.last_interruption_at, cluster.changed_at = last, changed_at
                case _:
                    lifetime = gone.lifetimes.pop(series, None)
                    if lifetime is None or lifetime.changed_at != changed_at:
                        changes.lifetime(*series).changed_at = changed_at
        gone.remove(PERMANENT)
        return changes.changed, gone
