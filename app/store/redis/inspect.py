"""The content of a Redis server, and warnings about its durability."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from app.domain.quantities import quantity
from app.errors import StartError, StoreUnavailableError
from app.store.redis.connection import Command, Link
from app.store.redis.rows import check_schema, key

# https://github.com/kubernetes/apimachinery/blob/master/pkg/util/rand/rand.go has the letters.
_LETTER: Final = "[bcdfghjklmnpqrstvwxz2456789]"
_TEMPORARY_NAME: Final = re.compile(rf".+-{_LETTER}{{6,10}}-{_LETTER}{{5}}|[0-9a-f]{{12}}")

_WRITES_DISCARDED: Final[Sequence[Command]] = (
    ("MULTI",),
    ("SET", key("schema"), ""),
    ("EVAL", "return 0", 0),
    ("DISCARD",),
)
"""Commands that Redis checks and does not execute.

It refuses to queue a write on a read-only replica, without memory, or without the user's permission.
https://redis.io/docs/latest/develop/using-commands/transactions/#errors-inside-a-transaction
"""


def inspect_redis(url: str, key_prefix: str) -> str:
    """Describe what is stored there; change nothing. Raises StartError, also if nothing could be stored."""
    link = Link(url, key_prefix=key_prefix)
    try:
        link.connect()
        schema, instances, interruptions = link.ask(
            [("GET", key("schema")), ("ZCARD", key("recorded")), ("ZCARD", key("ledger:at"))]
        )
        link.ask(_WRITES_DISCARDED)
    except StoreUnavailableError as exc:
        raise StartError(str(exc)) from exc
    finally:
        link.close()
    check_schema(schema)
    if schema is None:
        return "redis has no data of this exporter yet"
    return f"redis holds {quantity(instances, 'instance')} and {quantity(interruptions, 'interruption')}"


def warnings_at(url: str, key_prefix: str) -> Sequence[str]:
    """Return reasons why the server at the URL might lose acknowledged events; empty if it is away."""
    link = Link(url, key_prefix=key_prefix)
    try:
        link.connect()
        return tuple(warnings_of(link))
    except StoreUnavailableError:
        return ()
    finally:
        link.close()


def warnings_of(link: Link) -> Iterator[str]:
    """Return reasons why the server might lose acknowledged events. Raises StoreUnavailableError.

    They are from `INFO`, because managed services often block `CONFIG`.
    """
    facts = _facts(link.ask([("INFO",)]))
    if facts.get("aof_enabled") == "0":
        yield "redis has no append-only file, so its restart loses acknowledged events; set appendonly to yes"
    if facts.get("maxmemory", "0") != "0" and facts.get("maxmemory_policy") != "noeviction":
        yield "redis may evict keys, so an interruption may count twice; set maxmemory-policy to noeviction"


def warnings_of_name(replica: str) -> Sequence[str]:
    """Return reasons why counts under this replica's name might be lost."""
    if not _TEMPORARY_NAME.fullmatch(replica):
        return ()
    return (
        (
            f"{replica} looks like the name of a Deployment's pod or of a container, which changes at every"
            " start; use a StatefulSet, or set store.replica to a name that stays the same"
        ),
    )


def _facts(replies: list[Any]) -> dict[str, str]:
    lines = (line.partition(":") for line in str(replies[0]).splitlines())
    return {name: value.strip() for name, _, value in lines}
