"""The store that replicas share: Redis, or whatever speaks its protocol.

Every write is an optimistic transaction: watch, read, decide, write; again, where another replica was faster.
https://redis.io/docs/latest/develop/using-commands/transactions/
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self, TypeVar
from uuid import uuid4

from app.domain.attribution import Rules
from app.domain.batch import Applied, Batch, Shared, in_project_ids, keys_of, names_of
from app.domain.events import UNKNOWN, Event, InstanceName, Listed
from app.domain.fleet import ends_what_it_misses
from app.domain.instances import UNKNOWN_LABELS, Labels
from app.domain.outcomes import Pending
from app.domain.totals import ClusterTotals, LabelSetTotals, LifetimeTotals, Tally, Totals
from app.errors import NameTakenError, StartError, StoreUnavailableError
from app.store import LEASE_SECONDS, SLICE, Prepared, Remembered
from app.store.redis.connection import Command, Link, LostReplyError
from app.store.redis.rows import (
    SCHEMA,
    Pairs,
    Series,
    Under,
    check_schema,
    flat,
    greater,
    is_explained,
    key,
    member,
    name_in_ledger,
    name_of,
    own_rows,
    pairs,
    scores,
    series_in,
    series_of,
    split,
    text_of,
    text_of_series,
    under,
)
from app.store.redis.writes import Writes, own_commands, totals_commands

REFRESH_SECONDS: Final = 5.0
_LEASE_MARGIN_SECONDS: Final = 1.0
_LISTING_SECONDS: Final = 7200
_LONGEST_GAP_SECONDS: Final = 3600.0
_PATIENCE_SECONDS: Final = 10.0

# Drops what is still idle, for who leads. KEYS: lease, touched, alive, newest, the leader's own totals.
# ARGV: leader, before; then members, each with its cluster's name if it is one.
_DROP_IDLE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return {} end
local gone = {}
for n = 3, #ARGV, 2 do
  local score = redis.call('ZSCORE', KEYS[2], ARGV[n])
  local alive = tonumber(redis.call('HGET', KEYS[3], ARGV[n]) or '0')
  if score and tonumber(score) < tonumber(ARGV[2]) and alive == 0 then
    redis.call('ZREM', KEYS[2], ARGV[n])
    redis.call('HDEL', KEYS[3], ARGV[n])
    redis.call('HDEL', KEYS[5], ARGV[n])
    if ARGV[n + 1] ~= '' then redis.call('ZREM', KEYS[4], ARGV[n + 1]) end
    gone[#gone + 1] = ARGV[n]
  end
end
return gone
"""

_READ_SHARED: Final[Sequence[Command]] = (
    ("ZRANGE", key("touched"), 0, -1, "WITHSCORES"),
    ("HGETALL", key("alive")),
    ("ZRANGE", key("newest"), 0, -1, "WITHSCORES"),
    ("ZCARD", key("until")),
    ("HGETALL", key("listings")),
    ("HGETALL", key("projects")),
)
_UNKNOWN: Final = Totals(
    {UNKNOWN_LABELS: LabelSetTotals(UNKNOWN_LABELS)},
    {UNKNOWN: ClusterTotals(UNKNOWN)},
    {(UNKNOWN, UNKNOWN): LifetimeTotals(UNKNOWN, UNKNOWN)},
)

_TAKEN: Final = "another process has begun under this replica's name"

T = TypeVar("T")
_Row = TypeVar("_Row", LabelSetTotals, ClusterTotals, LifetimeTotals)


class _NotLeadingError(Exception):
    """Another replica does the periodic work."""


class _AgainError(Exception):
    """What was taken for granted is no longer so: decide again."""


@dataclass(slots=True)
class _Listing:
    """A listing under way."""

    mark: str
    """What says that what is named was named in this one."""
    cursor: str = "0"
    """How far what it has not named is ended."""


