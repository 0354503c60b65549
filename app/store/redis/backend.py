"""The backend that replicas share: Redis, or any server that speaks its protocol.

Every write is an optimistic transaction: watch, read, decide, write. It runs again if another replica was
faster.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, Self, TypeVar
from uuid import uuid4

from app.domain.batch import Applied, Shared
from app.domain.totals import Totals
from app.errors import NameTakenError, StartError, StoreUnavailableError
from app.store.memory import Memory
from app.store.port import LEASE_SECONDS, NotLeadingError, Transacted, Transaction
from app.store.redis import shared
from app.store.redis.connection import Command, Link, LostReplyError
from app.store.redis.rows import (
    SCHEMA,
    all_series,
    check_schema,
    decode_replica_totals,
    encode_series,
    flatten,
    key,
    max_counters,
)
from app.store.redis.shared import SharedReplies, SharedTotals
from app.store.redis.transaction import RedisTransaction, RetryTransactionError
from app.store.redis.writes import replica_commands, shared_commands

SYNC_SECONDS: Final = 5.0
_LEASE_MARGIN_SECONDS: Final = 1.0
_CONFLICT_TIMEOUT_SECONDS: Final = 10.0

# Drops the series that are still idle, if this process leads. KEYS: lease, changed, alive, newest, the
# leader's totals. ARGV: leader, before; then pairs of a member and, if it is a cluster, the cluster's name.
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
_NAME_LOST: Final = "another process has started under this replica's name"
_NAME_CONTESTED: Final = "another process is taking this replica's name"

T = TypeVar("T")


class RedisBackend:
    """See `app.store.port.SharedBackend`."""

    def __init__(
        self,
        link: Link,
        memory: Memory,
        *,
        replica: str,
        lease_seconds: float = LEASE_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`replica`: the name under which this process stores its own counters."""
        self.memory = memory
        memory.lease_ends_at = float("-inf")
        self._link = link
        self._lease_seconds = lease_seconds
        self._monotonic = monotonic
        self._id = uuid4().hex
        self._times_connected = 0
        self._name_lost = False
        self._batch_id: str | None = None
        """The last transaction under this name that the server is known to have executed."""
        self._replica = replica
        self._totals_key = key("of", replica, "totals")
        self._holder_key = key("of", replica, "holder")
        self._batch_key = key("of", replica, "batch")
        self._retention_milliseconds = round(memory.rules.retention_seconds * 1000)
        self._needs_unwatch = False
        """The transaction has not read anything yet."""
        self._shared_totals = SharedTotals(memory)

    @classmethod
    def open(
        cls,
        link: Link,
        memory: Memory,
        *,
        replica: str,
        reset_totals: bool = False,
        lease_seconds: float = LEASE_SECONDS,
    ) -> Self:
        """Take the replica's name, which belongs to the newest process. Raises StartError."""
        backend = cls(link, memory, replica=replica, lease_seconds=lease_seconds)
        try:
            backend._open(reset_totals=reset_totals)
        except (StoreUnavailableError, LostReplyError) as exc:
            link.close()
            raise StartError(f"the store cannot be opened: {exc}") from exc
        except StartError:
            link.close()
            raise
        return backend

    def _open(self, *, reset_totals: bool) -> None:
        self._link.connect()
        commands: list[Command] = [("DEL", self._totals_key, key("complete"))] if reset_totals else []
        claimed = False
        while not claimed:
            _, schema = self._link.ask([("WATCH", self._holder_key), ("GET", key("schema"))])
            check_schema(schema)
            claimed = self._link.commit([*commands, *self._claim()])
        self._load_memory()

    def connect(self) -> None:
        if self._link.connected:
            return
        if self._name_lost:
            raise NameTakenError(_NAME_LOST)
        self._link.connect()
        try:
            self._renew_token()
            self._load_memory()
        except LostReplyError as exc:
            raise StoreUnavailableError("redis cannot be used: the connection was lost") from exc
        except StoreUnavailableError as exc:
            self._link.close()
            self._name_lost = isinstance(exc, NameTakenError)
            raise

    def transact(
        self, work: Callable[[Transaction], T], now: float, *, leading: bool = False
    ) -> Transacted[T]:
        return Transacted(partial(self._transact, work, now, leading=leading), None)

    def sync(self, now: float) -> Applied:
        """Read what other replicas have changed, renew this process' keys, and take or renew the lease."""
        began = self._monotonic()

        def work(transaction: RedisTransaction) -> tuple[Applied, bool, Sequence[str]]:
            leader, requested, *replies = transaction.read(
                ("GET", key("lease")), ("SMEMBERS", key("requested")), *shared.COMMANDS, watch=[key("lease")]
            )
            leads = leader in (None, self._id)
            known = SharedReplies._make(replies)
            changed, gone = self._shared_totals.diff(self.memory.totals, known)
            self.memory.listed, self.memory.projects = known.listed(), known.project_ids()
            self.memory.downtime, self.memory.beat_at = float(known.downtime or 0), known.beat_at()
            self.memory.whole = known.listed_wholly()
            transaction.writes.commands += [
                *(
                    ("PEXPIRE", own, self._retention_milliseconds)
                    for own in (self._totals_key, self._holder_key)
                ),
                ("ZADD", key("replicas"), now, self._replica),
                *self._drop_own(gone),
                *(self._lead(requested, now) if leads else ()),
            ]
            return (
                Applied(changed=changed, removed=gone, pending=known.pending),
                leads,
                requested if leads else (),
            )

        applied, leads, requested = self._transact(work, now)
        self.memory.lease_ends_at = (
            began + self._lease_seconds - _LEASE_MARGIN_SECONDS if leads else float("-inf")
        )
        applied.shared = Shared(self.memory.lease_ends_at, requested, dict(self.memory.listed))
        return applied

    def prune(self, before: float, now: float) -> Applied:
        ledger_more = self._transact_if_leading(lambda transaction: transaction.prune_ledger(before), now)

        def prune_instances(transaction: RedisTransaction) -> Applied:
            more = transaction.prune_instances(before)
            applied = transaction.batch.applied((), self.memory.pending)
            applied.more = more or bool(ledger_more)
            return applied

        applied = self._transact_if_leading(prune_instances, now)
        if applied is None:
            return Applied(pending=self.memory.pending)
        if not applied.more and self._leads:
            applied.removed = self._drop_idle(before)
        return applied

    def close(self) -> None:
        with suppress(StoreUnavailableError, LostReplyError, NotLeadingError, RetryTransactionError):
            if self._link.connected and self._leads:
                self._needs_unwatch = True
                self._read((), (), leading=True)
                self._link.commit([("DEL", key("lease"))])
        self.memory.lease_ends_at = float("-inf")
        self._link.close()

    # transactions

    def _transact(self, work: Callable[[RedisTransaction], T], now: float, *, leading: bool = False) -> T:
        """Run the work until no other replica was faster."""
        until = self._monotonic() + _CONFLICT_TIMEOUT_SECONDS
        while True:
            self.connect()
            self._needs_unwatch = True
            with suppress(RetryTransactionError):
                transaction = RedisTransaction(partial(self._read, leading=leading), self.memory, now)
                result = work(transaction)
                if self._needs_unwatch:
                    transaction.read()
                if self._commit(self._commands(transaction)):
                    return result
            if self._monotonic() > until:
                raise StoreUnavailableError("other replicas kept changing the same instances")

    def _transact_if_leading(self, work: Callable[[RedisTransaction], T], now: float) -> T | None:
        try:
            return self._transact(work, now, leading=True)
        except NotLeadingError:
            return None

    def _commands(self, transaction: RedisTransaction) -> list[Command]:
        batch, writes = transaction.batch, transaction.writes
        writes.add_batch(batch, self.memory.totals, self.memory.rules.retention_seconds)
        commands = [*writes.finish(), *replica_commands(self._totals_key, batch.totals.changed)]
        if not self._leads:
            # The leading replica lists these projects, because interruptions wait for their instances.
            requested = {
                pending.event.name.project
                for pending in batch.pending_interruptions.values()
                if pending is not None
            }
            commands += [("SADD", key("requested"), *requested)] if requested else []
        return commands

    def _commit(self, commands: Sequence[Command]) -> bool:
        """Return False if something that the transaction watches has changed."""
        batch_id = uuid4().hex
        try:
            if not self._link.commit(
                [*commands, ("SET", self._batch_key, batch_id, "PX", self._retention_milliseconds)]
            ):
                return False
        except LostReplyError:
            # Reconnecting changes our token, which the transaction watches. So it has either run already or
            # can never run. If it ran, its batch id is stored.
            self.connect()
            return self._batch_id == batch_id
        self._batch_id = batch_id
        return True

    def _read(self, commands: Sequence[Command], watch: Sequence[str], *, leading: bool) -> list[Any]:
        """Watch the keys and return the commands' replies. Raises NameTakenError, or NotLeadingError."""
        lease = key("lease")
        begin: list[Command] = [("UNWATCH",)] if self._needs_unwatch else []
        self._needs_unwatch = False
        begin.append(("WATCH", self._holder_key, *watch, *([lease] if leading else [])))
        own = ("MGET", self._holder_key, self._batch_key, lease)
        (holder, batch_id, leader), *replies = self._link.ask([*begin, own, *commands])[len(begin) :]
        if (holder, batch_id) != (self._token(), self._batch_id):
            # Another process has the name, or the server has lost data. Connecting again shows which.
            self._link.close()
            raise RetryTransactionError
        if leading and leader != self._id:
            self.memory.lease_ends_at = float("-inf")
            raise NotLeadingError
        return replies

    # the replica's name

    def _renew_token(self) -> None:
        """Store a new token under our name, so that none of our unfinished transactions can run any more."""
        *_, holder = self._link.ask([("UNWATCH",), ("WATCH", self._holder_key), ("GET", self._holder_key)])
        if holder is not None and not holder.startswith(self._id):
            raise NameTakenError(_NAME_LOST)
        self._times_connected += 1
        self._write_or_raise(self._claim())

    def _claim(self) -> list[Command]:
        return [
            ("SET", key("schema"), SCHEMA, "NX"),
            ("SET", self._holder_key, self._token(), "PX", self._retention_milliseconds),
        ]

    def _token(self) -> str:
        return f"{self._id}:{self._times_connected}"

    def _write_or_raise(self, commands: Sequence[Command]) -> None:
        if not self._link.commit(commands):
            raise StoreUnavailableError(_NAME_CONTESTED)

    # memory

    def _load_memory(self) -> None:
        """Load everything. Write counters again that this process has exported and the server has lost."""
        _, (holder, batch_id), own_reply, *replies = self._link.ask(
            [
                ("WATCH", self._holder_key),
                ("MGET", self._holder_key, self._batch_key),
                ("HGETALL", self._totals_key),
                *shared.COMMANDS,
            ]
        )
        if holder != self._token():
            raise StoreUnavailableError(_NAME_CONTESTED)
        totals, lost = max_counters(self.memory.totals, decode_replica_totals(own_reply))
        if lost:
            self._write_or_raise(
                [
                    ("DEL", key("complete")),
                    *replica_commands(self._totals_key, lost),
                    *shared_commands(lost, lost),
                ]
            )
            self._load_memory()
            return
        self._batch_id = batch_id
        known = SharedReplies._make(replies)
        changed, gone = self._shared_totals.diff(totals, known)
        if gone:
            self._write_or_raise(self._drop_own(gone))
        totals.update(changed)
        totals.remove(gone)
        self.memory.load(
            totals,
            pending=known.pending,
            projects=known.project_ids(),
            listed=known.listed(),
            downtime=float(known.downtime or 0),
            beat_at=known.beat_at(),
            whole=known.listed_wholly(),
        )

    def _drop_own(self, gone: Totals) -> list[Command]:
        """Return the command that deletes our own counters of these rows."""
        return (
            [("HDEL", self._totals_key, *(encode_series(series) for series, _ in all_series(gone)))]
            if gone
            else []
        )

    # leading

    @property
    def _leads(self) -> bool:
        lease_ends_at = self.memory.lease_ends_at
        return lease_ends_at is not None and self._monotonic() < lease_ends_at

    def _lead(self, requested: Sequence[str], now: float) -> list[Command]:
        """Return the commands of the replica that leads: take what others ask for, forget absent replicas."""
        oldest = now - self.memory.rules.retention_seconds
        return [
            ("SET", key("lease"), self._id, "PX", round(self._lease_seconds * 1000)),
            *([("SREM", key("requested"), *requested)] if requested else ()),
            ("ZREMRANGEBYSCORE", key("replicas"), "-inf", f"({oldest!r}"),
        ]

    def _drop_idle(self, before: float) -> Totals:
        """Drop the series that are idle on all replicas, and return them."""
        idle = self.memory.totals.idle(before)
        by_member = {encode_series(series): series for series, _ in all_series(idle)}
        if not by_member:
            return Totals()
        members = flatten(
            (member, series if isinstance(series, str) else "") for member, series in by_member.items()
        )
        keys = [*(key(name) for name in ("lease", "changed", "alive", "newest")), self._totals_key]
        (gone,) = self._link.ask([("EVAL", _DROP_IDLE, len(keys), *keys, self._id, before, *members)])
        kept = {by_member[member] for member in by_member.keys() - gone}
        return Totals(
            {labels: row for labels, row in idle.label_sets.items() if labels not in kept},
            {cluster: row for cluster, row in idle.clusters.items() if cluster not in kept},
            {pair: row for pair, row in idle.lifetimes.items() if pair not in kept},
        )
