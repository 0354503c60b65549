"""The plain way: a first version of the same service, after the tutorials of FastAPI and pydantic.

It does the exporter's job for known instances: authenticate, decode, deduplicate, attribute, count, and
store the same rows as durably. The comparison is fair: it fetches the certificates once, although
`google.oauth2.id_token` would fetch them for each request, and no thread waits in SQLite's busy loop.
"""

import base64
import logging
import sqlite3
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import httpx
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from google.auth import jwt
from google.auth.exceptions import GoogleAuthError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from tests.bench.limit_app import serve
from tests.bench.wrk import PROJECT, ZONE, instance_name
from tests.support.program import ACCOUNT, AUDIENCE

_ISSUERS: Final = ("https://accounts.google.com", "accounts.google.com")
_SCHEMA: Final = """
CREATE TABLE seen (key TEXT PRIMARY KEY, seen_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE instances (
    name TEXT NOT NULL,
    id TEXT NOT NULL,
    cluster TEXT NOT NULL,
    cluster_location TEXT NOT NULL,
    node_pool TEXT NOT NULL,
    machine_type TEXT NOT NULL,
    created_at REAL NOT NULL,
    interrupted_at REAL,
    PRIMARY KEY (name, id)
) WITHOUT ROWID;
CREATE TABLE ledger (
    key TEXT PRIMARY KEY,
    at REAL NOT NULL,
    name TEXT NOT NULL,
    id TEXT NOT NULL,
    cluster TEXT NOT NULL,
    cluster_location TEXT NOT NULL,
    node_pool TEXT NOT NULL,
    machine_type TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX ledger_by_time ON ledger (at);
CREATE TABLE counters (cluster TEXT PRIMARY KEY, interruptions INTEGER NOT NULL) WITHOUT ROWID;
"""

_log = logging.getLogger(__name__)


class _Wire(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel)


class Message(_Wire):
    data: str
    message_id: str
    publish_time: datetime
    attributes: dict[str, str] = {}


class Envelope(_Wire):
    message: Message
    subscription: str


class AuditLog(_Wire):
    method_name: str
    resource_name: str


class MonitoredResource(_Wire):
    type: str
    labels: dict[str, str]


class Operation(_Wire):
    id: str
    producer: str


class LogEntry(_Wire):
    proto_payload: AuditLog
    resource: MonitoredResource
    timestamp: datetime
    operation: Operation


class Counted(BaseModel):
    outcome: str
    instance: str
    kubernetes_cluster: str


class Node(NamedTuple):
    cluster: str
    cluster_location: str
    node_pool: str
    machine_type: str


_UNKNOWN: Final = Node("unknown", "unknown", "unknown", "unknown")


class Database:
    """The stored rows. All threads share one connection, protected by a lock."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")

    def counters(self) -> Mapping[str, int]:
        with self._lock:
            return dict(self._connection.execute("SELECT cluster, interruptions FROM counters"))

    def count(self, entry: LogEntry) -> Node | None:
        """Commit an interruption. Return its node, or None if it was committed before."""
        key, at = f"{entry.operation.producer} {entry.operation.id}", entry.timestamp.timestamp()
        name, identity = entry.proto_payload.resource_name, entry.resource.labels["instance_id"]
        with self._lock, self._connection as connection:
            if not connection.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (key, at)).rowcount:
                return None
            found = connection.execute(
                "SELECT cluster, cluster_location, node_pool, machine_type FROM instances"
                " WHERE name = ? AND id = ?",
                (name, identity),
            ).fetchone()
            node = Node(*found) if found else _UNKNOWN
            connection.execute(
                "UPDATE instances SET interrupted_at = ? WHERE name = ? AND id = ?", (at, name, identity)
            )
            connection.execute(
                "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (key, at, name, identity, *node)
            )
            connection.execute(
                "INSERT INTO counters VALUES (?, 1)"
                " ON CONFLICT (cluster) DO UPDATE SET interruptions = interruptions + 1",
                (node.cluster,),
            )
        return node


def create_database(path: Path, instances: int, node: Node) -> None:
    """Create a database that knows this many instances."""
    with sqlite3.connect(path) as connection:
        connection.executescript(_SCHEMA)
        connection.executemany(
            "INSERT INTO instances VALUES (?, ?, ?, ?, ?, ?, 0, NULL)", _rows(instances, node)
        )
    connection.close()


def _rows(instances: int, node: Node) -> Iterator[tuple[object, ...]]:
    for number in range(instances):
        name = f"projects/{PROJECT}/zones/{ZONE}/instances/{instance_name(number)}"
        yield name, f"{number:06d}", *node


_bearer = HTTPBearer()


def caller(
    credentials: Annotated[HTTPAuthorizationCredentials, Depends(_bearer)], request: Request
) -> Mapping[str, Any]:
    """Return the claims of a token that Google has signed for the push service account.

    Raises HTTPException 401 or 403.
    """
    certificates = request.app.state.certificates
    try:
        claims = jwt.decode(credentials.credentials, certs=certificates, audience=AUDIENCE)
    except (ValueError, GoogleAuthError) as exc:
        raise HTTPException(401, "the token is not valid") from exc
    if claims.get("iss") not in _ISSUERS:
        raise HTTPException(401, "the token's issuer is not Google")
    if claims.get("email") != ACCOUNT or not claims.get("email_verified"):
        raise HTTPException(403, "the token is not of the push service account")
    return dict(claims)


def create_app(path: Path, certificates: Mapping[str, str]) -> FastAPI:
    """Return the application for a database that `create_database` has made."""
    app = FastAPI()
    app.state.certificates = certificates
    database = Database(path)
    registry = CollectorRegistry()
    interruptions = Counter(
        "interruption_events_total", "Interruptions", ["kubernetes_cluster"], registry=registry
    )
    for cluster, value in database.counters().items():
        interruptions.labels(cluster).inc(value)

    @app.post("/events/interruption", dependencies=[Depends(caller)])
    def interrupted(envelope: Envelope) -> Counted | dict[str, str]:
        try:
            entry = LogEntry.model_validate_json(base64.b64decode(envelope.message.data))
        except (ValueError, ValidationError) as exc:
            raise HTTPException(422, "the data is not a log entry") from exc
        if entry.proto_payload.method_name != "compute.instances.preempted":
            return {"outcome": "ignored"}
        node = database.count(entry)
        if node is None:
            return {"outcome": "duplicate"}
        interruptions.labels(node.cluster).inc()
        instance = entry.proto_payload.resource_name.rpartition("/")[2]
        _log.info("interruption counted: %s of %s", instance, node)
        return Counted(outcome="counted", instance=instance, kubernetes_cluster=node.cluster)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def main() -> None:
    """Serve with the port, the database and the certificates' URL from the command line."""
    port, path, certs_url = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    certificates = httpx.get(certs_url, trust_env=False).raise_for_status().json()
    serve(create_app(Path(path), certificates), int(port))


if __name__ == "__main__":
    main()
