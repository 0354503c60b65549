"""The schema of the SQLite file: one script per version. `docs/architecture.md` describes the tables."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import apsw

_log = logging.getLogger(__name__)

APPLICATION_ID: Final = 0x53494532
"""The text "SIE2" in the file's header. A database with another id is not ours."""
EARLIER_APPLICATION_ID: Final = 0x53494531
"""The text "SIE1": a file of a development version from before the first release."""
_PAGE_BYTES: Final = 2048
"""Half the default, because an interruption changes one row of a page, and a commit writes whole pages."""

_INSTANCE_COLUMNS: Final = """
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
    lifetime_observed INTEGER NOT NULL,
    overflowed INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    operation TEXT NOT NULL,
    created_at REAL,
    started_at REAL,
    interrupted_at REAL,
    ended_at REAL,
    PRIMARY KEY (name, identity)
"""
ONLY_DELETED: Final = "deleted AND kind = 0 AND interrupted_at IS NULL AND NOT failed"
"""The condition of `Instance.is_only_deleted`."""
_DELETION_COLUMNS: Final = "recorded_at, deleted, kind, interrupted_at, failed"
"""With the columns of the condition, SQLite reads the index alone: 7 ms for 100,000 rows instead of 33 ms."""
_SCHEMA_1: Final = f"""
CREATE TABLE event_keys (
    key TEXT PRIMARY KEY,
    recorded_at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE instances ({_INSTANCE_COLUMNS}) WITHOUT ROWID;
CREATE TABLE archived_instances ({_INSTANCE_COLUMNS}) WITHOUT ROWID;
CREATE INDEX instances_only_deleted ON instances ({_DELETION_COLUMNS}) WHERE {ONLY_DELETED};
CREATE INDEX archived_only_deleted ON archived_instances ({_DELETION_COLUMNS}) WHERE {ONLY_DELETED};
CREATE TABLE pending (
    key TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    id TEXT NOT NULL,
    at REAL NOT NULL,
    until REAL NOT NULL,
    found_by TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX pending_by_name ON pending (name);
CREATE INDEX pending_by_end ON pending (until);
CREATE TABLE ledger (
    number INTEGER PRIMARY KEY,
    at REAL NOT NULL,
    key TEXT NOT NULL,
    recorded_at REAL NOT NULL,
    name TEXT NOT NULL,
    identity TEXT NOT NULL,
    cluster TEXT NOT NULL,
    cluster_location TEXT NOT NULL,
    node_pool TEXT NOT NULL,
    machine_type TEXT NOT NULL,
    counted_as TEXT NOT NULL,
    age_seconds REAL,
    attributed INTEGER NOT NULL,
    released_by TEXT,
    found_by TEXT NOT NULL
);
CREATE INDEX ledger_by_time ON ledger (at);
CREATE INDEX ledger_unattributed ON ledger (name, identity) WHERE NOT attributed;
CREATE INDEX ledger_past ON ledger (key) WHERE counted_as = '';
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
    changed_at REAL NOT NULL,
    released INTEGER NOT NULL,
    PRIMARY KEY (project, cluster, cluster_location, node_pool, zone, machine_type)
) WITHOUT ROWID;
CREATE TABLE clusters (
    cluster TEXT PRIMARY KEY,
    interruptions INTEGER NOT NULL,
    last_interruption_at REAL,
    changed_at REAL NOT NULL,
    released INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE lifetimes (
    cluster TEXT NOT NULL,
    machine_type TEXT NOT NULL,
    buckets TEXT NOT NULL,
    sum_seconds REAL NOT NULL,
    changed_at REAL NOT NULL,
    released INTEGER NOT NULL,
    PRIMARY KEY (cluster, machine_type)
) WITHOUT ROWID;
CREATE TABLE projects (
    number TEXT PRIMARY KEY,
    id TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE listings (
    project TEXT PRIMARY KEY,
    began REAL NOT NULL,
    whole_at REAL
) WITHOUT ROWID;
CREATE TABLE clocks (
    name TEXT PRIMARY KEY,
    seconds REAL NOT NULL
) WITHOUT ROWID;
"""
MIGRATIONS: Final = (_SCHEMA_1,)
"""The scripts from each schema version to the next. A file's version is the number of scripts it has run."""


def create_file(path: Path) -> apsw.Connection:
    """Make a file of ours without a table, and return a connection that syncs each of its commits.

    There is no journal: a file whose making fails is thrown away.
    """
    path.unlink(missing_ok=True)
    connection = apsw.Connection(str(path))
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    return connection


def migrate(connection: apsw.Connection, migrations: Sequence[str]) -> None:
    """Bring the schema up to date, in one transaction per version."""
    version = version_of(connection)
    for number, script in enumerate(migrations[version:], version + 1):
        if version:
            _log.info("the store is being migrated", extra={"schema": number, "newest": len(migrations)})
        connection.execute(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT")


def version_of(connection: apsw.Connection) -> int:
    """Return the schema version of the file; 0 if it is empty."""
    return int(connection.execute("PRAGMA user_version").get)


def read_clock(connection: apsw.Connection, name: str) -> float | None:
    """Return a stored time or duration, in seconds; None if it was never set."""
    seconds: float | None = connection.execute("SELECT seconds FROM clocks WHERE name = ?", (name,)).get
    return seconds


def set_clock(connection: apsw.Connection, name: str, seconds: float) -> None:
    """Store a time or duration."""
    connection.execute("INSERT OR REPLACE INTO clocks (name, seconds) VALUES (?, ?)", (name, seconds))