class RedisStore:
    """See `app.store.Store`."""

    def __init__(
        self,
        link: Link,
        rules: Rules,
        *,
        replica: str,
        hold: bool = False,
        lease_seconds: float = LEASE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`replica`: the name under which this process' own counters are kept."""
        self._link = link
        self._rules = rules
        self._hold = hold
        self._lease_seconds = lease_seconds
        self._monotonic = monotonic
        self._id = uuid4().hex
        self._times_connected = 0
        self._taken = False
        self._batch_id: str | None = None
        """The last transaction of this name's that the server is known to have."""
        self._replica = replica
        self._own = key("of", replica, "totals")
        self._holder = key("of", replica, "holder")
        self._last_batch = key("of", replica, "batch")
        self._kept_for = round(rules.retention_seconds * 1000)
        self._begun = False
        self._fresh = False
        self._totals = Totals()
        self._shown = Totals()
        """Rows that were known before everything was read again, of which nobody was told yet."""
        self._series: dict[str, Series] = {}
        self._projects: dict[str, str] = {}
        self._pending = 0
        self._listed: dict[str, float] = {}
        self._leads_until = float("-inf")
        self._listings: dict[str, _Listing] = {}

    @classmethod
    def open(
        cls,
        link: Link,
        rules: Rules,
        *,
        replica: str,
        hold: bool = False,
        reset_totals: bool = False,
        lease_seconds: float = LEASE_SECONDS,
    ) -> Self:
        """Take the replica's name: the newest process has it. Raises StartError."""
        store = cls(link, rules, replica=replica, hold=hold, lease_seconds=lease_seconds)
        try:
            store._begin(reset_totals=reset_totals)
        except (StoreUnavailableError, LostReplyError) as exc:
            raise StartError(f"the store cannot be opened: {exc}") from exc
        finally:
            if not store._begun:
                link.close()
        return store

    def _begin(self, *, reset_totals: bool) -> None:
        self._link.connect()
        commands: list[Command] = [("DEL", self._own)] if reset_totals else []
        taken = False
        while not taken:
            _, schema = self._link.ask([("WATCH", self._holder), ("GET", key("schema"))])
            check_schema(schema)
            taken = self._link.commit([*commands, *self._claim()])
        self._recall()
        self._begun = True

    def remembered(self) -> Remembered:
        self._ensure()
        totals = Totals()
        totals.update(self._totals)
        return Remembered(totals, self._pending, dict(self._listed), self._leads_until)

    def refresh(self, now: float) -> Applied:
        began = self._monotonic()

        def work() -> tuple[list[Command], tuple[Applied, bool, list[str]]]:
            lease, asked, *shared = self._read(
                [("GET", key("lease")), ("SMEMBERS", key("asked")), *_READ_SHARED], watch=[key("lease")]
            )
            leads = lease in (None, self._id)
            applied = self._shared_since(shared)
            commands: list[Command] = [("PEXPIRE", own, self._kept_for) for own in (self._own, self._holder)]
            commands.append(("ZADD", key("replicas"), now, self._replica))
            if applied.dropped:
                commands.append(
                    ("HDEL", self._own, *(text_of_series(series) for series, _ in series_in(applied.dropped)))
                )
            if leads:
                commands.append(("SET", key("lease"), self._id, "PX", round(self._lease_seconds * 1000)))
                commands += [("SREM", key("asked"), *asked)] if asked else []
                commands.append(
                    ("ZREMRANGEBYSCORE", key("replicas"), "-inf", f"({now - self._rules.retention_seconds!r}")
                )
            return commands, (applied, leads, asked if leads else [])

        applied, leads, asked = self._transact(work)
        self._leads_until = began + self._lease_seconds - _LEASE_MARGIN_SECONDS if leads else float("-inf")
        applied = self._committed(applied)
        applied.shared = Shared(self._leads_until, asked, dict(self._listed))
        return applied

    def prepare(self, events: Sequence[Event], now: float) -> Prepared:
        return Prepared(partial(self.apply, events, now))

    def apply(self, events: Sequence[Event], now: float) -> Applied:
        def work() -> tuple[list[Command], Applied]:
            batch = self._batch(now)
            learnt = self._to_learn(events)
            known, renamed = self._read_renamed(batch, learnt)
            projects = {**self._projects, **learnt}
            translated = [in_project_ids(event, projects) for event in events]
            known |= self._load(batch, names_of(translated), keys_of(translated), now)
            writes = Writes(known, now)
            for name, project in renamed:
                writes.move_unexplained(name, name._replace(project=project))
                batch.rename(name, project)
            outcomes = [batch.decide(event) for event in translated]
            if learnt:
                writes.commands.append(("HSET", key("projects"), *flat(learnt.items())))
            asked = {outcome.project for outcome in outcomes if isinstance(outcome, Pending)}
            if asked and not self._leads:
                writes.commands.append(("SADD", key("asked"), *asked))
            return self._commands(batch, writes), batch.applied(outcomes, self._pending)

        return self._committed(self._transact(work))

    def expire(self, now: float) -> Applied:
        def work() -> tuple[list[Command], Applied]:
            batch = self._batch(now)
            until = ("ZRANGEBYSCORE", key("until"), "-inf", now, "LIMIT", 0, SLICE)
            (due,) = self._read([until], leading=True)
            places = [split(one) for one in due]
            known = self._load(batch, dict.fromkeys(name for name, _ in places))
            writes = Writes(known, now)
            waiting = {parked.event.key: parked for one in known.values() for parked in one.waiting}
            outcomes = []
            for name, event_key in places:
                if event_key in waiting:
                    outcomes.append(batch.expire(waiting[event_key]))
                else:
                    writes.drop_orphan("until", member(name, event_key))
            applied = batch.applied(outcomes, self._pending)
            applied.more = len(due) == SLICE
            return self._commands(batch, writes), applied

        return self._as_leader(work)

    def account(self, now: float) -> Applied:
        def work() -> tuple[list[Command], Applied]:
            batch = self._batch(now)
            (since,) = self._read([("GET", key("clock"))], watch=[key("clock")], leading=True)
            elapsed = 0.0 if since is None else min(max(now - float(since), 0.0), _LONGEST_GAP_SECONDS)
            for row in self._totals.label_sets.values() if elapsed else ():
                if row.instances:
                    batch.tally.label_set(row.labels).instance_seconds += row.instances * elapsed
            writes = Writes({}, now)
            writes.commands.append(("SET", key("clock"), repr(now)))
            return self._commands(batch, writes), batch.applied((), self._pending)

        return self._as_leader(work)

    def begin_listing(self, project: str, now: float) -> Applied:
        mark = f"~{uuid4().hex}"  # no instance has such an id

        def work() -> tuple[list[Command], Applied]:
            self._read([], leading=True)
            named = key("named", project)
            commands: list[Command] = [
                ("DEL", named),
                ("SADD", named, mark),
                ("EXPIRE", named, _LISTING_SECONDS),
            ]
            return commands, self._batch(now).applied((), self._pending)

        applied = self._committed(self._transact_leading(work))
        self._listings[project] = _Listing(mark)
        return applied

    def take_in(self, project: str, began: float, listed: Sequence[Listed], now: float) -> Applied:
        def work() -> tuple[list[Command], Applied]:
            batch = self._batch(now)
            self._read_listing(project)
            known = self._load(batch, dict.fromkeys(instance.name for instance in listed))
            writes = Writes(known, now)
            for instance in listed:
                batch.hear(instance, began)
            if listed:
                writes.commands.append(("SADD", key("named", project), *(one.id for one in listed)))
            return self._commands(batch, writes), batch.applied((), self._pending)

        return self._committed(self._transact_leading(work))

    def end_listing(self, project: str, began: float, unread_zones: Collection[str], now: float) -> Applied:
        def work() -> tuple[list[Command], tuple[Applied, str]]:
            batch = self._batch(now)
            swept_at, cursor, texts = self._read_listing(project)
            sweeps = ends_what_it_misses(began, swept_at)
            names = [name_of(text) for text in texts] if sweeps else []
            known = self._load(batch, (name for name in names if name.zone not in unread_zones))
            for name, identity in self._unnamed(project, known):
                batch.miss(name, identity, began)
            writes = Writes(known, now)
            applied = batch.applied((), self._pending)
            applied.more = sweeps and cursor != "0"
            if not applied.more:
                times = ("listings", "swept") if sweeps else ("listings",)
                writes.commands += [("HSET", key(at), project, repr(began)) for at in times]
                writes.commands.append(("DEL", key("named", project)))
            return self._commands(batch, writes), (applied, cursor)

        applied, cursor = self._transact_leading(work)
        if applied.more:
            self._listings[project].cursor = cursor
        else:
            del self._listings[project]
            self._listed[project] = began
        return self._committed(applied)

    def reveal(self, rows: Totals, now: float) -> Applied:
        def work() -> tuple[list[Command], Applied]:
            self._read([])
            batch = self._batch(now)
            known = self._totals
            for labels in rows.label_sets.keys() & known.label_sets.keys():
                batch.tally.label_set(labels).revealed = True
            for cluster in rows.clusters.keys() & known.clusters.keys():
                batch.tally.cluster(cluster).revealed = True
            for cluster, machine_type in rows.lifetimes.keys() & known.lifetimes.keys():
                batch.tally.lifetime(cluster, machine_type).revealed = True
            return self._commands(batch, Writes({}, now)), batch.applied((), self._pending)

        return self._committed(self._transact(work))

    def prune(self, now: float) -> Applied:
        before = now - self._rules.retention_seconds
        ledger = self._as_leader(lambda: self._prune_ledger(before, now))
        instances = self._as_leader(lambda: self._prune_instances(before, now))
        instances.more = ledger.more or instances.more
        if not instances.more and self._leads:
            idle = self._drop_idle(before)
            self._totals.drop(idle)
            instances.dropped.update(idle)
        return instances

    def close(self) -> None:
        with suppress(StoreUnavailableError, LostReplyError, _NotLeadingError, _AgainError):
            if self._link.connected and self._leads:
                self._fresh = True
                self._read([], leading=True)
                self._link.commit([("DEL", key("lease"))])
        self._leads_until = float("-inf")
        self._link.close()

    # transactions

    def _transact(self, work: "Callable[[], tuple[list[Command], T]]") -> T:
        """Read, decide and write until nobody was faster."""
        until = self._monotonic() + _PATIENCE_SECONDS
        while True:
            self._ensure()
            self._fresh = True
            with suppress(_AgainError):
                commands, result = work()
                if self._commit(commands):
                    return result
            if self._monotonic() > until:
                raise StoreUnavailableError("other replicas kept changing the same instances")

    def _transact_leading(self, work: "Callable[[], tuple[list[Command], T]]") -> T:
        """As `_transact`, for what a replica does in several steps. Raises StoreUnavailableError."""
        try:
            return self._transact(work)
        except _NotLeadingError:
            self._leads_until = float("-inf")
            raise StoreUnavailableError("another replica does the periodic work by now") from None

    def _as_leader(self, work: "Callable[[], tuple[list[Command], Applied]]") -> Applied:
        """As `_transact`; where another replica leads, nothing is done."""
        try:
            return self._committed(self._transact(work))
        except _NotLeadingError:
            self._leads_until = float("-inf")
            return self._committed(Applied(pending=self._pending))

    def _commit(self, commands: Sequence[Command]) -> bool:
        batch = uuid4().hex
        try:
            if not self._link.commit([*commands, ("SET", self._last_batch, batch, "PX", self._kept_for)]):
                return False
        except LostReplyError:
            # Whether it was executed: reconnecting has changed our token, which it watches, so by now it was
            # or never will be; and it would have left its id behind.
            self._ensure()
            return self._batch_id == batch
        self._batch_id = batch
        return True

    def _read(
        self, commands: Sequence[Command], *, watch: Sequence[str] = (), leading: bool = False
    ) -> list[Any]:
        """The replies to the commands, all keys being watched and the replica's name ours.

        Raises NameTakenError, or _NotLeadingError.
        """
        begin: list[Command] = [("UNWATCH",)] if self._fresh else []
        self._fresh = False
        lease = key("lease")
        begin.append(("WATCH", self._holder, *watch, *([lease] if leading else [])))
        own = ("MGET", self._holder, self._last_batch, lease)
        (holder, batch, leader), *replies = self._link.ask([*begin, own, *commands])[len(begin) :]
        if (holder, batch) != (self._token(), self._batch_id):
            self._link.close()  # to be told apart: taken, or lost with some of the server's memory
            raise _AgainError
        if leading and leader != self._id:
            raise _NotLeadingError
        return replies

    def _ensure(self) -> None:
        """Be connected, under our name, and know what is stored. Raises StoreUnavailableError."""
        if self._link.connected:
            return
        if self._taken:
            raise NameTakenError(_TAKEN)
        self._link.connect()
        try:
            self._reclaim()
            self._recall()
        except LostReplyError as exc:
            raise StoreUnavailableError("redis cannot be used: the connection was lost") from exc
        except StoreUnavailableError as exc:
            self._link.close()
            self._taken = isinstance(exc, NameTakenError)
            raise

    def _reclaim(self) -> None:
        """Put a new token under our name, which ends every transaction of ours that is still under way."""
        *_, holder = self._link.ask([("UNWATCH",), ("WATCH", self._holder), ("GET", self._holder)])
        if holder is not None and not holder.startswith(self._id):
            raise NameTakenError(_TAKEN)
        self._times_connected += 1
        if not self._link.commit(self._claim()):
            raise StoreUnavailableError("another process takes this replica's name")

    def _claim(self) -> list[Command]:
        return [
            ("SET", key("schema"), SCHEMA, "NX"),
            ("SET", self._holder, self._token(), "PX", self._kept_for),
        ]

    def _token(self) -> str:
        return f"{self._id}:{self._times_connected}"

    # reading

    def _load(
        self, batch: Batch, names: Iterable[InstanceName], keys: Sequence[str] = (), now: float = 0.0
    ) -> dict[InstanceName, Under]:
        """Read everything under the names, and which of the keys were seen; and watch all of it."""
        names = batch.unread(names)
        name_keys = [key("name", text_of(name)) for name in names]
        seen_keys = [key("seen", event_key) for event_key in keys]
        commands: list[Command] = [("HGETALL", key("projects")), *(("HGETALL", one) for one in name_keys)]
        if seen_keys:
            commands.append(("MGET", *seen_keys))
        projects, *rows = self._read(commands, watch=[key("projects"), *name_keys, *seen_keys])
        seen = rows.pop() if seen_keys else ()
        self._take_projects(projects)
        known = {name: under(name, row) for name, row in zip(names, rows, strict=True)}
        # The server's clock lets keys go; but how long they are remembered is told by ours.
        oldest = now - self._rules.retention_seconds
        batch.load(
            [event_key for event_key, at in zip(keys, seen, strict=False) if at and float(at) >= oldest],
            [instance for one in known.values() for instance in one.incarnations],
            [parked for one in known.values() for parked in one.waiting],
        )
        return known

    def _take_projects(self, reply: Pairs) -> None:
        """Another replica may have learnt a project's number: then names were spelt otherwise."""
        projects = dict(pairs(reply))
        if projects != self._projects:
            self._projects = projects
            raise _AgainError

    def _to_learn(self, events: Sequence[Event]) -> dict[str, str]:
        """Pairs of project number and id that the events teach."""
        taught = {event.project_number: event.name.project for event in events if event.project_number}
        return {
            number: project for number, project in taught.items() if self._projects.get(number) != project
        }

    def _read_renamed(
        self, batch: Batch, learnt: Mapping[str, str]
    ) -> tuple[dict[InstanceName, Under], list[tuple[InstanceName, str]]]:
        """What is kept under the numbers and moves to the ids, in both spellings."""
        if not learnt:
            return {}, []
        sets = [key("names", number) for number in learnt]
        replies = self._read([("SMEMBERS", one) for one in sets], watch=sets)
        renamed = [
            (name_of(text), project)
            for project, texts in zip(learnt.values(), replies, strict=True)
            for text in sorted(texts)
        ]
        both = (one for name, project in renamed for one in (name, name._replace(project=project)))
        return self._load(batch, dict.fromkeys(both)), renamed

    def _read_listing(self, project: str) -> tuple[float | None, str, list[str]]:
        """When the last listing began that ended what it missed; where the next call goes on; some names.

        Raises StoreUnavailableError for a listing that was lost.
        """
        listing = self._listings.get(project)
        if listing is not None:
            is_ours, swept_at, (cursor, texts) = self._read(
                [
                    ("SISMEMBER", key("named", project), listing.mark),
                    ("HGET", key("swept"), project),
                    ("SSCAN", key("names", project), listing.cursor, "COUNT", SLICE),
                ],
                leading=True,
            )
            if is_ours:
                return None if swept_at is None else float(swept_at), cursor, texts
        raise StoreUnavailableError("the store was away while the fleet was being listed")

    def _unnamed(self, project: str, known: Mapping[InstanceName, Under]) -> list[tuple[InstanceName, str]]:
        """The living of these instances that the listing has not named."""
        living = [
            (name, instance.identity)
            for name, one in known.items()
            for instance in one.incarnations
            if instance.alive
        ]
        if not living:
            return []
        asked = ("SMISMEMBER", key("named", project), *(identity for _, identity in living))
        (named,) = self._read([asked])
        return [one for one, is_named in zip(living, named, strict=True) if not is_named]

    def _recall(self) -> None:
        """Read everything again; what this process has shown and the server has lost, it writes again."""
        reads = (
            ("WATCH", self._holder),
            ("MGET", self._holder, self._last_batch),
            ("HGETALL", self._own),
            *_READ_SHARED,
        )
        _, (holder, batch), own_reply, *shared = self._link.ask(reads)
        if holder != self._token():
            raise StoreUnavailableError("another process takes this replica's name")
        own, lost = greater(self._totals, own_rows(own_reply))
        if lost:
            self._write_own([*own_commands(self._own, lost), *totals_commands(lost, lost)])
            self._recall()
            return
        self._shown.update(self._totals)
        self._batch_id = batch
        self._totals = own
        applied = self._shared_since(shared)
        if gone := [text_of_series(series) for series, _ in series_in(applied.dropped)]:
            self._write_own([("HDEL", self._own, *gone)])
        self._totals.update(applied.changed)
        self._totals.drop(applied.dropped)
        self._pending = applied.pending
        unknown = self._batch(0.0).tally
        unknown.show(UNKNOWN_LABELS)
        self._totals.update(unknown.changed)

    def _write_own(self, commands: Sequence[Command]) -> None:
        if not self._link.commit(commands):
            raise StoreUnavailableError("another process takes this replica's name")

    def _shared_since(self, replies: Sequence[Any]) -> Applied:
        """What the replies to _READ_SHARED change of what is known."""
        touched, alive, newest, waiting, listed, projects = replies
        self._listed = {project: float(began) for project, began in pairs(listed)}
        self._projects = dict(pairs(projects))
        living, newest_at = dict(pairs(alive)), scores(newest)
        known, changed = self._totals, Totals()
        gone = Totals(dict(known.label_sets), dict(known.clusters), dict(known.lifetimes))
        known_as, self._series = self._series, {}
        for text, at in scores(touched).items():
            series = self._series[text] = known_as.get(text) or series_of(text)
            match series:
                case Labels():
                    row = gone.label_sets.pop(series, None)
                    instances = max(int(living.get(text, 0)), 0)
                    if row is None or (row.instances, row.touched_at) != (instances, at):
                        row = changed.label_sets[series] = self._copy(row, LabelSetTotals(series))
                        row.instances, row.touched_at = instances, at
                case str():
                    cluster, last = gone.clusters.pop(series, None), newest_at.get(series)
                    if cluster is None or (cluster.last_interruption_at, cluster.touched_at) != (last, at):
                        cluster = changed.clusters[series] = self._copy(cluster, ClusterTotals(series))
                        cluster.last_interruption_at, cluster.touched_at = last, at
                case _:
                    lifetime = gone.lifetimes.pop(series, None)
                    if lifetime is None or lifetime.touched_at != at:
                        lifetime = changed.lifetimes[series] = self._copy(lifetime, LifetimeTotals(*series))
                        lifetime.touched_at = at
        gone.drop(_UNKNOWN)
        return Applied(changed=changed, dropped=gone, pending=waiting)

    def _copy(self, row: _Row | None, new: _Row) -> _Row:
        """The row, to change; one that appears is hidden where series are held."""
        if row is not None:
            return copy(row)
        new.revealed = not self._hold
        return new

    # pruning

    def _prune_ledger(self, before: float, now: float) -> tuple[list[Command], Applied]:
        batch = self._batch(now)
        (old,) = self._read([_older("ledger:recorded", before)], leading=True)
        if not old:
            return [], batch.applied((), self._pending)
        (values,) = self._read([("HMGET", key("ledger"), *old)])
        unexplained = {
            event_key: name_in_ledger(value, self._projects)
            for event_key, value in zip(old, values, strict=True)
            if value is not None and not is_explained(value)
        }
        writes = Writes(self._load(batch, dict.fromkeys(unexplained.values())), now)
        for event_key, name in unexplained.items():
            writes.drop_unexplained(name, event_key)
        writes.commands += [("ZREM", key(index), *old) for index in ("ledger:at", "ledger:recorded")]
        writes.commands += [("HDEL", key(rows), *old) for rows in ("ledger", "explained")]
        applied = batch.applied((), self._pending)
        applied.more = len(old) == SLICE
        return self._commands(batch, writes), applied

    def _prune_instances(self, before: float, now: float) -> tuple[list[Command], Applied]:
        batch = self._batch(now)
        (old,) = self._read([_older("recorded", before)], leading=True)
        places = [split(one) for one in old]
        known = self._load(batch, dict.fromkeys(name for name, _ in places))
        writes = Writes(known, now)
        for name, identity in places:
            if any(instance.identity == identity for instance in known[name].incarnations):
                batch.forget(name, identity)
            else:
                writes.drop_orphan("recorded", member(name, identity))
        applied = batch.applied((), self._pending)
        applied.more = len(old) == SLICE
        return self._commands(batch, writes), applied

    def _drop_idle(self, before: float) -> Totals:
        """Forget the series in which nothing happens any more, on whatever replica."""
        idle = self._totals.idle(before)
        texts = {text_of_series(series): series for series, _ in series_in(idle)}
        if not texts:
            return Totals()
        members = flat((text, one if isinstance(one, str) else "") for text, one in texts.items())
        keys = [*(key(name) for name in ("lease", "touched", "alive", "newest")), self._own]
        (gone,) = self._link.ask([("EVAL", _DROP_IDLE, len(keys), *keys, self._id, before, *members)])
        kept = {texts[text] for text in texts.keys() - gone}
        return Totals(
            {labels: row for labels, row in idle.label_sets.items() if labels not in kept},
            {cluster: row for cluster, row in idle.clusters.items() if cluster not in kept},
            {pair: row for pair, row in idle.lifetimes.items() if pair not in kept},
        )

    # memory

    @property
    def _leads(self) -> bool:
        return self._monotonic() < self._leads_until

    def _batch(self, now: float) -> Batch:
        tally = Tally(
            self._totals, max_label_sets=self._rules.max_label_sets, revealed=not self._hold, now=now
        )
        return Batch(tally, self._rules, now)

    def _commands(self, batch: Batch, writes: Writes) -> list[Command]:
        writes.add(batch, self._totals, self._rules.retention_seconds)
        return [*writes.finish(), *own_commands(self._own, batch.tally.changed)]

    def _committed(self, applied: Applied) -> Applied:
        self._totals.update(applied.changed)
        self._totals.drop(applied.dropped)
        self._pending = applied.pending
        applied.shared = applied.shared or Shared(self._leads_until, (), self._listed)
        if self._shown:
            self._shown.drop(self._totals)
            self._shown.update(applied.dropped)
            applied.dropped, self._shown = self._shown, Totals()
            applied.changed = Totals()
            applied.changed.update(self._totals)
        return applied


def _older(index: str, before: float) -> Command:
    return ("ZRANGEBYSCORE", key(index), "-inf", f"({before!r}", "LIMIT", 0, SLICE)
