"""The keys of the Redis store, and its values: JSON lists, because they are short and readable.

Each key begins with `store.key_prefix` in braces and a colon, which the link adds.

schema                    version of all this
seen:<event key>          exists as long as the event is remembered
name:<instance path>      hash; field i:<identity> is an incarnation, p:<event key> a pending interruption,
                          u:<event key> the identity of an undescribed row of the ledger
archive:<instance path>   hash; the archived incarnations by identity
names:<project>           paths of the instance names that have such a hash
recorded                  path and identity of each incarnation, by the time at which it was recorded
deletions                 the same, of those of which only the deletion is known
until                     path and event key of each pending interruption, by the end of its grace period
ledger, attributed        by event key: the row, and the node that has described it since
ledger:at                 event keys by their time
ledger:recorded           event keys by the time at which the row was recorded
changed                   all series (label sets, clusters, pairs of cluster and machine type), by the time of
                          their last event
alive                     number of living Spot instances by label set
newest                    clusters, by the time of their newest interruption
projects                  project ids by project number
listings                  time at which the last complete listing of each project began
whole                     the same, of the last listing that read every zone
swept                     the same, of the last listing that ended unlisted instances
named:<project>           ids of the instances that a listing has named so far, and the mark of that listing
requested                 projects that should be listed soon
answering                 requested projects whose listing has begun
complete                  time since when all event keys are recorded
clock                     time up to which instance-seconds were added
downtime                  seconds for which no exporter ran
jumped                    time after the latest jump of the clock by more than a day
lease                     process that does the periodic work
replicas                  names of the replicas, by the time at which each was last seen
of:<replica>:settings     settings that the replica publishes; exists as long as it lives
of:<replica>:totals       counters of that replica
of:<replica>:holder       claim of the process that may write under this name
of:<replica>:batch        id of the replica's last transaction
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

from app.domain.events import InstanceInterrupted, InstanceName, InterruptionDetails, Node
from app.domain.instances import Instance, Kind, PendingInterruption, instance_id_of
from app.domain.ledger import LedgerEntry
from app.domain.outcomes import Counted, ReleasedBy
from app.domain.replicas import ReplicaSettings
from app.errors import StartError, StoreLostError
from app.store.redis.connection import Key

SCHEMA: Final = 3
"""Versions 1 and 2 were of development versions from before the first release."""

_FLAGS: Final = ("spot", "alive", "announced", "failed", "lifetime_observed", "overflowed", "deleted")
"""The fields of `Instance` that are stored as bits of one number, from the lowest bit on."""

Pairs: TypeAlias = Sequence[str]
"""A flat reply: a field or member, its value or score, the next field or member, and so on."""


class InstanceRow(NamedTuple):
    """An incarnation, without its name and identity."""

    kind: int
    node: Sequence[str]
    recorded_at: float
    flags: int
    operation: str
    created_at: float | None
    started_at: float | None
    interrupted_at: float | None
    ended_at: float | None


class PendingRow(NamedTuple):
    """A pending interruption, without its name and event key."""

    instance_id: str
    at: float
    until: float
    details: Sequence[Any]


class LedgerRow(NamedTuple):
    """A counted interruption, without its event key."""

    at: float
    recorded_at: float
    path: str
    identity: str
    node: Sequence[str]
    counted_as: str
    age: float | None
    is_described: bool
    released_by: ReleasedBy | None
    details: Sequence[Any]


def key(*parts: str) -> Key:
    """Return the key with that name."""
    return Key(":".join(parts))


def check_schema(schema: str | None) -> None:
    """Raise StartError if this program does not know the schema; None stands for a new store."""
    if schema is None:
        return
    if not schema.isdecimal():
        raise StartError(
            "redis has data of another program under the exporter's key `schema`; change store.key_prefix"
        )
    if int(schema) > SCHEMA:
        raise StartError(
            f"redis has schema {schema}, newer than this program's {SCHEMA}; use a newer version"
        )
    if int(schema) < SCHEMA:
        raise StartError(
            f"redis has schema {schema}, from a version before 1.0, which this version cannot read; it was "
            "left alone; use an empty database, or go back to the version that wrote it"
        )


def require_schema(schema: str | None) -> None:
    """Raise StoreLostError if another version has changed the schema since the start.

    None: the server has lost it, with all that belongs to it.
    """
    if schema is not None and schema != str(SCHEMA):
        raise StoreLostError(
            f"redis has schema {schema} now, and this program can use only {SCHEMA}; use the version that"
            " changed the schema"
        )


def pairs(reply: Pairs) -> Iterator[tuple[str, str]]:
    """Return the pairs of a flat reply."""
    return zip(reply[::2], reply[1::2], strict=True)


def encode_settings(settings: ReplicaSettings) -> str:
    """Return the value of a replica's settings."""
    return dumps(dict(settings.values))


