"""A thread for work that can block."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TypeAlias

Job: TypeAlias = Callable[[], None]


class WorkerThread:
    """A thread that runs jobs in order. It does not keep a process alive, as a ThreadPoolExecutor does."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def start(self, job: Job) -> None:
        """Run the job after those before it. A job must not raise."""
        self._jobs.put(job)

    def close(self) -> None:
        """End the thread after the jobs that it already has."""
        self._jobs.put(None)

    def _run(self) -> None:
        for job in iter(self._jobs.get, None):
            job()


async def run_up_to(seconds: float, name: str, job: Job) -> bool:
    """Run a job in a thread of its own. Return False if it is not done in time; it is then left alone."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    thread = WorkerThread(name)

    def run() -> None:
        job()
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(done.cancel)

    thread.start(run)
    thread.close()
    return done in (await asyncio.wait([done], timeout=seconds))[0]
