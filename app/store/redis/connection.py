"""The connection to Redis: one round trip a call, and transactions that are never sent twice.

https://redis.io/docs/latest/develop/using-commands/transactions/
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.connection import AbstractConnection, parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry
from redis.sentinel import Sentinel

from app.errors import StoreUnavailableError

PREFIX: Final = "{spot-interruption-exporter}:"
"""What every key begins with. In braces, so that a cluster keeps them all on one node."""
SENTINEL: Final = "+sentinel"
_CONNECT_SECONDS: Final = 1.0
_REPLY_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 0.25
_SENTINEL_PORT: Final = 26379

Command: TypeAlias = tuple[str | int | float, ...]

_BROKEN: Final = (RedisConnectionError, RedisTimeoutError, OSError)


class LostReplyError(Exception):
    """Whether the transaction was executed is not known: its reply was lost."""


class Link:
    """A connection to whatever node may be written to; made anew after every failure.

    Every method raises StoreUnavailableError; while Redis is away, at once. It never repeats a command: only
    the caller knows what a lost reply means.
    """

    def __init__(self, url: str, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._monotonic = monotonic
        self._connection: AbstractConnection | None = None
        self._again_at = float("-inf")

    @property
    def connected(self) -> bool:
        """Whether the last call went well."""
        return self._connection is not None

    def connect(self) -> None:
        """Find the node and connect to it."""
        if self._monotonic() < self._again_at:
            raise StoreUnavailableError("redis is away")
        try:
            self._connection = connect(self._url)
        except (RedisError, OSError) as exc:
            self._lose()
            raise _away(exc) from exc
        except (TypeError, ValueError):
            # Not `from exc`: what cannot be read of a URL might be its password.
            said = "store.url has a scheme, or an option, that redis-py does not know"
            raise StoreUnavailableError(said) from None

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Each command's reply, in one round trip."""
        connection = self._connected()
        packed = _packed(connection, commands)
        try:
            connection.send_packed_command(packed, check_health=False)
            return [connection.read_response() for _ in commands]
        except _BROKEN as exc:
            self.close()
            raise _away(exc) from exc
        except RedisError as exc:
            self._lose()
            raise _away(exc) from exc

    def commit(self, commands: Sequence[Command]) -> bool:
        """Execute all of them or none; whether they were: if not, something watched had changed.

        Raises LostReplyError where that cannot be told.
        """
        connection = self._connected()
        packed = _packed(connection, [("MULTI",), *commands, ("EXEC",)])
        try:
            connection.send_packed_command(packed, check_health=False)
            for _ in range(len(commands) + 1):
                connection.read_response()
            executed: list[Any] | None = connection.read_response()
        except _BROKEN as exc:
            self.close()
            raise LostReplyError from exc
        except RedisError as exc:
            # A command was refused before EXEC, which then refuses them all: out of memory, or a replica.
            self._lose()
            raise _away(exc) from exc
        if executed is None:
            return False
        refused = next((reply for reply in executed if isinstance(reply, RedisError)), None)
        if refused is not None:
            # Some other program has put something else under one of our keys.
            self._lose()
            raise _away(refused)
        return True

    def close(self) -> None:
        """Let go of the connection. May be called more than once."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _connected(self) -> AbstractConnection:
        if self._connection is None:
            raise StoreUnavailableError("redis is away")
        return self._connection

    def _lose(self) -> None:
        """A server that is away, or refuses, is left alone for a moment."""
        self.close()
        self._again_at = self._monotonic() + _PAUSE_SECONDS


def connect(url: str) -> AbstractConnection:
    """A connection to the node that may be written to.

    Raises RedisError, OSError or, for a bad URL, ValueError or TypeError.

    `redis://`, `rediss://` and `unix://` are read by redis-py; a cluster is found by asking. Sentinels are
    `redis+sentinel://[user:password@]host[:port][,host[:port]…]/service[?db=number]`; all options of redis-py
    may follow, and `sentinel_username` and `sentinel_password`.
    """
    connection = _sentinel(url) if urlsplit(url).scheme.endswith(SENTINEL) else _plain(url)
    connection.connect()
    connection.send_command("INFO", "cluster", check_health=False)
    if "cluster_enabled:1" in connection.read_response():
        connection.disconnect()
        connection = _node_of_cluster(url)
    connection.update_current_socket_timeout(_REPLY_SECONDS)
    return connection


def _plain(url: str) -> AbstractConnection:
    return _connection_of(Redis.from_url(url, **_options()))


def _sentinel(url: str) -> AbstractConnection:
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    addresses = [urlsplit(f"//{host}") for host in hosts.split(",")]
    ssl = parts.scheme.startswith("rediss")
    # redis-py has no URL of this kind: it reads the parts that all of them have.
    of_any = parse_url(f"redis://{credentials}{at}{addresses[0].netloc}?{parts.query}")
    options = {name: value for name, value in of_any.items() if name not in {"host", "port"}}
    of_sentinels = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")} | {
        name: value for name, value in options.items() if name.startswith("ssl_")
    }
    finders = Sentinel(
        [(address.hostname or "", address.port or _SENTINEL_PORT) for address in addresses],
        sentinel_kwargs={**of_sentinels, **_options(), "ssl": ssl},
        **{**options, **_options(), "ssl": ssl},
    )
    return _connection_of(finders.master_for(parts.path.strip("/"), redis_class=Redis))


def _node_of_cluster(url: str) -> AbstractConnection:
    cluster = RedisCluster.from_url(url, **_options())
    try:
        node = cluster.get_node_from_key(PREFIX)
        if node is None:
            raise RedisConnectionError("no node of the cluster has our keys")
        connection = _connection_of(cluster.get_redis_connection(node))
        connection.connect()
    finally:
        cluster.close()
    return connection


def _connection_of(client: Redis) -> AbstractConnection:
    pool = client.connection_pool
    pool.connection_kwargs["protocol"] = 2  # replies are lists, whatever the URL says
    connection = pool.make_connection()
    assert isinstance(connection, AbstractConnection)  # noqa: S101 - what pools make
    return connection


def _packed(connection: AbstractConnection, commands: Sequence[Command]) -> list[bytes]:
    """Everything in one piece: redis-py's own make a system call each."""
    return [b"".join(connection.pack_commands(commands))]


def _options() -> dict[str, Any]:
    return {
        "socket_connect_timeout": _CONNECT_SECONDS,
        "socket_timeout": _CONNECT_SECONDS,  # of the handshake: a dark server holds up no request for long
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": True,
        "protocol": 2,
    }


def _away(exc: Exception) -> StoreUnavailableError:
    return StoreUnavailableError(f"redis cannot be used: {exc}")
