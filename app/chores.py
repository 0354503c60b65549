"""The periodic work: when grace periods end, instances' time is added, old rows go and held series show."""

import asyncio
import logging
from typing import Final

from app.errors import ExporterError
from app.metrics import Metrics
from app.recorder import Recorder, Work

_BEAT_SECONDS: Final = 1.0
_MINUTE: Final = 60.0
_PUT_OFF_SECONDS: Final = 10.0

_log = logging.getLogger(__name__)


class Chores:
    """Asks the recorder for each piece of periodic work when it is due."""

    def __init__(self, recorder: Recorder, metrics: Metrics) -> None:
        self._recorder = recorder
        self._metrics = metrics
        self._next_minute_at = float("-inf")

    async def run(self) -> None:
        """Do what is due, again and again."""
        while True:
            due = self._due(asyncio.get_running_loop().time())
            done = [await self._do(name, chore) for name, chore in due]
            await asyncio.sleep(_BEAT_SECONDS if all(done) else _PUT_OFF_SECONDS)

    def _due(self, now: float) -> list[tuple[str, Work]]:
        due: list[tuple[str, Work]] = []
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
            while (await self._recorder.perform(chore)).more:
                pass
        except ExporterError as exc:
            _log.warning("periodic work was put off", extra={"chore": name, "error": str(exc)})
            return False
        return True
