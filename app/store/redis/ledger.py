"""The ledger of the Redis store, read on a connection of its own."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from math import inf
from statistics import median
from typing import Any, Final

from app.domain.events import UNKNOWN
from app.domain.instances import NODE, OTHER, OTHER_LABELS, Instance, Labels
from app.domain.ledger import (
    DAY_SECONDS,
    HOUR_SECONDS,
    PERIOD_SECONDS,
    PERIODS,
    LabelSetWeek,
    LedgerEntry,
    Pool,
    PoolWeek,
    Query,
)
from app.domain.outcomes import Counted
from app.domain.totals import LabelSetTotals
from app.errors import StoreUnavailableError
from app.store.port import READ_SECONDS
from app.store.redis.connection import Command, Link
from app.store.redis.rows import decode_entry, decode_instance, key, pairs, scores, split_member
from app.store.redis.totals import decode_replica_totals, decode_series

_PAGE_SIZE: Final = 500


class RedisLedger:
    """See `app.store.port.LedgerReader`."""

    def __init__(self, link: Link, *, read_seconds: float = READ_SECONDS) -> None:
        self._link = link
        self._read_seconds = read_seconds
        self._lock = threading.Lock()

    def interruptions(self, query: Query) -> Sequence[LedgerEntry]:
        until = query.until if query.before is None else min(query.until, query.before.at)
        with self._lock:
            fitting = (
                entry
                for entry in self._newest_first(query.since, until)
                if entry.counted.at < query.until
                and (query.before is None or entry.position < query.before)
                and _fits(entry.counted, query)
            )
            return [entry for entry, _ in zip(fitting, range(query.limit), strict=False)]

    def pools(self, now: float, limit: int) -> Sequence[PoolWeek]:
        entries: defaultdict[Pool, list[LedgerEntry]] = defaultdict(list)
        with self._lock:
            for entry in self._newest_first(now - PERIODS * PERIOD_SECONDS, now):
                if entry.counted.at < now:
                    node = entry.counted.node
                    pool = Pool(
                        entry.counted.name.project, node.cluster, node.cluster_location, node.node_pool
                    )
                    entries[pool].append(entry)
        most = sorted(entries.items(), key=lambda item: (-len(item[1]), item[0]))
        return [_history(pool, rows, now) for pool, rows in most[:limit]]

    def week(self, now: float) -> Sequence[LabelSetWeek]:
        begins = now - PERIODS * PERIOD_SECONDS
        with self._lock:
            rows = [
                LabelSetWeek(_series_labels(entry.counted), 1, entry.counted.counted_as == UNKNOWN)
                for entry in self._newest_first(begins, now)
                if entry.counted.at < now and entry.counted.counted_as
            ]
            for instance in self._instances():
                if seconds := _lived(instance, begins, now):
                    labels = OTHER_LABELS if instance.overflowed else instance.labels
                    rows.append(LabelSetWeek(labels, instance_seconds=seconds))
        return rows

    def counting_since(self) -> float | None:
        with self._lock:
            (at,) = self._ask([("GET", key("complete"))])
        return None if at is None else float(at)

    def label_sets(self) -> Sequence[LabelSetTotals]:
        sums: dict[Labels, LabelSetTotals] = {}
        with self._lock:
            replicas, alive = self._ask([("ZRANGE", key("replicas"), 0, -1), ("HGETALL", key("alive"))])
            owns = self._ask([("HGETALL", key("of", replica, "totals")) for replica in replicas])
        for reply in owns:
            for labels, own in decode_replica_totals(reply).label_sets.items():
                row = sums.setdefault(labels, LabelSetTotals(labels, released=True))
                row.interruptions += own.interruptions
                row.created += own.created
                row.failed += own.failed
                row.instance_seconds += own.instance_seconds
        for text, living in pairs(alive):
            series = decode_series(text)
            assert isinstance(series, Labels)  # noqa: S101 - the key has label sets only
            sums.setdefault(series, LabelSetTotals(series, released=True)).instances = int(living)
        return list(sums.values())

    def _ask(self, commands: Sequence[Command]) -> list[Any]:
        was_connected = self._link.connected
        if was_connected:
            # The server closes idle connections. Reading again does no harm.
            with suppress(StoreUnavailableError):
                return self._link.ask(commands)
        self._link.connect(at_once=was_connected)
        return self._link.ask(commands)

    def _instances(self) -> Iterator[Instance]:
        """Return every stored incarnation."""
        deadline = time.monotonic() + self._read_seconds
        projects, members = self._ask([("HGETALL", key("projects")), ("ZRANGE", key("recorded"), 0, -1)])
        project_ids = dict(pairs(projects))
        for first in range(0, len(members), _PAGE_SIZE):
            self._check(deadline)
            indexed = [split_member(member) for member in members[first : first + _PAGE_SIZE]]
            values = self._link.ask([("HGET", key("name", name.path), f"i:{part}") for name, part in indexed])
            archived = self._link.ask([("HGET", key("archive", name.path), part) for name, part in indexed])
            for (name, identity), *found in zip(indexed, values, archived, strict=True):
                value = found[0] or found[1]
                if value is not None:
                    project = project_ids.get(name.project, name.project)
                    yield decode_instance(name._replace(project=project), identity, value)

    def _check(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise StoreUnavailableError(f"reading the ledger takes longer than {self._read_seconds:g} s")

    def _newest_first(self, since: float, until: float) -> Iterator[LedgerEntry]:
        """Return every row from `since` to `until`, both included, newest first."""
        deadline = time.monotonic() + self._read_seconds
        seen: set[str] = set()
        """The keys already read of the oldest time, with which the next page begins."""
        more = True
        while more:
            self._check(deadline)
            bounds = (_bound(until), _bound(since), "WITHSCORES", "LIMIT", 0, len(seen) + _PAGE_SIZE)
            projects, page = self._ask(
                [("HGETALL", key("projects")), ("ZREVRANGEBYSCORE", key("ledger:at"), *bounds)]
            )
            times = scores(page)
            more = len(times) == len(seen) + _PAGE_SIZE
            keys = [event_key for event_key in times if event_key not in seen]
            if keys:
                rows = self._link.ask([("HMGET", key("ledger"), *keys), ("HMGET", key("attributed"), *keys)])
                project_ids = dict(pairs(projects))
                for event_key, value, described_as in zip(keys, *rows, strict=True):
                    if value is not None:
                        yield decode_entry(event_key, value, described_as, project_ids)
                until = times[keys[-1]]
                seen = {event_key for event_key, at in times.items() if at == until}


def _fits(counted: Counted, query: Query) -> bool:
    """Return True if the interruption meets the conditions of the query, apart from the time."""
    return (
        query.project in (None, counted.name.project)
        and query.cluster in (None, counted.node.cluster)
        and query.cluster_location in (None, counted.node.cluster_location)
        and query.counted in (None, counted.counted_as != "")
    )


def _series_labels(counted: Counted) -> Labels:
    if counted.counted_as == OTHER:
        return OTHER_LABELS
    name, node = counted.name, counted.node
    return Labels(
        name.project, node.cluster, node.cluster_location, node.node_pool, name.zone, node.machine_type
    )


def _lived(instance: Instance, begins: float, now: float) -> float:
    """Return the seconds between these moments for which a Spot instance lived."""
    if not instance.spot or instance.failed or instance.kind is not NODE:
        return 0.0
    ended = now if instance.alive else instance.ended_at
    if ended is None:
        return 0.0
    started = instance.started_at or instance.created_at or instance.recorded_at
    return max(0.0, min(ended, now) - max(started, instance.created_at or 0.0, begins))


def _history(pool: Pool, entries: Sequence[LedgerEntry], now: float) -> PoolWeek:
    week = now - PERIODS * PERIOD_SECONDS
    counted = [entry.counted for entry in entries if entry.counted.counted_as]
    times = [interruption.at for interruption in counted]
    ages = [interruption.age for interruption in counted if interruption.age is not None]
    periods, past = [0] * PERIODS, [0] * PERIODS
    for entry in entries:
        number = min(int((entry.counted.at - week) / PERIOD_SECONDS), PERIODS - 1)
        (periods if entry.counted.counted_as else past)[number] += 1
    return PoolWeek(
        pool,
        sum(at >= now - HOUR_SECONDS for at in times),
        sum(at >= now - DAY_SECONDS for at in times),
        len(times),
        max(entry.counted.at for entry in entries),
        median(ages) if ages else None,
        periods,
        past,
    )


def _bound(at: float) -> str:
    return "+inf" if at == inf else "-inf" if at == -inf else repr(at)
