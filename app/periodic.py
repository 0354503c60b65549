"""The periodic work: when grace periods end, instances' time is added, old rows go and held series show."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from app.domain.batch import Shared
from app.errors import ExporterError
from app.metrics import Metrics
from app.recorder import Recorder, Work

_BEAT_SECONDS: Final = 1.0
_MINUTE: Final = 60.0
_PUT_OFF_SECONDS: Final = 10.0
_PUT_OFF_SHARED_SECONDS: Final = 2.0
"""Other replicas wait for who leads, and its lease is short."""

_log = logging.getLogger(__name__)


class Chores:
    """Asks the recorder for each piece of periodic work when it is due."""

    def __init__(
        self,
        recorder: Recorder,
        metrics: Metrics,
        *,
        refresh_seconds: float | None = None,
        tell: Callable[[Shared], None] = lambda _: None,
    ) -> None:
        """`refresh_seconds`: how often what replicas share is read again, and told; None: there are none."""
        self._recorder = recorder
        self._metrics = metrics
        self._refresh_seconds = refresh_seconds
        self._tell = tell
        self._put_off_seconds = _PUT_OFF_SECONDS if refresh_seconds is None else _PUT_OFF_SHARED_SECONDS
        self._next_minute_at = float("-inf")
        self._next_refresh_at = float("-inf")

    async def run(self) -> None:
        """Do what is due, again and again."""
        while True:
            due = self._due(asyncio.get_running_loop().time())
            done = [await self._do(name, chore) for name, chore in due]
            await asyncio.sleep(_BEAT_SECONDS if all(done) else self._put_off_seconds)

    def _due(self, now: float) -> list[tuple[str, Work]]:
        due: list[tuple[str, Work]] = []
        if self._refresh_seconds is not None and now >= self._next_refresh_at:
            self._next_refresh_at = now + self._refresh_seconds
            due.append(("reading what replicas share", lambda store, at: store.refresh(at)))
        if self._metrics.pending:
            due.append(("expiry", lambda store, at: store.expire(at)))
        if rows := self._metrics.due():
            due.append(("reveal", lambda store, at: store.reveal(rows, at)))
        if now >= self._next_minute_at:
            self._next_minute_at = now + _MINUTE
            due.append(("instance seconds", lambda store, at: store.account(at)))
            due.append(("pruning", lambda store, at: store.prune(at)))
        return due

    async def _do(self, name: str, chore: Work) -> bool:
        """Have it done, slice by slice; whether it was. What was not is done when it is due again."""
        try:
            more = True
            while more:
                applied = await self._recorder.perform(chore)
                more = applied.more
                if applied.shared is not None:
                    self._tell(applied.shared)
        except ExporterError as exc:
            _log.warning("periodic work was put off", extra={"chore": name, "error": str(exc)})
            return False
        return True
