"""A thread for what waits, and what to do until it has waited."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

_T = TypeVar("_T")
_START_SECONDS: Final = 0.001


class Aside:
    """One thread, in which one thing is done after the other."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def run(self, work: Callable[[], _T], meanwhile: Callable[[], None] | None = None) -> _T:
        """What the work gives or raises; `meanwhile` is done here while it waits.

        The loop stops until the work has begun: the thread could not begin while anything else runs here.
        """
        loop = asyncio.get_running_loop()
        if meanwhile is None:
            return await loop.run_in_executor(self._thread, work)
        begun = threading.Lock()
        begun.acquire()
        result = loop.run_in_executor(self._thread, _begin, begun, work)
        begun.acquire(timeout=_START_SECONDS)
        try:
            meanwhile()
        except BaseException:
            await asyncio.wait([result])
            raise
        return await result

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False)


def _begin(begun: threading.Lock, work: Callable[[], _T]) -> _T:
    begun.release()
    return work()