def decode_settings(value: str) -> ReplicaSettings:
    """Return a replica's settings."""
    return ReplicaSettings(json.loads(value))


def flatten(items: Iterable[tuple[Any, Any]]) -> list[Any]:
    """Return the parts of all pairs in one list."""
    return [part for pair in items for part in pair]


def scores(reply: Pairs) -> dict[str, float]:
    """Return members and their scores, or fields and their numbers."""
    return {member: float(score) for member, score in pairs(reply)}


def index_member(name: InstanceName, part: str) -> str:
    """Return the member of an index for an identity, or an event key, of a name. No name has a NUL in it."""
    return f"{name.path}\0{part}"


def split_member(member: str) -> tuple[InstanceName, str]:
    """Return the name, and the identity or event key, of a member of an index."""
    path, _, part = member.partition("\0")
    return InstanceName.from_path(path), part


def dumps(value: object) -> str:
    """Return short JSON. Text that cannot be stored is an error later, instead of being escaped here."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass(slots=True)
class NameRecord:
    """Everything that is stored under an instance name."""

    incarnations: list[Instance] = field(default_factory=list)
    pending: list[PendingInterruption] = field(default_factory=list)
    undescribed: dict[str, str] = field(default_factory=dict)
    """The identities of ledger rows that nothing has described, by event key."""


def decode_name_record(name: InstanceName, reply: Pairs) -> NameRecord:
    """Return the content of a name's hash."""
    record = NameRecord()
    for field_name, value in pairs(reply):
        kind, part = field_name[:2], field_name[2:]
        if kind == "i:":
            record.incarnations.append(decode_instance(name, part, value))
        elif kind == "p:":
            row = PendingRow._make(json.loads(value))
            record.pending.append(
                PendingInterruption(
                    InstanceInterrupted(part, row.at, name, row.instance_id, details=_details(row.details)),
                    row.until,
                )
            )
        else:
            record.undescribed[part] = value
    return record


def _details(values: Sequence[Any]) -> InterruptionDetails:
    """Return the details in a row. Those of an older version lack values, those of a newer one have more."""
    return InterruptionDetails(*values[: len(InterruptionDetails._fields)])


def decode_instance(name: InstanceName, identity: str, value: str) -> Instance:
    """Return the incarnation in a field of the name's hash."""
    row = InstanceRow._make(json.loads(value))
    return Instance(
        name,
        identity,
        Kind(row.kind),
        Node(*row.node),
        row.recorded_at,
        operation=row.operation,
        created_at=row.created_at,
        started_at=row.started_at,
        interrupted_at=row.interrupted_at,
        ended_at=row.ended_at,
        **{flag: bool(row.flags & 1 << bit) for bit, flag in enumerate(_FLAGS)},
    )


def encode_instance(instance: Instance) -> str:
    """Return the value of an incarnation's field."""
    return dumps(
        InstanceRow(
            instance.kind,
            instance.node,
            instance.recorded_at,
            sum(1 << bit for bit, flag in enumerate(_FLAGS) if getattr(instance, flag)),
            instance.operation,
            instance.created_at,
            instance.started_at,
            instance.interrupted_at,
            instance.ended_at,
        )
    )


def encode_pending(pending: PendingInterruption) -> str:
    """Return the value of a pending interruption's field."""
    return dumps(PendingRow(pending.event.id, pending.event.at, pending.until, pending.event.details))


def encode_counted(counted: Counted, identity: str, now: float) -> str:
    """Return a row of the ledger, of the incarnation with that identity."""
    return dumps(
        LedgerRow(
            counted.at,
            now,
            counted.name.path,
            identity,
            counted.node,
            counted.counted_as,
            counted.age,
            counted.attributed,
            counted.released_by,
            counted.details,
        )
    )


def decode_ledger_row(value: str) -> LedgerRow:
    """Return a row of the ledger."""
    return LedgerRow._make(json.loads(value))


def name_in_ledger(row: LedgerRow, projects: Mapping[str, str]) -> InstanceName:
    """Return the row's instance name, with the project's id if its number has been learnt since."""
    name = InstanceName.from_path(row.path)
    return name._replace(project=projects.get(name.project, name.project))


def decode_entry(
    event_key: str, value: str, described_as: str | None, projects: Mapping[str, str]
) -> LedgerEntry:
    """Return an entry of the ledger; `described_as` is the node that has described it since."""
    row = decode_ledger_row(value)
    counted = Counted(
        event_key,
        row.at,
        name_in_ledger(row, projects),
        instance_id_of(row.identity),
        Node(*(row.node if described_as is None else json.loads(described_as))),
        row.counted_as,
        row.age,
        row.is_described or described_as is not None,
        row.released_by,
        _details(row.details),
    )
    return LedgerEntry(counted, row.recorded_at)
