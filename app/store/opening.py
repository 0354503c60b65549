"""The opening of a store by its URL. Only this module names the backends."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from app.domain.changes import Rules
from app.domain.replicas import NO_SETTINGS, ReplicaSettings
from app.errors import StartError
from app.store.engine import Engine, SharedEngine
from app.store.memory import Memory
from app.store.port import KEY_PREFIX, LEASE_SECONDS, OpenedStore, Sync

_SQLITE = "sqlite:///"


def open_store(
    url: str,
    rules: Rules,
    *,
    key_prefix: str = KEY_PREFIX,
    replica: str = "",
    settings: ReplicaSettings = NO_SETTINGS,
    hold: bool = False,
    reset_totals: bool = False,
    lease_seconds: float = LEASE_SECONDS,
) -> OpenedStore:
    """Open the store at the URL, and make it if there is none.

    `key_prefix`: separates several installations on one Redis. `replica`: the name of this process among
    those that share the store; by default the name of the host. `settings`: those that it publishes to them.
    `hold`: new series export 0 until `release_held`. `lease_seconds`: how long this replica leads without a
    `sync`. Raises StartError.
    """
    memory = Memory(rules, hold=hold, settings=settings, reset_totals=reset_totals)
    if url.startswith(_SQLITE):
        return _open_sqlite(url.removeprefix(_SQLITE), memory, reset_totals=reset_totals)
    with _redis_installed():
        from app.store.redis.backend import SYNC_SECONDS, RedisBackend  # noqa: PLC0415
        from app.store.redis.connection import Link  # noqa: PLC0415
        from app.store.redis.ledger import RedisLedger  # noqa: PLC0415

    replica = replica or socket.gethostname()
    link, reading = (Link(url, key_prefix=key_prefix) for _ in range(2))
    backend = RedisBackend(link, memory, replica=replica, lease_seconds=lease_seconds)
    backend.open(reset_totals=reset_totals)
    store = SharedEngine(backend)
    warnings = store_warnings(url, replica, key_prefix)
    return OpenedStore(store, RedisLedger(reading), sync=Sync(store.sync, SYNC_SECONDS), warnings=warnings)


def inspect_store(url: str, key_prefix: str = KEY_PREFIX) -> str:
    """Describe the store at the URL, or say that it can be created; change nothing. Raises StartError."""
    if url.startswith(_SQLITE):
        from app.store.sqlite.damage import inspect_file  # noqa: PLC0415 - a driver is loaded when it is used

        return inspect_file(url.removeprefix(_SQLITE))
    with _redis_installed():
        from app.store.redis.inspect import inspect_redis  # noqa: PLC0415
    return inspect_redis(url, key_prefix)


def store_warnings(url: str, replica: str, key_prefix: str = KEY_PREFIX) -> Sequence[str]:
    """Return reasons why the store at the URL might lose events or counts; empty if it is away."""
    if url.startswith(_SQLITE):
        return ()
    with _redis_installed():
        from app.store.redis.inspect import warnings_at, warnings_of_name  # noqa: PLC0415

    return (*warnings_of_name(replica or socket.gethostname()), *warnings_at(url, key_prefix))


def url_without_secrets(url: str) -> str:
    """Return a store's URL for the log, without credentials and options, which may hold a password."""
    if url.startswith(_SQLITE):
        return url
    scheme, _, rest = url.partition("://")
    place, _, options = rest.partition("?")
    # An @ among the options may end a password in which ? is not percent-encoded.
    return f"{scheme}://{'' if '@' in options else place.rpartition('@')[2]}"


def _open_sqlite(path: str, memory: Memory, *, reset_totals: bool) -> OpenedStore:
    from app.store.sqlite.backend import SQLiteBackend  # noqa: PLC0415 - a driver is loaded when it is used
    from app.store.sqlite.file import SQLiteFile  # noqa: PLC0415
    from app.store.sqlite.ledger import SQLiteLedger  # noqa: PLC0415

    file = SQLiteFile.open(path)
    backend = SQLiteBackend(file, memory)
    if reset_totals:
        backend.reset_totals()
    return OpenedStore(Engine(backend), SQLiteLedger(file), file.moved_aside_to)


@contextmanager
def _redis_installed() -> Iterator[None]:
    try:
        yield
    except ImportError as exc:
        raise StartError(
            f"store.url: a store of this scheme needs the extra `redis` ({exc.name} is not installed);"
            " install it with pip install '.[redis]' in the checkout"
        ) from exc
