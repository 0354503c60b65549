"""The Redis store's keys, and the values behind them: JSON lists, for they are short and readable.

schema                    the version of all this
seen:<event key>          there for as long as the event is remembered
name:<instance name>      a hash: by i:<identity> an incarnation, by p:<event key> an interruption that waits,
                          by u:<event key> the identity of an unexplained row of the ledger
names:<project>           the names that have such a hash
recorded                  name and identity, by when the incarnation was recorded
until                     name and event key, by when the waiting ends
ledger, explained         by event key the row, and the node that has explained it since
ledger:at                 event keys by their time
ledger:recorded           event keys by when the row was recorded
touched                   what has series, by when something last happened: label sets, clusters, pairs of
                          cluster and machine type
alive                     living Spot instances by label set
newest                    clusters, by the time of their newest interruption
projects                  project numbers to ids
listings                  projects to the moment for which their last complete listing spoke
swept                     likewise, of the last one that ended what it missed
named:<project>           ids that a listing under way has named, and a mark of that listing
asked                     projects that are to be listed soon
clock                     when instances' time was last added
lease                     the process that does the periodic work
replicas                  their names, by when each was last seen
of:<replica>:totals       a replica's own counters
of:<replica>:holder       the connection, of the one process, that may write under this name
of:<replica>:batch        the id of its last transaction
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar

from app.domain.events import InstanceInterrupted, InstanceName, Node
from app.domain.history import Entry
from app.domain.instances import Instance, Kind, Labels, Parked, id_of
from app.domain.outcomes import Counted
from app.domain.totals import ClusterTotals, LabelSetTotals, LifetimeTotals, Totals
from app.errors import StartError
from app.store.redis.connection import PREFIX

SCHEMA: Final = 1

_FIRST_FLAG: Final = Instance._fields.index("spot")
_FLAGS: Final = Instance._fields.index("operation") - _FIRST_FLAG

_Row = TypeVar("_Row", LabelSetTotals, ClusterTotals, LifetimeTotals)

Pairs: TypeAlias = Sequence[str]
"""A flat reply: a field or member, its value or score, the next …"""


def key(*parts: str) -> str:
    """The key of that name."""
    return PREFIX + ":".join(parts)


def check_schema(schema: str | None) -> None:
    """Raises StartError where the store is not of a schema that this program knows; None: it is new."""
    if schema is None:
        return
    if not schema.isdecimal():
        raise StartError(f"redis has something else under {key('schema')}")
    if int(schema) > SCHEMA:
        raise StartError(f"redis has schema {schema}, newer than this program's {SCHEMA}")


def pairs(reply: Pairs) -> Iterator[tuple[str, str]]:
    """A flat reply, two by two."""
    return zip(reply[::2], reply[1::2], strict=True)


def text_of(name: InstanceName) -> str:
    """An instance name as it stands in keys and rows."""
    return "/".join(name)


def name_of(text: str) -> InstanceName:
    """The instance name that a text holds."""
    return InstanceName(*text.rsplit("/", 2))


def member(name: InstanceName, of: str) -> str:
    """What an index holds of an identity, or a key, under a name: no name has a NUL in it."""
    return f"{text_of(name)}\0{of}"


def split(indexed: str) -> tuple[InstanceName, str]:
    """The name, and the identity or the key."""
    text, _, of = indexed.partition("\0")
    return name_of(text), of


def dumps(value: object) -> str:
    """Short JSON, in which text that could not be stored is an error."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@dataclass(slots=True)
class Under:
    """What stands under one name."""

    incarnations: list[Instance] = field(default_factory=list)
    waiting: list[Parked] = field(default_factory=list)
    unexplained: dict[str, str] = field(default_factory=dict)
    """Ledger keys to identities."""

    def __bool__(self) -> bool:
        return bool(self.incarnations or self.waiting or self.unexplained)


def under(name: InstanceName, reply: Pairs) -> Under:
    """What a name's hash holds."""
    found = Under()
    for fields, value in pairs(reply):
        what, of = fields[:2], fields[2:]
        if what == "i:":
            found.incarnations.append(instance_of(name, of, value))
        elif what == "p:":
            instance_id, at, until = json.loads(value)
            found.waiting.append(Parked(InstanceInterrupted(of, at, name, instance_id), until))
        else:
            found.unexplained[of] = value
    return found


def instance_of(name: InstanceName, identity: str, value: str) -> Instance:
    """The incarnation that a field holds."""
    kind, node, recorded_at, flags, *rest = json.loads(value)
    truths = (bool(flags & 1 << place) for place in range(_FLAGS))
    return Instance._make((name, identity, Kind(kind), Node(*node), recorded_at, *truths, *rest))


def instance_value(instance: Instance) -> str:
    """The field of an incarnation."""
    truths, rest = instance[_FIRST_FLAG : _FIRST_FLAG + _FLAGS], instance[_FIRST_FLAG + _FLAGS :]
    flags = sum(1 << place for place, truth in enumerate(truths) if truth)
    return dumps([instance.kind, instance.node, instance.recorded_at, flags, *rest])


def parked_value(parked: Parked) -> str:
    """The field of an interruption that waits."""
    return dumps([parked.event.id, parked.event.at, parked.until])


def ledger_value(counted: Counted, identity: str, now: float) -> str:
    """A row of the ledger."""
    return dumps(
        [
            counted.at,
            now,
            text_of(counted.name),
            identity,
            counted.node,
            counted.counted_as,
            counted.age,
            counted.explained,
            counted.released_by,
        ]
    )


