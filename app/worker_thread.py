"""A thread for what waits, and what to do until it has waited."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar

_T = TypeVar("_T")
_START_SECONDS: Final = 0.001


class Aside:
    """One thread, in which one thing is done after the other. An executor of one does the same, for more."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        threading.Thread(target=self._do, name=name, daemon=True).start()

    async def run(self, work: Callable[[], _T], meanwhile: Callable[[], None] | None = None) -> _T:
        """What the work gives or raises; `meanwhile` is done here while it waits.

        The loop stops until the work has begun: the thread could not begin while anything else runs here.
        """
        result: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        begun = threading.Lock()
        begun.acquire()
        self._jobs.put(_Job(work, begun, result))
        if meanwhile is not None:
            begun.acquire(timeout=_START_SECONDS)
            try:
                meanwhile()
            except BaseException:
                await asyncio.wait([result])
                raise
        return await result

    def close(self) -> None:
        """End the thread, once it has done what it was given."""
        self._jobs.put(None)

    def _do(self) -> None:
        for job in iter(self._jobs.get, None):
            job.do()


class _Job(NamedTuple):
    work: Callable[[], Any]
    begun: threading.Lock
    """Held until it has."""
    result: "asyncio.Future[Any]"

    def do(self) -> None:
        self.begun.release()
        try:
            result = self.work()
        except BaseException as exc:  # noqa: BLE001 - whoever waits is told
            self._tell(self.result.set_exception, exc)
        else:
            self._tell(self.result.set_result, result)

    def _tell(self, how: Callable[[Any], None], what: object) -> None:
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            self.result.get_loop().call_soon_threadsafe(self._take, how, what)

    def _take(self, how: Callable[[Any], None], what: object) -> None:
        if not self.result.done():
            how(what)
