"""The rows of the SQLite file, their queries, and their conversion to the domain's values.

A row's fields are the columns of its table, in the order in which they are written and read. See
`app.store.sqlite.writes` for the writing.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

import apsw
from pydantic_core import to_json

from app.domain.events import InstanceInterrupted, InstanceName, InterruptionDetails, Node
from app.domain.instances import Instance, Kind, Labels, PendingInterruption, instance_id_of
from app.domain.ledger import LedgerEntry
from app.domain.outcomes import Counted
from app.domain.totals import ClusterTotals, LabelSetTotals, LifetimeTotals, Totals

_KINDS: Final = tuple(Kind)

EVENT_KEY_COLUMNS: Final = ("key", "recorded_at")
_SHARED_FIELDS: Final = Instance._fields[Instance._fields.index("recorded_at") :]
"""Fields of `Instance` that are also columns, in the same order."""
INSTANCE_COLUMNS: Final = ("name", "identity", "kind", *Node._fields, *_SHARED_FIELDS)
PENDING_COLUMNS: Final = ("key", "name", "id", "at", "until", *InterruptionDetails._fields)
LEDGER_COLUMNS: Final = (
    *("at", "key", "recorded_at", "name", "identity", *Node._fields),
    *("counted_as", "age_seconds", "attributed", "released_by", *InterruptionDetails._fields),
)
# The fields of the totals, in their order.
LABEL_SET_COLUMNS: Final = (
    *Labels._fields,
    *("interruptions", "created", "failed", "instances", "instance_seconds", "changed_at", "released"),
)
CLUSTER_COLUMNS: Final = ("cluster", "interruptions", "last_interruption_at", "changed_at", "released")
LIFETIME_COLUMNS: Final = ("cluster", "machine_type", "buckets", "sum_seconds", "changed_at", "released")


def select(columns: Sequence[str], rest: str) -> str:
    """Return the query for these columns; `rest` begins with FROM."""
    return f"SELECT {', '.join(columns)} {rest}"


_SELECT_EVENT_KEYS: Final = (
    "SELECT event_keys.key FROM json_each(?) AS keys CROSS JOIN event_keys ON event_keys.key = keys.value"
)
_SELECT_PAST: Final = (
    "SELECT ledger.key FROM json_each(?) AS keys CROSS JOIN ledger"
    " ON ledger.key = keys.value AND ledger.counted_as = ''"
)
_HAS_PAST: Final = "SELECT EXISTS (SELECT 1 FROM ledger WHERE counted_as = '')"
_SELECT_INSTANCES: Final = select(
    INSTANCE_COLUMNS,
    "FROM json_each(?) AS names CROSS JOIN instances ON name = names.value",
)
_SELECT_SPOT: Final = select(INSTANCE_COLUMNS, "FROM instances WHERE spot AND kind <> ?")
_SELECT_ARCHIVED: Final = select(
    INSTANCE_COLUMNS,
    "FROM json_each(?) AS wanted CROSS JOIN archived_instances"
    " ON (name, identity) = (wanted.value ->> 0, wanted.value ->> 1)",
)
_SELECT_PENDING: Final = select(
    PENDING_COLUMNS, "FROM pending WHERE name IN (SELECT value FROM json_each(?))"
)
_SELECT_DUE: Final = select(
    PENDING_COLUMNS, "FROM pending WHERE until <= ? OR until > ? ORDER BY until LIMIT ?"
)
_SELECT_LABEL_SETS: Final = select(LABEL_SET_COLUMNS, "FROM label_sets")
_SELECT_CLUSTERS: Final = select(CLUSTER_COLUMNS, "FROM clusters")
_SELECT_LIFETIMES: Final = select(LIFETIME_COLUMNS, "FROM lifetimes")


def select_event_keys(connection: apsw.Connection, keys: Sequence[str]) -> list[str]:
    """Return the event keys that are recorded."""
    return [key for (key,) in connection.execute(_SELECT_EVENT_KEYS, (json_array(keys),))]


def select_past(connection: apsw.Connection, keys: Sequence[str]) -> list[str]:
    """Return those of the event keys whose interruption is in the ledger, not counted."""
    return [key for (key,) in connection.execute(_SELECT_PAST, (json_array(keys),))]


def has_past(connection: apsw.Connection) -> bool:
    """Return True if the ledger has an interruption that is not counted."""
    return bool(connection.execute(_HAS_PAST).get)


def select_instances(connection: apsw.Connection, by_path: Mapping[str, InstanceName]) -> list[Instance]:
    """Return the incarnations of these names, which are given by their paths."""
    rows = connection.execute(_SELECT_INSTANCES, (json_array([*by_path]),))
    return [_instance(by_path[row[0]], row) for row in rows]


def select_spot_instances(connection: apsw.Connection) -> Iterator[Instance]:
    """Return the incarnations that are Spot instances, and not known to be something else than GKE nodes."""
    for row in connection.execute(_SELECT_SPOT, (Kind.PLAIN_INSTANCE,)):
        yield _instance(InstanceName.from_path(row[0]), row)


def select_archived(
    connection: apsw.Connection, wanted: Sequence[tuple[InstanceName, str]]
) -> list[Instance]:
    """Return the archived incarnations that have one of these names and identities."""
    pairs = to_json([(name.path, identity) for name, identity in wanted]).decode()
    rows = connection.execute(_SELECT_ARCHIVED, (pairs,))
    return [_instance(InstanceName.from_path(row[0]), row) for row in rows]


def _instance(name: InstanceName, row: Sequence[Any]) -> Instance:
    # The flags stay 0 and 1, which are equal to False and True: six calls fewer.
    _, identity, kind, cluster, cluster_location, node_pool, machine_type, *shared = row
    node = _node(cluster, cluster_location, node_pool, machine_type)
    return Instance(name, identity, _KINDS[kind], node, *shared)


@lru_cache(maxsize=1024)  # the instances of a node pool have the same labels
def _node(cluster: str, cluster_location: str, node_pool: str, machine_type: str) -> Node:
    return Node(cluster, cluster_location, node_pool, machine_type)


def select_pending(connection: apsw.Connection, paths: Sequence[str]) -> list[PendingInterruption]:
    """Return the pending interruptions of instance names, given as paths."""
    rows = connection.execute(_SELECT_PENDING, (json_array(paths),))
    return [_pending(row) for row in rows]


def select_due(
    connection: apsw.Connection, until: float, latest: float, limit: int
) -> list[PendingInterruption]:
    """Return pending interruptions whose grace period has ended, or ends after `latest`."""
    rows = connection.execute(_SELECT_DUE, (until, latest, limit))
    return [_pending(row) for row in rows]


def select_label_sets(connection: apsw.Connection) -> list[LabelSetTotals]:
    """Return the totals by label set."""
    return [
        LabelSetTotals(
            Labels(*labels), interruptions, created, failed, instances, seconds, changed_at, bool(released)
        )
        for *labels, interruptions, created, failed, instances, seconds, changed_at, released in (
            connection.execute(_SELECT_LABEL_SETS)
        )
    ]


def select_totals(connection: apsw.Connection) -> Totals:
    """Return all totals."""
    totals = Totals({row.labels: row for row in select_label_sets(connection)})
    for cluster, interruptions, last_at, changed_at, released in connection.execute(_SELECT_CLUSTERS):
        totals.clusters[cluster] = ClusterTotals(cluster, interruptions, last_at, changed_at, bool(released))
    for cluster, machine_type, buckets, seconds, changed_at, released in connection.execute(
        _SELECT_LIFETIMES
    ):
        totals.lifetimes[cluster, machine_type] = LifetimeTotals(
            cluster, machine_type, json.loads(buckets), seconds, changed_at, bool(released)
        )
    return totals


def _pending(row: Sequence[Any]) -> PendingInterruption:
    key, path, instance_id, at, until, *details = row
    name = InstanceName.from_path(path)
    event = InstanceInterrupted(key, at, name, instance_id, details=InterruptionDetails(*details))
    return PendingInterruption(event, until)


def entry_of_row(row: Sequence[Any]) -> LedgerEntry:
    """Return the entry of a ledger row, which has the order of `LEDGER_COLUMNS`."""
    at, key, recorded_at, path, identity, cluster, cluster_location, node_pool, machine_type, *rest = row
    counted_as, age, attributed, released_by, *details = rest
    counted = Counted(
        key,
        at,
        InstanceName.from_path(path),
        instance_id_of(identity),
        Node(cluster, cluster_location, node_pool, machine_type),
        counted_as,
        age,
        bool(attributed),
        released_by,
        InterruptionDetails(*details),
    )
    return LedgerEntry(counted, recorded_at)


def json_array(values: Sequence[str] | Sequence[int]) -> str:
    """Return a JSON array, the form in which `json_each` takes a list of any length."""
    return to_json(values).decode()
