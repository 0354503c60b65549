"""The reading of the SQLite store beside its exporter, on a disk without faults."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import apsw

from app.domain.events import Listed

INSTANCES: Final = "FROM (SELECT * FROM instances UNION ALL SELECT * FROM archived_instances)"


class SQLiteReader:
    """See `tests.chaos.simulation.judge.Reader`."""

    def __init__(self, path: Path, pending: Callable[[], int]) -> None:
        """`pending` returns the exported number of pending interruptions; there is one exporter."""
        self._path = path
        self._pending = pending

    def stored(self, keys: set[str]) -> set[str]:
        marks = ", ".join("?" * len(keys))
        with self.reading() as connection:
            found = connection.execute(f"SELECT key FROM event_keys WHERE key IN ({marks})", tuple(keys))  # noqa: S608
            return {key for (key,) in found}

    def described(self, listed: Sequence[Listed]) -> Sequence[Listed]:
        with self.reading() as connection:
            found = connection.execute(f"SELECT identity {INSTANCES} WHERE kind > 0")
            described = {str(identity) for (identity,) in found}
        return [one for one in listed if one.id in described]

    def pending_keys(self) -> set[str]:
        with self.reading() as connection:
            return {key for (key,) in connection.execute("SELECT key FROM pending")}

    def pending(self) -> int:
        return self._pending()

    def keys_complete_since(self) -> float:
        with self.reading() as connection:
            since: float = connection.execute(
                "SELECT seconds FROM clocks WHERE name = 'keys_complete_since'"
            ).get
        return since

    @contextmanager
    def reading(self) -> Iterator[apsw.Connection]:
        """Read the file, on a disk without faults."""
        flags = apsw.SQLITE_OPEN_READONLY
        with closing(apsw.Connection(str(self._path), flags=flags, vfs="unix")) as connection:
            connection.set_busy_timeout(2000)
            yield connection
