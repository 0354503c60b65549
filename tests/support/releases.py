"""The stores of released versions, recorded as text, so that later versions can prove that they open them.

`python -m tests.support.releases VERSION` records the stores that this version fills. Do so once for each
release that has a new schema, and never change what was recorded.
"""

import json
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, cast

import apsw
from redis import Redis

from app.domain.changes import Rules
from app.domain.events import Event, InstanceName
from app.store.opening import open_store
from app.store.port import OpenedStore
from tests.support.examples import (
    DAY,
    GRACE,
    LAB,
    NAME,
    NOW,
    created,
    deleted,
    failed,
    interrupted,
    listed,
)
from tests.support.redis import RedisServer

FOLDER: Final = Path(__file__).parents[1] / "store/releases"
RULES: Final = Rules(grace_seconds=GRACE, retention_seconds=31 * DAY)
_REPLICA: Final = "exporter-0"
_PRAGMAS: Final = ("application_id", "user_version")
_NUMBER: Final = "123456789"
_RANDOM_ID: Final = re.compile(r"[0-9a-f]{32}")


def _name(number: int, project: str = NAME.project) -> InstanceName:
    return InstanceName(project, NAME.zone, f"node-{number}")


_UNKNOWN: Final = [interrupted(str(number), NOW - 3000.0, name=_name(number)) for number in (9, 14)]
"""They are counted as `unknown`, because nothing describes their instances within the grace period."""
_DESCRIBED_LATE: Final = created("14", NOW - 4000.0, name=_name(14))
_PENDING: Final = interrupted("10", NOW + 10.0, name=_name(10))
_PAST: Final = interrupted("11", NOW - 20 * DAY, name=_name(11))
"""It happened before the store counted."""
_FIRST_EVENTS: Final[list[Event]] = [
    created("1", NOW - 600.0, name=_name(1)),
    created("2", NOW - 500.0, name=_name(2), node=LAB),
    interrupted("2", NOW - 60.0, name=_name(2)),
    created("3", NOW - 400.0, name=_name(3)),
    failed("3", NOW - 390.0, name=_name(3)),
    created("4", NOW - 300.0, name=_name(4), node=None),
    created("5", NOW - 200.0, name=_name(5)),
    deleted("5", NOW - 100.0, name=_name(5)),
    deleted("6", NOW - 100.0, name=_name(6)),
    # more incarnations of one name than are read for each of its events, so some are in the archive
    *[created(str(100 + life), NOW - 500.0 + life, name=_name(7)) for life in range(12)],
    interrupted("103", NOW - 50.0, name=_name(7)),
    created("8", NOW - 90.0, name=_name(8), number=_NUMBER),
    *_UNKNOWN,
]
LATER_EVENTS: Final[list[Event]] = [
    interrupted("2", NOW - 60.0, name=_name(2)),
    interrupted("103", NOW - 50.0, name=_name(7)),
    interrupted("1", NOW + 100.0, name=_name(1)),
    interrupted("8", NOW + 110.0, name=_name(8, _NUMBER)),
    created("10", NOW + 5.0, name=_name(10)),
    created("9", NOW - 4000.0, name=_name(9), node=LAB),
    interrupted("12", NOW + 90.0, name=_name(12)),
]
"""Events for a filled store: two duplicates, two interruptions of known instances, creations of two instances
that were interrupted before, and an interruption of an unknown instance."""


def open_recorded(url: str) -> OpenedStore:
    """Open a store, as the leader of its replicas."""
    opened = open_store(url, RULES, replica=_REPLICA, lease_seconds=3600.0)
    if opened.sync is not None:
        opened.sync.run(NOW)
    return opened


def fill(opened: OpenedStore) -> None:
    """Put into an empty store each kind of row that a store keeps."""
    store = opened.store
    store.accrue_instance_seconds(NOW - GRACE - 3 * DAY)  # a jump of the clock, and downtime
    store.accrue_instance_seconds(NOW - GRACE)
    store.recover([_PAST], 0.0, NOW - GRACE)
    store.apply(_FIRST_EVENTS, NOW - GRACE)
    store.begin_listing(NAME.project, NOW - 60.0)
    store.record_listed(
        NAME.project,
        NOW - 60.0,
        [listed("1", NOW - 600.0, name=_name(1)), listed("13", NOW - 700.0, name=_name(13), node=LAB)],
        NOW - 60.0,
    )
    while store.end_listing(NAME.project, NOW - 60.0, (), NOW - 60.0).more:
        pass
    for minute in range(int(GRACE // 60) + 1):
        store.accrue_instance_seconds(NOW - GRACE + 60.0 * minute)
    while store.expire(NOW + 1.0).more:
        pass
    store.apply([_DESCRIBED_LATE, _PENDING], NOW + 10.0)


def dump_sqlite(path: Path) -> str:
    """Return a file's contents as a script of SQL."""
    with closing(sqlite3.connect(path)) as connection:
        pragmas = [
            f"PRAGMA {name} = {connection.execute(f'PRAGMA {name}').fetchone()[0]};" for name in _PRAGMAS
        ]
        return "\n".join([*pragmas, *connection.iterdump(), ""])


def load_sqlite(path: Path, script: str) -> None:
    """Make a file from a script of `dump_sqlite`."""
    with closing(apsw.Connection(str(path))) as connection:
        connection.execute(script)


def dump_redis(client: Redis) -> str:
    """Return the keys of a database, without those that last only as long as a process, and without ids."""
    keys: dict[str, dict[str, Any]] = {}
    for key in sorted(map(str, client.scan_iter())):
        milliseconds = client.pttl(key)
        if not (key.endswith(":holder") or 0 <= milliseconds < DAY * 1000):
            kind = str(client.type(key))
            keys[key] = {"type": kind, "expires": milliseconds > 0, "value": _value(client, kind, key)}
    return _RANDOM_ID.sub("0" * 32, json.dumps(keys, indent=1)) + "\n"


def _value(client: Redis, kind: str, key: str) -> Any:  # noqa: ANN401 - JSON
    match kind:
        case "string":
            return client.get(key)
        case "hash":
            return dict(sorted(client.hgetall(key).items()))
        case "set":
            return sorted(client.smembers(key))
        case "zset":
            return dict(cast("list[tuple[str, float]]", client.zrange(key, 0, -1, withscores=True)))
        case _:
            raise ValueError(f"{key} has the type {kind}")


def load_redis(client: Redis, script: str) -> None:
    """Write the keys of `dump_redis` into an empty database."""
    for key, recorded in json.loads(script).items():
        value = recorded["value"]
        match recorded["type"]:
            case "string":
                client.set(key, value)
            case "hash":
                client.hset(key, mapping=value)
            case "set":
                client.sadd(key, *value)
            case _:
                client.zadd(key, value)
        if recorded["expires"]:
            client.expire(key, int(RULES.retention_seconds))


def main() -> None:
    """Record the stores of this version."""
    version = sys.argv[1]
    with TemporaryDirectory() as folder, RedisServer(Path(folder) / "redis") as server:
        path = Path(folder) / "store.db"
        for url in (f"sqlite:///{path}", server.url):
            opened = open_recorded(url)
            fill(opened)
            opened.store.close()
        (FOLDER / f"{version}.sql").write_text(dump_sqlite(path))
        (FOLDER / f"{version}.redis.json").write_text(dump_redis(server.client))


if __name__ == "__main__":
    main()
