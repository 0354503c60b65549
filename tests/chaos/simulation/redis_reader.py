"""The reading of the Redis store beside the exporters."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from app.domain.events import Listed
from tests.support.redis import key


class RedisReader:
    """See `tests.chaos.simulation.judge.Reader`. It reads the server directly."""

    def __init__(self, client: Callable[[], Any]) -> None:
        """`client` returns redis-py's client of the present server; its types are those of two clients."""
        self._present_client = client

    @property
    def _client(self) -> Any:  # noqa: ANN401 - see above
        return self._present_client()

    def stored(self, keys: set[str]) -> set[str]:
        names = sorted(keys)
        values = self._client.mget([key("seen", name) for name in names])
        return {name for name, value in zip(names, values, strict=True) if value is not None}

    def described(self, listed: Sequence[Listed]) -> Sequence[Listed]:
        return [one for one in listed if (row := self._instance(one)) is not None and json.loads(row)[0] > 0]

    def _instance(self, one: Listed) -> str | None:
        path, client = one.name.path, self._client
        found: str | None = client.hget(key("name", path), f"i:{one.id}")
        return found or client.hget(key("archive", path), one.id)

    def pending_keys(self) -> set[str]:
        return {member.partition("\0")[2] for member in self._client.zrange(key("until"), 0, -1)}

    def pending(self) -> int:
        return int(self._client.zcard(key("until")))

    def keys_complete_since(self) -> float:
        return float(self._client.get(key("complete")))
