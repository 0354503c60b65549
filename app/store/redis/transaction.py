"""An optimistic transaction of the Redis store: it watches everything that its work reads.

https://redis.io/docs/latest/develop/using-commands/transactions/
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from app.domain.events import InstanceName
from app.store.memory import Memory
from app.store.port import SLICE, Clock, Due, Listing, Unlisted
from app.store.redis.connection import Command, Key
from app.store.redis.rows import (
    NameRecord,
    Pairs,
    decode_instance,
    decode_ledger_row,
    decode_name_record,
    index_member,
    key,
    name_in_ledger,
    pairs,
    split_member,
)
from app.store.redis.writes import Writes

_LISTING_SECONDS: Final = 7200
"""The time for which the server keeps an unfinished listing."""
_FIRST_CURSOR: Final = "0"
"""The first argument of SSCAN, and also its reply after the last slice."""
_CLOCKS: Final[Mapping[Clock, Key]] = {
    "keys_complete_since": key("complete"),
    "accrued_until": key("clock"),
    "downtime": key("downtime"),
    "jumped_at": key("jumped"),
}


class RetryTransactionError(Exception):
    """The transaction has read something outdated, and must run again."""


class RedisTransaction:
    """See `app.store.port.Transaction`."""

    def __init__(
        self,
        read: Callable[[Sequence[Command], Sequence[str]], list[Any]],
        memory: Memory,
        now: float,
    ) -> None:
        """`read`: watch the keys, and return the commands' replies."""
        self.batch = memory.batch(now)
        self._read = read
        self._memory = memory
        self._now = now
        self._records: dict[InstanceName, NameRecord] = {}
        self.writes = Writes(self._records, now)

    def read(self, *commands: Command, watch: Sequence[str] = ()) -> list[Any]:
        """Watch the keys, and return the commands' replies."""
        return self._read(commands, watch)

    def load(
        self,
        names: Iterable[InstanceName],
        keys: Sequence[str] = (),
        archived: Iterable[tuple[InstanceName, str]] = (),
    ) -> None:
        names, wanted = self.batch.mark_read(names), self.batch.without_known(archived)
        archives = defaultdict(list)
        for name, identity in wanted:
            archives[name].append(identity)
        archive_keys = [key("archive", name.path) for name in archives]
        name_keys = [key("name", name.path) for name in names]
        seen_keys = [key("seen", event_key) for event_key in keys]
        projects, *replies = self.read(
            ("HGETALL", key("projects")),
            *(("HGETALL", name_key) for name_key in name_keys),
            *(
                ("HMGET", archive_key, *identities)
                for archive_key, identities in zip(archive_keys, archives.values(), strict=True)
            ),
            *([("MGET", *seen_keys)] if seen_keys else []),
            watch=[key("projects"), *name_keys, *archive_keys, *seen_keys],
        )
        seen = replies.pop() if seen_keys else ()
        self._check_projects(projects)
        records = {name: decode_name_record(name, reply) for name, reply in zip(names, replies, strict=False)}
        self._records |= records
        # The server's clock expires the keys, but the retention is by the caller's clock.
        oldest = self._memory.kept_since(self._now)
        self.batch.load(
            [event_key for event_key, at in zip(keys, seen, strict=False) if at and float(at) >= oldest],
            [instance for record in records.values() for instance in record.incarnations],
            [pending for record in records.values() for pending in record.pending],
        )
        self.batch.load_archived(
            decode_instance(name, identity, value)
            for (name, identities), values in zip(archives.items(), replies[len(names) :], strict=True)
            for identity, value in zip(identities, values, strict=True)
            if value is not None
        )

    def _check_projects(self, reply: Pairs) -> None:
        """Retry if another replica has learnt a project's number: the names were translated without it."""
        projects = dict(pairs(reply))
        if projects != self._memory.projects:
            self._memory.projects = projects
            raise RetryTransactionError

    def load_due(self) -> Due:
        ended, ahead = self.read(
            ("ZRANGEBYSCORE", key("until"), "-inf", self.batch.grace_clock, "LIMIT", 0, SLICE),
            ("ZRANGEBYSCORE", key("until"), f"({self.batch.latest_end!r}", "+inf", "LIMIT", 0, SLICE),
        )
        members = [*ended, *ahead]
        places = [split_member(member) for member in members]
        self.load(name for name, _ in places)
        pending = []
        for name, event_key in places:
            found = {waiting.event.key: waiting for waiting in self._records[name].pending}
            if event_key in found:
                pending.append(found[event_key])
            else:
                self.writes.drop_orphan("until", index_member(name, event_key))
        return Due(pending, more=max(len(ended), len(ahead)) == SLICE)

    def learn(self, number: str, project: str) -> Sequence[InstanceName]:
        paths_key = key("names", number)
        (paths,) = self.read(("SMEMBERS", paths_key), watch=[paths_key])
        names = [InstanceName.from_path(path) for path in sorted(paths)]
        renamed = [name._replace(project=project) for name in names]
        self.load([*names, *renamed])
        for name, new_name in zip(names, renamed, strict=True):
            self.writes.move_undescribed(name, new_name)
            (archive,) = self.read(("HGETALL", key("archive", name.path)), watch=[key("archive", name.path)])
            self.writes.move_archive(name, new_name, archive)
        self.writes.commands.append(("HSET", key("projects"), number, project))
        return names

    def find_past(self, keys: Sequence[str]) -> Collection[str]:
        # A push that counts one of them at the same time writes its key, which is watched.
        (rows,) = self.read(("HMGET", key("ledger"), *keys))
        return {event_key for event_key, row in zip(keys, rows, strict=True) if row is not None}

    def read_clock(self, name: Clock) -> float | None:
        clock = _CLOCKS[name]
        (seconds,) = self.read(("GET", clock), watch=[clock])
        return None if seconds is None else float(seconds)

    def set_clock(self, name: Clock, seconds: float) -> None:
        self.writes.commands.append(("SET", _CLOCKS[name], repr(seconds)))

    def begin_listing(self, listing: Listing) -> None:
        named = key("named", listing.project)
        self.writes.commands += [
            ("DEL", named),
            ("SADD", named, _mark(listing)),
            ("EXPIRE", named, _LISTING_SECONDS),
            ("SMOVE", key("requested"), key("answering"), listing.project),
        ]

    def drop_listing(self, listing: Listing) -> None:
        self.writes.commands.append(("DEL", key("named", listing.project)))

    def is_lost(self, listing: Listing) -> bool:
        (is_ours,) = self.read(("SISMEMBER", key("named", listing.project), _mark(listing)))
        return not is_ours

    def add_listed(self, listing: Listing, identities: Sequence[str]) -> None:
        if identities:
            self.writes.commands.append(("SADD", key("named", listing.project), *identities))

    def last_sweep(self, project: str) -> float | None:
        (at,) = self.read(("HGET", key("swept"), project))
        return None if at is None else float(at)

    def load_unlisted(self, listing: Listing) -> Unlisted:
        cursor = listing.position or _FIRST_CURSOR
        scan: Command = ("SSCAN", key("names", listing.project), cursor, "COUNT", SLICE)
        ((next_cursor, paths),) = self.read(scan)
        names = list(dict.fromkeys(InstanceName.from_path(path) for path in paths))
        self.load(names)
        living = [
            (name, instance.identity)
            for name in names
            for instance in self._records[name].incarnations
            if instance.alive
        ]
        listed: Sequence[int] = ()
        if living:
            named = key("named", listing.project)
            (listed,) = self.read(("SMISMEMBER", named, *(identity for _, identity in living)))
        return Unlisted(
            [place for place, is_listed in zip(living, listed, strict=True) if not is_listed],
            None if next_cursor == _FIRST_CURSOR else next_cursor,
        )

    def complete_listing(self, listing: Listing, began: float, *, swept: bool, whole: bool) -> None:
        times = ("listings", *(("swept",) if swept else ()), *(("whole",) if whole else ()))
        self.writes.commands += [("HSET", key(time), listing.project, repr(began)) for time in times]
        self.writes.commands.append(("SREM", key("answering"), listing.project))
        self.drop_listing(listing)

    # pruning

    def prune_ledger(self, before: float) -> bool:
        """Delete a slice of old ledger rows. Return True if there may be more."""
        (old,) = self.read(_older("ledger:recorded", before))
        if not old:
            return False
        (values,) = self.read(("HMGET", key("ledger"), *old))
        rows = [
            (event_key, decode_ledger_row(value))
            for event_key, value in zip(old, values, strict=True)
            if value is not None
        ]
        undescribed = {
            event_key: name_in_ledger(row, self._memory.projects)
            for event_key, row in rows
            if not row.is_described
        }
        self.load(undescribed.values())
        for event_key, name in undescribed.items():
            self.writes.drop_undescribed(name, event_key)
        self.writes.commands += [("ZREM", key(index), *old) for index in ("ledger:at", "ledger:recorded")]
        self.writes.commands += [("HDEL", key(hash_), *old) for hash_ in ("ledger", "attributed")]
        return len(old) == SLICE

    def prune_instances(self, before: float) -> bool:
        """Delete a slice of old incarnations, and of deletions of unknown instances that are too many.

        Return True if there may be more.
        """
        old, deletions = self.read(_older("recorded", before), ("ZCARD", key("deletions")))
        surplus = min(max(deletions - self._memory.rules.max_unknown_deletions, 0), SLICE)
        if surplus:
            (oldest,) = self.read(("ZRANGE", key("deletions"), 0, surplus - 1))
            old = list(dict.fromkeys([*old, *oldest]))
        places = [split_member(member) for member in old]
        self.load([name for name, _ in places], archived=places)
        for name, identity in places:
            if not self.batch.remove(name, identity):
                for index in ("recorded", "deletions"):
                    self.writes.drop_orphan(index, index_member(name, identity))
        return len(old) >= SLICE


def _mark(listing: Listing) -> str:
    return f"~{listing.id}"  # no instance has such an id


def _older(index: str, before: float) -> Command:
    return ("ZRANGEBYSCORE", key(index), "-inf", f"({before!r}", "LIMIT", 0, SLICE)
