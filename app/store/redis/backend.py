"""The backend that replicas share: Redis, or any server that speaks its protocol.

Every write is an optimistic transaction: watch, read, decide, write. It runs again if another replica was
faster.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from app.domain.batch import Applied
from app.domain.replicas import ReplicaSettings
from app.domain.totals import Totals
from app.errors import NameTakenError, StartError, StoreUnavailableError
from app.store.memory import Memory
from app.store.port import LEASE_SECONDS, NotLeadingError
from app.store.redis import shared
from app.store.redis.connection import Command, Link, LostReplyError
from app.store.redis.rollback import NAME_LOST, Claim, Footprint, new_transaction_id, restoring_commands
from app.store.redis.rows import (
    SCHEMA,
    check_schema,
    decode_settings,
    encode_settings,
    flatten,
    key,
    require_schema,
)
from app.store.redis.shared import SharedReplies, SharedTotals, update_memory
from app.store.redis.totals import all_series, decode_replica_totals, encode_series, is_behind
from app.store.redis.transaction import RedisTransaction, RetryTransactionError
from app.store.redis.writes import replica_commands

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
_REQUEST_AGAIN: Final[Sequence[Command]] = (
    ("SUNIONSTORE", key("requested"), key("requested"), key("answering")),
    ("DEL", key("answering")),
)
_LIVING_MILLISECONDS: Final = 60_000
"""The time without a `sync` after which a replica does not live any more."""
_NAME_CONTESTED: Final = (
    "another process is writing with this replica's name; each replica needs its own store.replica"
)

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
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`replica`: the name under which this process stores its own counters."""
        self.memory = memory
        memory.lease_ends_at = float("-inf")
        self._link = link
        self._lease_seconds = lease_seconds
        self._monotonic = monotonic
        self._footprint = Footprint(Claim.begin(clock()))
        self._id = self._footprint.claim.process
        self._name_lost = False
        self._replica = replica
        self._totals_key = key("of", replica, "totals")
        self._holder_key = key("of", replica, "holder")
        self._batch_key = key("of", replica, "batch")
        self._settings_key = key("of", replica, "settings")
        self._encoded_settings = encode_settings(memory.settings)
        self._retention_milliseconds = round(memory.rules.retention_seconds * 1000)
        self._needs_unwatch = False
        """True until the transaction's first read, which ends what an earlier transaction has watched."""
        self._may_be_closed = False
        """True until the transaction's first read, if its connection is from before the transaction."""
        self._shared_totals = SharedTotals(memory)

    def open(self, *, reset_totals: bool = False) -> None:
        """Take the replica's name, which belongs to the newest process. Raises StartError."""
        try:
            self._open(reset_totals=reset_totals)
        except (StoreUnavailableError, LostReplyError) as exc:
            self._link.close()
            raise StartError(f"store.url: the store cannot be opened: {exc}") from exc
        except StartError:
            self._link.close()
            raise

    def _open(self, *, reset_totals: bool) -> None:
        self._link.connect()
        commands: list[Command] = [("DEL", self._totals_key, key("complete"))] if reset_totals else []
        claimed = False
        while not claimed:
            own = ("MGET", key("schema"), self._holder_key)
            _, (schema, holder) = self._link.ask([("WATCH", key("schema"), self._holder_key), own])
            check_schema(schema)
            self._footprint.claim = self._footprint.claim.renewed(holder)
            claimed = self._link.commit([*commands, *self._claim(self._footprint.claim)])
        self._load_memory()

    def connect(self) -> None:
        if self._link.connected:
            return
        if self._name_lost:
            raise NameTakenError(NAME_LOST)
        self._link.connect()
        try:
            self._claim_again()
            self._load_memory()
        except LostReplyError as exc:
            raise StoreUnavailableError("redis cannot be used: the connection was lost") from exc
        except StoreUnavailableError as exc:
            self._link.close()
            self._name_lost = isinstance(exc, NameTakenError)
            raise

    def sync(self, now: float) -> Applied:
        """Read what other replicas have changed, renew this process' keys, and take or renew the lease."""
        began = self._monotonic()

        def work(transaction: RedisTransaction) -> tuple[Applied, bool, Sequence[str]]:
            leader, names, requested, answering, *replies = transaction.read(
                ("GET", key("lease")),
                ("ZRANGE", key("replicas"), 0, -1),
                ("SMEMBERS", key("requested")),
                ("SMEMBERS", key("answering")),
                *shared.COMMANDS,
                watch=[key("lease")],
            )
            known = SharedReplies._make(replies)
            changed, gone = self._shared_totals.diff(self.memory.totals, known)
            update_memory(self.memory, known)
            projects = self.memory.update_replicas(self._read_replicas(transaction, names))
            transaction.writes.commands += [*self._keep_alive(now), *self._drop_own(gone)]
            takes_over = leader is None
            leads = takes_over or leader == self._id
            if takes_over:
                requested = [*requested, *answering]  # the last leader may not have ended these listings
            if leads:
                unlisted = [project for project in requested if project not in projects]
                transaction.writes.commands += self._lead(now, unlisted, takes_over=takes_over)
            return (
                Applied(changed=changed, removed=gone, pending=known.pending),
                leads,
                requested if leads else (),
            )

        applied, leads, requested = self.transact(work, now)
        self.memory.lease_ends_at = (
            began + self._lease_seconds - _LEASE_MARGIN_SECONDS if leads else float("-inf")
        )
        applied.shared = self.memory.shared(self.memory.lease_ends_at, requested)
        return applied

    def _keep_alive(self, now: float) -> list[Command]:
        """Return the commands that keep this replica's keys, and publish its settings."""
        return [
            ("PEXPIRE", self._totals_key, self._retention_milliseconds),
            ("PEXPIRE", self._holder_key, self._retention_milliseconds),
            ("ZADD", key("replicas"), now, self._replica),
            ("SET", self._settings_key, self._encoded_settings, "PX", _LIVING_MILLISECONDS),
        ]

    def _read_replicas(
        self, transaction: RedisTransaction, names: Sequence[str]
    ) -> Mapping[str, ReplicaSettings]:
        """Return the settings of the living replicas apart from this one."""
        others = [name for name in names if name != self._replica]
        if not others:
            return {}
        (published,) = transaction.read(("MGET", *(key("of", name, "settings") for name in others)))
        return {
            name: decode_settings(value)
            for name, value in zip(others, published, strict=True)
            if value is not None
        }

    def prune(self, before: float, now: float) -> Applied:
        ledger_more = self.transact(lambda transaction: transaction.prune_ledger(before), now, leading=True)

        def prune_instances(transaction: RedisTransaction) -> Applied:
            more = transaction.prune_instances(before)
            applied = transaction.batch.applied()
            applied.more = more or ledger_more
            return applied

        applied = self.transact(prune_instances, now, leading=True)
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

    def transact(self, work: Callable[[RedisTransaction], T], now: float, *, leading: bool = False) -> T:
        """Run the work until no other replica was faster."""
        until = self._monotonic() + _CONFLICT_TIMEOUT_SECONDS
        while True:
            self._may_be_closed = self._link.connected
            self.connect()
            self._needs_unwatch = True
            with suppress(RetryTransactionError):
                transaction = RedisTransaction(partial(self._read, leading=leading), self.memory, now)
                result = work(transaction)
                if self._needs_unwatch:
                    transaction.read()
                if self._commit(self._commands(transaction), now):
                    return result
            if self._monotonic() > until:
                raise StoreUnavailableError("other replicas kept changing the same instances")

    def _commands(self, transaction: RedisTransaction) -> list[Command]:
        batch, writes = transaction.batch, transaction.writes
        writes.add_batch(batch, self.memory.totals, self.memory.rules.retention_seconds)
        commands = [*writes.finish(), *replica_commands(self._totals_key, batch.totals.changed)]
        # The leading replica lists these projects, because interruptions wait for their instances.
        requested = {
            pending.event.name.project
            for pending in batch.pending_interruptions.values()
            if pending is not None
        }
        return [*commands, ("SADD", key("requested"), *requested)] if requested else commands

    def _commit(self, commands: Sequence[Command], now: float) -> bool:
        """Return False if something that the transaction watches has changed."""
        transaction_id, footprint = new_transaction_id(now), self._footprint
        try:
            if not self._link.commit(
                [*commands, ("SET", self._batch_key, transaction_id, "PX", self._retention_milliseconds)]
            ):
                return False
        except LostReplyError:
            # Reconnecting changes our claim, which the transaction watches. So it has either run already or
            # can never run. If it ran, its id is stored.
            footprint.unconfirmed_id = transaction_id
            self.connect()
            return footprint.transaction_id == transaction_id
        footprint.confirm(transaction_id)
        return True

    def _read(self, commands: Sequence[Command], watch: Sequence[str], *, leading: bool) -> list[Any]:
        """Watch the keys and return the commands' replies.

        Raises NameTakenError, NotLeadingError, or StoreLostError if another version has migrated the store.
        """
        lease = key("lease")
        begin: list[Command] = [("UNWATCH",)] if self._needs_unwatch else []
        self._needs_unwatch = False
        begin.append(("WATCH", key("schema"), self._holder_key, *watch, *([lease] if leading else [])))
        own = ("MGET", key("schema"), self._holder_key, self._batch_key, lease)
        (schema, holder, stored_id, leader), *replies = self._ask([*begin, own, *commands])[len(begin) :]
        require_schema(schema)
        footprint = self._footprint
        if (holder, stored_id) != (str(footprint.claim), footprint.transaction_id):
            # Another process has the name, or the server has lost data. Connecting again shows which.
            self._link.close()
            raise RetryTransactionError
        if leading and leader != self._id:
            self.memory.lease_ends_at = float("-inf")
            raise NotLeadingError
        return replies

    def _ask(self, commands: Sequence[Command]) -> list[Any]:
        """Return the commands' replies. Raises RetryTransactionError if the server had closed the connection.

        It closes idle connections, and all when it restarts. Nothing is written yet, so the transaction runs
        again on a new connection.
        """
        may_be_closed, self._may_be_closed = self._may_be_closed, False
        try:
            return self._link.ask(commands)
        except StoreUnavailableError:
            if may_be_closed:
                raise RetryTransactionError from None
            raise

    # the replica's name

    def _claim_again(self) -> None:
        """Claim the name again, and write what the server has lost of this process.

        No unfinished transaction of ours can run after that.
        """
        own_keys = (key("schema"), self._holder_key, self._batch_key, key("clock"))
        *_, (schema, holder, stored_id, clock), own = self._link.ask(
            [("UNWATCH",), ("WATCH", *own_keys), ("MGET", *own_keys), ("HGETALL", self._totals_key)]
        )
        require_schema(schema)
        footprint, known = self._footprint, self.memory.totals
        rollback = footprint.find_rollback(holder, stored_id)
        if rollback is None and is_behind(decode_replica_totals(own), known):
            rollback = footprint.rollback_to(None)  # the server has evicted keys
        claim = footprint.claim.renewed(holder)
        commands = self._claim(claim)
        if rollback is not None:
            self.memory.rollback = rollback
            commands += restoring_commands(self._totals_key, self.memory, float(clock or 0))
        self._write_or_raise(commands)
        footprint.claim = claim

    def _claim(self, claim: Claim) -> list[Command]:
        return [
            ("SET", key("schema"), SCHEMA, "NX"),
            ("SET", self._holder_key, str(claim), "PX", self._retention_milliseconds),
        ]

    def _write_or_raise(self, commands: Sequence[Command]) -> None:
        if not self._link.commit(commands):
            raise StoreUnavailableError(_NAME_CONTESTED)

    # memory

    def _load_memory(self) -> None:
        """Load everything."""
        _, (holder, stored_id), own_reply, *replies = self._link.ask(
            [
                ("WATCH", self._holder_key),
                ("MGET", self._holder_key, self._batch_key),
                ("HGETALL", self._totals_key),
                *shared.COMMANDS,
            ]
        )
        if holder != str(self._footprint.claim):
            raise StoreUnavailableError(_NAME_CONTESTED)
        self._footprint.confirm(stored_id)
        totals = decode_replica_totals(own_reply)
        known = SharedReplies._make(replies)
        changed, gone = self._shared_totals.diff(totals, known)
        if gone:
            self._write_or_raise(self._drop_own(gone))
        totals.update(changed)
        totals.remove(gone)
        update_memory(self.memory, known)
        self.memory.pending = known.pending
        self.memory.load(totals)

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

    def _lead(self, now: float, unlisted: Collection[str], *, takes_over: bool) -> list[Command]:
        """Return the commands of the replica that leads: renew the lease, and forget absent replicas.

        Forget also the requests for projects that no replica lists.
        """
        oldest = self.memory.kept_since(now)
        return [
            ("SET", key("lease"), self._id, "PX", round(self._lease_seconds * 1000)),
            *(_REQUEST_AGAIN if takes_over else ()),
            *([("SREM", key("requested"), *unlisted)] if unlisted else ()),
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
        try:
            (gone,) = self._link.ask([("EVAL", _DROP_IDLE, len(keys), *keys, self._id, before, *members)])
        except StoreUnavailableError:
            self.memory.forget(idle)  # or they would seem to be lost, if they are dropped
            raise
        kept = {by_member[member] for member in by_member.keys() - gone}
        return Totals(
            {labels: row for labels, row in idle.label_sets.items() if labels not in kept},
            {cluster: row for cluster, row in idle.clusters.items() if cluster not in kept},
            {pair: row for pair, row in idle.lifetimes.items() if pair not in kept},
        )
