"""The commands that write a transaction's changes."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from app.domain.batch import Batch
from app.domain.events import InstanceName
from app.domain.totals import Totals
from app.store.redis.connection import Command
from app.store.redis.rows import (
    NameRecord,
    Pairs,
    decode_instance,
    dumps,
    encode_counted,
    encode_instance,
    encode_pending,
    flatten,
    index_member,
    key,
    pairs,
)
from app.store.redis.totals import all_series, encode_replica_totals, encode_series


@dataclass(slots=True)
class _HashChanges:
    """The changes of a name's hash."""

    fields: set[str]
    """The fields that it will have."""
    existed: bool
    values: dict[str, str] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)

    def put(self, name: str, value: str) -> None:
        self.fields.add(name)
        self.removed.discard(name)
        self.values[name] = value

    def remove(self, name: str) -> None:
        self.fields.discard(name)
        self.values.pop(name, None)
        self.removed.add(name)


class Writes:
    """Collects the commands that turn the loaded records into what a batch has made of them."""

    def __init__(self, records: Mapping[InstanceName, NameRecord], now: float) -> None:
        """`records`: everything loaded, also what is loaded later."""
        self._records = records
        self._now = now
        self._hashes: dict[InstanceName, _HashChanges] = {}
        self._undescribed: dict[InstanceName, dict[str, str]] = {}
        """The undescribed ledger rows of the names whose rows this transaction changes."""
        self._added: defaultdict[str, dict[str, float]] = defaultdict(dict)
        """Members and scores to add, by index."""
        self._removed: defaultdict[str, set[str]] = defaultdict(set)
        self.commands: list[Command] = []

    def add_batch(self, batch: Batch, before: Totals, retention_seconds: float) -> None:
        """Add all changes of the batch; `before` are the totals at its start."""
        milliseconds = round(retention_seconds * 1000)
        for event_key, new in batch.event_keys.items():
            if new:
                self.commands.append(("SET", key("seen", event_key), repr(self._now), "PX", milliseconds))
        self._add_instances(batch)
        self._add_pending(batch)
        self._add_ledger(batch)
        self.commands += shared_commands(batch.totals.changed, before)

    def move_undescribed(self, name: InstanceName, renamed: InstanceName) -> None:
        """Move the undescribed ledger rows of a name to another name."""
        rows = self._undescribed_of(name)
        self._undescribed[name] = {}
        for event_key, identity in rows.items():
            self._hash(name).remove(f"u:{event_key}")
            self._add_undescribed(renamed, event_key, identity)

    def move_archive(self, name: InstanceName, renamed: InstanceName, archive: Pairs) -> None:
        """Move the archived incarnations of a name, given as fields and values, to another name."""
        if not archive:
            return
        self.commands.append(("DEL", key("archive", name.path)))
        self.commands.append(("HSET", key("archive", renamed.path), *archive))
        for identity, value in pairs(archive):
            instance = decode_instance(renamed, identity, value)
            self._index("recorded", index_member(name, identity), None)
            self._index("recorded", index_member(renamed, identity), instance.recorded_at)
            if instance.is_only_deleted:
                self._index("deletions", index_member(name, identity), None)
                self._index("deletions", index_member(renamed, identity), instance.recorded_at)

    def drop_undescribed(self, name: InstanceName, event_key: str) -> None:
        """Remove an undescribed ledger row from its name, because nothing will describe it any more."""
        self._hash(name).remove(f"u:{event_key}")

    def drop_orphan(self, index: str, member: str) -> None:
        """Remove a member of an index that is stored under no name, so that it is not found again."""
        self._index(index, member, None)

    def finish(self) -> list[Command]:
        """Return all commands, to be executed in one transaction."""
        for name, changes in self._hashes.items():
            self.commands += _hash_commands(name, changes)
        for index, members in self._removed.items():
            if members:
                self.commands.append(("ZREM", key(index), *members))
        for index, scored in self._added.items():
            if scored:
                self.commands.append(
                    ("ZADD", key(index), *flatten((at, member) for member, at in scored.items()))
                )
        return self.commands

    def _hash(self, name: InstanceName) -> _HashChanges:
        if name not in self._hashes:
            record = self._records.get(name, NameRecord())
            fields = {
                *(f"i:{instance.identity}" for instance in record.incarnations),
                *(f"p:{pending.event.key}" for pending in record.pending),
                *(f"u:{event_key}" for event_key in record.undescribed),
            }
            self._hashes[name] = _HashChanges(fields, bool(fields))
        return self._hashes[name]

    def _undescribed_of(self, name: InstanceName) -> dict[str, str]:
        if name not in self._undescribed:
            self._undescribed[name] = dict(self._records.get(name, NameRecord()).undescribed)
        return self._undescribed[name]

    def _index(self, index: str, member: str, at: float | None) -> None:
        """Give the member of the index that score; None removes it."""
        if at is None:
            self._added[index].pop(member, None)
            self._removed[index].add(member)
        else:
            self._removed[index].discard(member)
            self._added[index][member] = at

    def _add_instances(self, batch: Batch) -> None:
        for (name, identity), row in batch.instances.items():
            if row is None:
                self._hash(name).remove(f"i:{identity}")
            else:
                self._hash(name).put(f"i:{identity}", encode_instance(row))
        for (name, identity), row in batch.archived.items():
            if row is None:
                self.commands.append(("HDEL", key("archive", name.path), identity))
            else:
                self.commands.append(("HSET", key("archive", name.path), identity, encode_instance(row)))
        rows = [*batch.instances.items(), *batch.archived.items()]
        # An incarnation that was archived, or brought back, has a row in one table and none in the other.
        for (name, identity), row in sorted(rows, key=lambda item: item[1] is not None):
            member = index_member(name, identity)
            self._index("recorded", member, None if row is None else row.recorded_at)
            if row is not None and row.is_only_deleted:
                self._index("deletions", member, row.recorded_at)
            elif (name, identity) in batch.archived or self._was_only_deleted(name, identity):
                self._index("deletions", member, None)

    def _was_only_deleted(self, name: InstanceName, identity: str) -> bool:
        record = self._records.get(name)
        return record is not None and any(
            instance.is_only_deleted and instance.identity == identity for instance in record.incarnations
        )

    def _add_pending(self, batch: Batch) -> None:
        stored = {
            pending.event.key: name for name, record in self._records.items() for pending in record.pending
        }
        for event_key, pending in batch.pending_interruptions.items():
            old = stored.get(event_key)
            if old is not None and (pending is None or pending.event.name != old):
                self._hash(old).remove(f"p:{event_key}")
                self._index("until", index_member(old, event_key), None)
            if pending is not None:
                name = pending.event.name
                self._hash(name).put(f"p:{event_key}", encode_pending(pending))
                self._index("until", index_member(name, event_key), pending.until)

    def _add_ledger(self, batch: Batch) -> None:
        for counted, identity in (*batch.counted, *batch.past.values()):
            self.commands.append(
                ("HSET", key("ledger"), counted.key, encode_counted(counted, identity, self._now))
            )
            self._index("ledger:at", counted.key, counted.at)
            self._index("ledger:recorded", counted.key, self._now)
            if not counted.attributed:
                self._add_undescribed(counted.name, counted.key, identity)
            elif self._undescribed_of(counted.name).pop(counted.key, None) is not None:
                self.drop_undescribed(counted.name, counted.key)  # it was in the ledger, not counted
        for attribution in batch.attributed:
            undescribed = self._undescribed_of(attribution.name)
            for event_key, identity in list(undescribed.items()):
                if identity == attribution.identity:
                    del undescribed[event_key]
                    self._hash(attribution.name).remove(f"u:{event_key}")
                    self.commands.append(("HSET", key("attributed"), event_key, dumps(attribution.node)))

    def _add_undescribed(self, name: InstanceName, event_key: str, identity: str) -> None:
        self._undescribed_of(name)[event_key] = identity
        self._hash(name).put(f"u:{event_key}", identity)


def _hash_commands(name: InstanceName, changes: _HashChanges) -> Iterator[Command]:
    if changes.removed:
        yield ("HDEL", key("name", name.path), *changes.removed)
    if changes.values:
        yield ("HSET", key("name", name.path), *flatten(changes.values.items()))
    if bool(changes.fields) != changes.existed:
        yield ("SADD" if changes.fields else "SREM", key("names", name.project), name.path)


def shared_commands(changed: Totals, before: Totals) -> Iterator[Command]:
    """Return the commands that write the shared part of changed totals; `before` are the earlier totals."""
    times = flatten((at, encode_series(series)) for series, at in all_series(changed))
    if times:
        yield ("ZADD", key("changed"), "GT", *times)
    for labels, row in changed.label_sets.items():
        known = before.label_sets.get(labels)
        more = row.instances - (known.instances if known is not None else 0)
        if more:
            yield ("HINCRBY", key("alive"), encode_series(labels), more)
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
        yield ("ZADD", key("newest"), "GT", *flatten(newest))


def replica_commands(totals_key: str, changed: Totals) -> Iterator[Command]:
    """Return the commands that write the replica's own counters."""
    if changed:
        yield ("HSET", totals_key, *flatten(encode_replica_totals(changed)))
