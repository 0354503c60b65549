"""A single worker thread for blocking work, and work that overlaps with it in the event loop."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar

_T = TypeVar("_T")
_START_SECONDS: Final = 0.001


class WorkerThread:
    """A thread that runs jobs in order, with less overhead than a ThreadPoolExecutor."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def run(self, work: Callable[[], _T], overlap: Callable[[], None] | None = None) -> _T:
        """Return the result of the work, or raise its exception. `overlap` runs in the loop during the work.

        With `overlap` it blocks the event loop until the job has started: the worker could not take the
        interpreter's lock while the loop runs Python.
        """
        result: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        waiting_to_start = threading.Lock()
        waiting_to_start.acquire()
        self._jobs.put(_Job(work, waiting_to_start, result))
        if overlap is not None:
            waiting_to_start.acquire(timeout=_START_SECONDS)
            try:
                overlap()
            except BaseException:
                await asyncio.wait([result])
                raise
        return await result

    def close(self) -> None:
        """End the thread after the jobs that it already has."""
        self._jobs.put(None)

    def _run(self) -> None:
        for job in iter(self._jobs.get, None):
            job.run()


class _Job(NamedTuple):
    work: Callable[[], Any]
    waiting_to_start: threading.Lock
    """Held until the job starts."""
    result: "asyncio.Future[Any]"

    def run(self) -> None:
        self.waiting_to_start.release()
        try:
            result = self.work()
        except StopIteration as exc:
            # A future does not carry it, and whoever waits would wait for ever.
            error = RuntimeError(f"the work raised {exc!r}")
            error.__cause__ = exc
            self._post(self.result.set_exception, error)
        except BaseException as exc:  # noqa: BLE001 - the caller gets it
            self._post(self.result.set_exception, exc)
        else:
            self._post(self.result.set_result, result)

    def _post(self, resolve: Callable[[Any], None], value: object) -> None:
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            self.result.get_loop().call_soon_threadsafe(self._resolve, resolve, value)

    def _resolve(self, resolve: Callable[[Any], None], value: object) -> None:
        if not self.result.done():
            resolve(value)
