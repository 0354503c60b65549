import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from app.worker_thread import WorkerThread

WITHIN_SECONDS = 20


@pytest.fixture
def worker() -> WorkerThread:
    return WorkerThread("test")


def test_jobs_run_in_the_thread_in_order(worker: WorkerThread) -> None:
    done: list[tuple[int, str]] = []

    def work(number: int) -> int:
        done.append((number, threading.current_thread().name))
        return number

    async def scenario() -> list[int]:
        return await asyncio.gather(*(worker.run(lambda number=number: work(number)) for number in range(5)))  # type: ignore[misc]

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4]
    assert done == [(number, "test") for number in range(5)]
    worker.close()


def test_the_overlap_runs_here_while_the_job_waits(worker: WorkerThread) -> None:
    begun, ready = threading.Event(), threading.Event()
    here: list[str] = []

    def work() -> bool:
        begun.set()
        return ready.wait(WITHIN_SECONDS)

    def overlap() -> None:
        assert begun.wait(WITHIN_SECONDS)
        here.append(threading.current_thread().name)
        ready.set()

    assert asyncio.run(worker.run(work, overlap))
    assert here == [threading.current_thread().name]
    worker.close()


def test_a_job_that_starts_late_does_not_block_the_overlap(worker: WorkerThread) -> None:
    late, ready = threading.Event(), threading.Event()

    async def scenario() -> bool:
        before = asyncio.create_task(worker.run(lambda: late.wait(WITHIN_SECONDS)))
        await asyncio.sleep(0)
        after = asyncio.create_task(worker.run(ready.is_set, ready.set))
        await asyncio.sleep(0)
        assert ready.is_set()
        late.set()
        return await before and await after

    assert asyncio.run(scenario())
    worker.close()


def failing() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("work", "overlap"),
    [(failing, None), (failing, lambda: None), (lambda: None, failing)],
    ids=["job", "job-with-overlap", "overlap"],
)
def test_an_exception_is_raised_to_the_caller(
    worker: WorkerThread, work: Callable[[], None], overlap: Callable[[], None] | None
) -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(worker.run(work, overlap))
    worker.close()


def test_a_job_ends_although_its_overlap_raises(worker: WorkerThread) -> None:
    done = threading.Event()

    with pytest.raises(ZeroDivisionError):
        asyncio.run(worker.run(done.set, failing))
    assert done.is_set()
    worker.close()


def test_an_exception_that_a_future_refuses_arrives_as_another(worker: WorkerThread) -> None:
    nothing: Iterator[int] = iter(())

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(worker.run(lambda: next(nothing)))
    worker.close()