def is_explained(value: str) -> bool:
    """Whether nothing is waited for that would complete the row."""
    return bool(json.loads(value)[7])


def name_in_ledger(value: str, projects: Mapping[str, str]) -> InstanceName:
    """The row's instance name, by the project's id where its number has been learnt since."""
    name = name_of(json.loads(value)[2])
    return name._replace(project=projects.get(name.project, name.project))


def entry_of(event_key: str, value: str, explained: str | None, projects: Mapping[str, str]) -> Entry:
    """The row of the ledger, completed by what has explained it since."""
    at, recorded_at, _, identity, node, counted_as, age, was_explained, released_by = json.loads(value)
    counted = Counted(
        event_key,
        at,
        name_in_ledger(value, projects),
        id_of(identity),
        Node(*(node if explained is None else json.loads(explained))),
        counted_as,
        age,
        was_explained or explained is not None,
        released_by,
    )
    return Entry(counted, recorded_at)


def own_values(totals: Totals) -> Iterator[tuple[str, str]]:
    """A replica's own counters: fields and values."""
    for row in totals.label_sets.values():
        yield (
            dumps(row.labels),
            dumps([row.interruptions, row.created, row.failed, row.instance_seconds, row.revealed]),
        )
    for cluster in totals.clusters.values():
        yield dumps([cluster.cluster]), dumps([cluster.interruptions, cluster.revealed])
    for lifetime in totals.lifetimes.values():
        yield (
            dumps([lifetime.cluster, lifetime.machine_type]),
            dumps([lifetime.buckets, lifetime.sum, lifetime.revealed]),
        )


Series: TypeAlias = Labels | str | tuple[str, str]
"""What has series of its own: a label set, a cluster, a pair of cluster and machine type."""


def series_of(text: str) -> Series:
    """What a member of `touched`, or a field of a replica's totals, names."""
    parts = json.loads(text)
    match len(parts):
        case 1:
            return str(parts[0])
        case 2:
            return parts[0], parts[1]
        case _:
            return Labels(*parts)


def text_of_series(series: Series) -> str:
    """The member or field that names it."""
    return dumps([series] if isinstance(series, str) else series)


def series_in(totals: Totals) -> Iterator[tuple[Series, float]]:
    """Everything that has series, and when something last happened to it."""
    for labels, row in totals.label_sets.items():
        yield labels, row.touched_at
    for cluster, row_of_cluster in totals.clusters.items():
        yield cluster, row_of_cluster.touched_at
    for lifetime, row_of_lifetime in totals.lifetimes.items():
        yield lifetime, row_of_lifetime.touched_at


def own_rows(reply: Pairs) -> Totals:
    """A replica's own counters, as they are stored."""
    totals = Totals()
    for text, value in pairs(reply):
        series, counters = series_of(text), json.loads(value)
        if isinstance(series, Labels):
            interruptions, created, failed, seconds, revealed = counters
            totals.label_sets[series] = LabelSetTotals(
                series, interruptions, created, failed, instance_seconds=seconds, revealed=revealed
            )
        elif isinstance(series, str):
            totals.clusters[series] = ClusterTotals(series, counters[0], revealed=counters[1])
        else:
            totals.lifetimes[series] = LifetimeTotals(*series, counters[0], counters[1], revealed=counters[2])
    return totals


def scores(reply: Pairs) -> Mapping[str, float]:
    """Members and their scores."""
    return {one: float(score) for one, score in pairs(reply)}


def flat(mapping: Iterable[tuple[Any, Any]]) -> list[Any]:
    """Pairs, one after the other."""
    return [one for pair in mapping for one in pair]


def greater(memory: Totals, stored: Totals) -> tuple[Totals, Totals]:
    """A replica's counters, none lower than this process has shown it; and those that the server had lost."""
    own, lost = Totals(), Totals()
    own.update(stored)
    for labels, row in memory.label_sets.items():
        if _is_greater(row, stored.label_sets.get(labels) or LabelSetTotals(labels), _of_label_set):
            own.label_sets[labels] = lost.label_sets[labels] = row
    for name, cluster in memory.clusters.items():
        if _is_greater(cluster, stored.clusters.get(name) or ClusterTotals(name), _of_cluster):
            own.clusters[name] = lost.clusters[name] = cluster
    for pair, lifetime in memory.lifetimes.items():
        if _is_greater(lifetime, stored.lifetimes.get(pair) or LifetimeTotals(*pair), _of_lifetime):
            own.lifetimes[pair] = lost.lifetimes[pair] = lifetime
    return own, lost


def _is_greater(row: _Row, stored: _Row, counters: Callable[[_Row], Sequence[float]]) -> bool:
    mine, theirs = counters(row), counters(stored)
    if any(one > other for one, other in zip(mine, theirs, strict=True)):
        return True
    # A row that shows its value must not be hidden again; one without a value has nothing to hide.
    return any(mine) and row.revealed and not stored.revealed


def _of_label_set(row: LabelSetTotals) -> Sequence[float]:
    return row.interruptions, row.created, row.failed, row.instance_seconds


def _of_cluster(row: ClusterTotals) -> Sequence[float]:
    return (row.interruptions,)


def _of_lifetime(row: LifetimeTotals) -> Sequence[float]:
    return row.buckets
