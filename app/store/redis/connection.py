"""The connection to Redis: one round trip per call, and transactions that are never sent twice.

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
from app.store.port import KEY_PREFIX

SENTINEL: Final = "+sentinel"
"""The end of the URL's scheme if sentinels know the server."""
_ADVICE: Final = "look at Redis itself, and at store.url"
_CONNECT_SECONDS: Final = 1.0
_REPLY_SECONDS: Final = 2.0
_PAUSE_SECONDS: Final = 0.25
"""The time without any attempt to connect after a failure."""
_SENTINEL_PORT: Final = 26379


class Key(str):
    """The name of a key, without the prefix that the link adds."""

    __slots__ = ()


Command: TypeAlias = tuple[str | int | float, ...]
"""The words of a command. Each key in it is a `Key`."""

_BROKEN: Final = (RedisConnectionError, RedisTimeoutError, OSError)


class LostReplyError(Exception):
    """The reply to a transaction was lost, so it may or may not have been executed."""


class Link:
    """A connection to the node that accepts writes. After a failure it must be connected again.

    Every method raises StoreUnavailableError; while Redis is away, it does so at once. No command is sent
    twice, because only the caller knows the meaning of a lost reply.
    """

    def __init__(
        self, url: str, *, key_prefix: str = KEY_PREFIX, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """`key_prefix` separates the keys of this installation from those of another one."""
        self._url = url
        self._prefix = f"{{{key_prefix}}}:"  # the braces make a cluster keep all keys on one node
        self._monotonic = monotonic
        self._connection: AbstractConnection | None = None
        self._retry_at = float("-inf")

    @property
    def connected(self) -> bool:
        """True if the last call succeeded."""
        return self._connection is not None

    def connect(self, *, at_once: bool = False) -> None:
        """Find the node that accepts writes, and connect to it.

        `at_once`: also if a connection was lost a moment ago.
        """
        if not at_once and self._monotonic() < self._retry_at:
            raise StoreUnavailableError(f"redis cannot be reached; {_ADVICE}")
        try:
            self._connection = _connect(self._url, self._prefix)
        except (RedisError, OSError) as exc:
            self._lose()
            raise _away(exc) from exc
        except (TypeError, ValueError):
            # Not `from exc`, because its message quotes a part of the URL, which may be the password.
            message = "store.url has a scheme, or an option, that redis-py does not know"
            raise StoreUnavailableError(message) from None

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Return the commands' replies, after one round trip."""
        connection = self._connected()
        packed = self._packed(connection, commands)
        try:
            connection.send_packed_command(packed, check_health=False)
            return [connection.read_response() for _ in commands]
        except _BROKEN as exc:
            self.close()
            raise _away(exc) from exc
        except UnicodeDecodeError as exc:
            self._lose()
            raise StoreUnavailableError(
                "redis has data of another program under the exporter's keys; change store.key_prefix"
            ) from exc
        except RedisError as exc:
            self._lose()
            raise _away(exc) from exc

    def commit(self, commands: Sequence[Command]) -> bool:
        """Execute all commands, or none if something watched has changed: then return False.

        Raises LostReplyError if the result is unknown.
        """
        connection = self._connected()
        packed = self._packed(connection, [("MULTI",), *commands, ("EXEC",)])
        try:
            connection.send_packed_command(packed, check_health=False)
            for _ in range(len(commands) + 1):
                connection.read_response()
            executed: list[Any] | None = connection.read_response()
        except _BROKEN as exc:
            self.close()
            raise LostReplyError from exc
        except RedisError as exc:
            # The server refused a command before EXEC, and so all of them: it is out of memory, or a replica.
            self._lose()
            raise _away(exc) from exc
        if executed is None:
            return False
        refused = next((reply for reply in executed if isinstance(reply, RedisError)), None)
        if refused is not None:
            # Another program has stored something else under one of our keys.
            self._lose()
            raise _away(refused)
        return True

    def close(self) -> None:
        """Close the connection. May be called more than once."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.disconnect()

    def _connected(self) -> AbstractConnection:
        if self._connection is None:
            raise StoreUnavailableError(f"redis cannot be reached; {_ADVICE}")
        return self._connection

    def _packed(self, connection: AbstractConnection, commands: Sequence[Command]) -> list[bytes]:
        """Return all commands in one piece, because redis-py makes one system call for each piece."""
        prefix = self._prefix
        full = [
            [prefix + word if isinstance(word, Key) else word for word in command] for command in commands
        ]
        return [b"".join(connection.pack_commands(full))]

    def _lose(self) -> None:
        """Close the connection, and do not connect for a moment."""
        self.close()
        self._retry_at = self._monotonic() + _PAUSE_SECONDS


def _connect(url: str, prefix: str) -> AbstractConnection:
    """Return a connection to the node that accepts writes of keys with that prefix.

    Raises RedisError, OSError or, for a bad URL, ValueError or TypeError.

    redis-py reads `redis://`, `rediss://` and `unix://`. The server says if it is part of a cluster. The URL
    of sentinels is `redis+sentinel://[user:password@]host[:port][,host[:port]…]/service[?db=number]`. It can
    have all options of redis-py, and also `sentinel_username` and `sentinel_password`.
    """
    connection = _sentinel(url) if urlsplit(url).scheme.endswith(SENTINEL) else _plain(url)
    connection.connect()
    connection.send_command("INFO", "cluster", check_health=False)
    if "cluster_enabled:1" in connection.read_response():
        connection.disconnect()
        connection = _node_of_cluster(url, prefix)
    connection.update_current_socket_timeout(_REPLY_SECONDS)
    return connection


def _plain(url: str) -> AbstractConnection:
    return _connection_of(Redis.from_url(url, **_options()))


def _sentinel(url: str) -> AbstractConnection:
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    addresses = [urlsplit(f"//{host}") for host in hosts.split(",")]
    ssl = parts.scheme.startswith("rediss")
    # redis-py does not know this scheme. It reads the parts that all schemes share.
    parsed = parse_url(f"redis://{credentials}{at}{addresses[0].netloc}?{parts.query}")
    options = {name: value for name, value in parsed.items() if name not in {"host", "port"}}
    sentinel_options = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")} | {
        name: value for name, value in options.items() if name.startswith("ssl_")
    }
    finders = Sentinel(
        [(address.hostname or "", address.port or _SENTINEL_PORT) for address in addresses],
        sentinel_kwargs={**sentinel_options, **_options(), "ssl": ssl},
        **{**options, **_options(), "ssl": ssl},
    )
    return _connection_of(finders.master_for(parts.path.strip("/"), redis_class=Redis))


def _node_of_cluster(url: str, prefix: str) -> AbstractConnection:
    cluster = RedisCluster.from_url(url, **_options())
    try:
        node = cluster.get_node_from_key(prefix)
        if node is None:
            raise RedisConnectionError("no node of the Redis Cluster serves the exporter's keys")
        connection = _connection_of(cluster.get_redis_connection(node))
        connection.connect()
    finally:
        cluster.close()
    return connection


def _connection_of(client: Redis) -> AbstractConnection:
    pool = client.connection_pool
    pool.connection_kwargs["protocol"] = 2  # RESP2, in which every reply of ours is a list
    connection = pool.make_connection()
    assert isinstance(connection, AbstractConnection)  # noqa: S101 - every pool makes this class
    return connection


def _options() -> dict[str, Any]:
    return {
        "socket_connect_timeout": _CONNECT_SECONDS,
        "socket_timeout": _CONNECT_SECONDS,  # of the handshake: a silent server delays a request only briefly
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": True,
        "protocol": 2,
    }


def _away(exc: Exception) -> StoreUnavailableError:
    error = str(exc).rstrip(".")
    return StoreUnavailableError(f"redis cannot be used: {error}; {_ADVICE}")
