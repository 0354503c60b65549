"""The schema of the SQLite file: one script per version."""

import logging
from collections.abc import Sequence
from typing import Final

import apsw

from app.domain.events import InstanceName
from app.store.sqlite.slots import bucket_of

_log = logging.getLogger(__name__)

_SCHEMA_1: Final = """
CREATE TABLE seen (
    key TEXT PRIMARY KEY,
    seen_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX seen_by_age ON seen (seen_at);
CREATE TABLE instances (
    name TEXT NOT NULL,
    identity TEXT NOT NULL,
    kind INTEGER NOT NULL,
    cluster TEXT NOT NULL,
    cluster_location TEXT NOT NULL,
    node_pool TEXT NOT NULL,
    machine_type TEXT NOT NULL,
    recorded_at REAL NOT NULL,
    spot INTEGER NOT NULL,
    alive INTEGER NOT NULL,
    announced INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    timed INTEGER NOT NULL,
    overflowed INTEGER NOT NULL,
    operation TEXT NOT NULL,
    created_at REAL,
    started_at REAL,
    interrupted_at REAL,
    ended_at REAL,
    PRIMARY KEY (name, identity)
) WITHOUT ROWID;
CREATE TABLE parked (
    key TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    id TEXT NOT NULL,
    at REAL NOT NULL,
    until REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX parked_by_name ON parked (name);
CREATE INDEX parked_by_end ON parked (until);
CREATE TABLE ledger (
    serial INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    at REAL NOT NULL,
    recorded_at REAL NOT NULL,
    name TEXT NOT NULL,
    identity TEXT NOT NULL,
    cluster TEXT NOT NULL,
    cluster_location TEXT NOT NULL,
    node_pool TEXT NOT NULL,
    machine_type TEXT NOT NULL,
    counted_as TEXT NOT NULL,
    age_seconds REAL,
    explained INTEGER NOT NULL,
    released_by TEXT
);
CREATE INDEX ledger_by_time ON ledger (at);
CREATE INDEX ledger_unexplained ON ledger (name, identity) WHERE NOT explained;
CREATE TABLE label_sets (
    project TEXT NOT NULL,
    cluster TEXT NOT NULL,
    cluster_location TEXT NOT NULL,
    node_pool TEXT NOT NULL,
    zone TEXT NOT NULL,
    machine_type TEXT NOT NULL,
    interruptions INTEGER NOT NULL,
    created INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    instances INTEGER NOT NULL,
    instance_seconds REAL NOT NULL,
    touched_at REAL NOT NULL,
    revealed INTEGER NOT NULL,
    PRIMARY KEY (project, cluster, cluster_location, node_pool, zone, machine_type)
) WITHOUT ROWID;
CREATE TABLE clusters (
    cluster TEXT PRIMARY KEY,
    interruptions INTEGER NOT NULL,
    last_interruption_at REAL,
    touched_at REAL NOT NULL,
    revealed INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE lifetimes (
    cluster TEXT NOT NULL,
    machine_type TEXT NOT NULL,
    buckets TEXT NOT NULL,
    sum_seconds REAL NOT NULL,
    touched_at REAL NOT NULL,
    revealed INTEGER NOT NULL,
    PRIMARY KEY (cluster, machine_type)
) WITHOUT ROWID;
CREATE TABLE projects (
    number TEXT PRIMARY KEY,
    id TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE listings (
    project TEXT PRIMARY KEY,
    began REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE clock (
    accounted_at REAL NOT NULL
);
"""

# An index gives the new order. It needs less of the temporary disk than sorting the rows.
_SCHEMA_2: Final = """
ALTER TABLE instances RENAME TO instances_by_name;
CREATE INDEX instances_by_place ON instances_by_name (place_of(name));
CREATE TABLE instances (
    slot INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    identity TEXT NOT NULL,
    kind INTEGER NOT NULL,
    cluster TEXT NOT NULL,
    cluster_location TEXT NOT NULL,
    node_pool TEXT NOT NULL,
    machine_type TEXT NOT NULL,
    recorded_at REAL NOT NULL,
    spot INTEGER NOT NULL,
    alive INTEGER NOT NULL,
    announced INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    timed INTEGER NOT NULL,
    overflowed INTEGER NOT NULL,
    operation TEXT NOT NULL,
    created_at REAL,
    started_at REAL,
    interrupted_at REAL,
    ended_at REAL
);
INSERT INTO instances
    SELECT place + row_number() OVER (PARTITION BY place) - 1, name, identity, kind, cluster,
        cluster_location, node_pool, machine_type, recorded_at, spot, alive, announced, failed, timed,
        overflowed, operation, created_at, started_at, interrupted_at, ended_at
    FROM (SELECT place_of(name) AS place, * FROM instances_by_name)
    ORDER BY place;
"""
# Each statement commits by itself: in a transaction SQLite copies what it drops to the temporary disk.
# IF EXISTS: a crash between the statements makes the next start run all of them again.
_SCHEMA_3: Final = """
COMMIT;
DROP TABLE IF EXISTS instances_by_name;
DROP INDEX IF EXISTS seen_by_age;
BEGIN IMMEDIATE;
"""
# With it, a start soon after a pass of the pruning does not repeat the pass.
_SCHEMA_4: Final = """
CREATE TABLE pruned (
    before REAL NOT NULL
);
"""
MIGRATIONS: Final = (_SCHEMA_1, _SCHEMA_2, _SCHEMA_3, _SCHEMA_4)
"""The scripts from each schema version to the next. A file's version is the number of scripts it has run."""


def migrate(connection: apsw.Connection, migrations: Sequence[str]) -> None:
    """Bring the schema up to date, in one transaction per version."""
    connection.create_scalar_function("place_of", _bucket_of_path, 1, deterministic=True)
    version = version_of(connection)
    for number, script in enumerate(migrations[version:], version + 1):
        if version:
            _log.info("the store is being migrated", extra={"schema": number, "newest": len(migrations)})
        connection.execute(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT")


def version_of(connection: apsw.Connection) -> int:
    """Return the schema version of the file; 0 if it is empty."""
    return int(connection.execute("PRAGMA user_version").get)


def _bucket_of_path(*path: "apsw.SQLiteValue") -> int:
    return bucket_of(InstanceName.from_path(str(*path)))
