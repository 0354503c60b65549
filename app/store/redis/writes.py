"""What a batch has changed, as the commands that write it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from app.domain.batch import Batch
from app.domain.events import InstanceName
from app.domain.totals import Totals
from app.store.redis.connection import Command
from app.store.redis.rows import (
    Under,
    dumps,
    flat,
    instance_value,
    key,
    ledger_value,
    member,
    own_values,
    parked_value,
    series_in,
    text_of,
    text_of_series,
)


@dataclass(slots=True)
class _Hash:
    """What becomes of a name's hash."""

    fields: set[str]
    """What it will have."""
    had: bool
    sets: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)

    def put(self, name: str, value: str) -> None:
        self.fields.add(name)
        self.gone.discard(name)
        self.sets[name] = value

    def remove(self, name: str) -> None:
        self.fields.discard(name)
        self.sets.pop(name, None)
        self.gone.add(name)


class Writes:
    """The commands that make a batch's changes true of what was known when it was decided."""

    def __init__(self, known: Mapping[InstanceName, Under], now: float) -> None:
        self._known = known
        self._now = now
        self._hashes: dict[InstanceName, _Hash] = {}
        self._unexplained = {name: dict(under.unexplained) for name, under in known.items()}
        self._added: defaultdict[str, dict[str, float]] = defaultdict(dict)
        """Members and scores to add, by index."""
        self._removed: defaultdict[str, set[str]] = defaultdict(set)
        self.commands: list[Command] = []

    def add(self, batch: Batch, before: Totals, retention_seconds: float) -> None:
        """All of the batch's changes; `before`: the totals that it began with."""
        milliseconds = round(retention_seconds * 1000)
        for event_key, new in batch.seen.items():
            if new:
                self.commands.append(("SET", key("seen", event_key), repr(self._now), "PX", milliseconds))
        self._add_instances(batch)
        self._add_waiting(batch)
        self._add_ledger(batch)
        self.commands += totals_commands(batch.tally.changed, before)

    def move_unexplained(self, name: InstanceName, renamed: InstanceName) -> None:
        """Have what an unexplained row of the ledger waits for stand under another name."""
        for event_key, identity in self._unexplained.pop(name).items():
            self._hash(name).remove(f"u:{event_key}")
            self._wait_for_explanation(renamed, event_key, identity)

    def drop_unexplained(self, name: InstanceName, event_key: str) -> None:
        """Nothing will explain the row any more."""
        self._hash(name).remove(f"u:{event_key}")

    def drop_orphan(self, index: str, name: str) -> None:
        """Take from an index what stands under no name: else it would be found for ever."""
        self._index(index, name, None)

    def finish(self) -> list[Command]:
        """Everything, to be executed at once."""
        for name, written in self._hashes.items():
            self.commands += _hash_commands(name, written)
        for index, members in self._removed.items():
            if members:
                self.commands.append(("ZREM", key(index), *members))
        for index, scored in self._added.items():
            if scored:
                self.commands.append(("ZADD", key(index), *flat((at, one) for one, at in scored.items())))
        return self.commands

    def _hash(self, name: InstanceName) -> _Hash:
        if name not in self._hashes:
            under = self._known.get(name, Under())
            fields = {
                *(f"i:{instance.identity}" for instance in under.incarnations),
                *(f"p:{parked.event.key}" for parked in under.waiting),
                *(f"u:{event_key}" for event_key in under.unexplained),
            }
            self._hashes[name] = _Hash(fields, bool(fields))
        return self._hashes[name]

    def _index(self, index: str, name: str, at: float | None) -> None:
        """Have the index hold the member at that time, or no more."""
        if at is None:
            self._added[index].pop(name, None)
            self._removed[index].add(name)
        else:
            self._removed[index].discard(name)
            self._added[index][name] = at

    def _add_instances(self, batch: Batch) -> None:
        for (name, identity), kept in batch.kept.items():
            if kept is None:
                self._hash(name).remove(f"i:{identity}")
            else:
                self._hash(name).put(f"i:{identity}", instance_value(kept))
            self._index("recorded", member(name, identity), None if kept is None else kept.recorded_at)

    def _add_waiting(self, batch: Batch) -> None:
        stored = {parked.event.key: name for name, under in self._known.items() for parked in under.waiting}
        for event_key, parked in batch.parked.items():
            old = stored.get(event_key)
            if old is not None and (parked is None or parked.event.name != old):
                self._hash(old).remove(f"p:{event_key}")
                self._index("until", member(old, event_key), None)
            if parked is not None:
                name = parked.event.name
                self._hash(name).put(f"p:{event_key}", parked_value(parked))
                self._index("until", member(name, event_key), parked.until)

    def _add_ledger(self, batch: Batch) -> None:
        for counted, identity in batch.counted:
            self.commands.append(
                ("HSET", key("ledger"), counted.key, ledger_value(counted, identity, self._now))
            )
            self._index("ledger:at", counted.key, counted.at)
            self._index("ledger:recorded", counted.key, self._now)
            if not counted.explained:
                self._wait_for_explanation(counted.name, counted.key, identity)
        for explain in batch.explained:
            waiting = self._unexplained.get(explain.name, {})
            for event_key, identity in list(waiting.items()):
                if identity == explain.identity:
                    del waiting[event_key]
                    self._hash(explain.name).remove(f"u:{event_key}")
                    self.commands.append(("HSET", key("explained"), event_key, dumps(explain.node)))

    def _wait_for_explanation(self, name: InstanceName, event_key: str, identity: str) -> None:
        self._unexplained.setdefault(name, {})[event_key] = identity
        self._hash(name).put(f"u:{event_key}", identity)


def _hash_commands(name: InstanceName, written: _Hash) -> Iterator[Command]:
    if written.gone:
        yield ("HDEL", key("name", text_of(name)), *written.gone)
    if written.sets:
        yield ("HSET", key("name", text_of(name)), *flat(written.sets.items()))
    if bool(written.fields) != written.had:
        yield ("SADD" if written.fields else "SREM", key("names", name.project), text_of(name))


def totals_commands(changed: Totals, before: Totals) -> Iterator[Command]:
    """What of changed totals is shared. A replica's own counters are `own_commands`."""
    touched = flat((at, text_of_series(series)) for series, at in series_in(changed))
    if touched:
        yield ("ZADD", key("touched"), "GT", *touched)
    for labels, row in changed.label_sets.items():
        known = before.label_sets.get(labels)
        more = row.instances - (known.instances if known is not None else 0)
        if more:
            yield ("HINCRBY", key("alive"), text_of_series(labels), more)
    lowered = [
        cluster
        for cluster, row in changed.clusters.items()
        if (known_row := before.clusters.get(cluster)) is not None
        and known_row.last_interruption_at is not None
        and row.last_interruption_at is not None
        and row.last_interruption_at < known_row.last_interruption_at
    ]
    if lowered:
        yield ("ZREM", key("newest"), *lowered)
    newest = [
        (row.last_interruption_at, cluster)
        for cluster, row in changed.clusters.items()
        if row.last_interruption_at is not None
    ]
    if newest:
        yield ("ZADD", key("newest"), "GT", *flat(newest))


def own_commands(totals_key: str, changed: Totals) -> Iterator[Command]:
    """What writes a replica's own counters."""
    if changed:
        yield ("HSET", totals_key, *flat(own_values(changed)))
