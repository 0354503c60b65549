import threading

from app.worker_thread import WorkerThread
from tests.support.process import eventually


def test_jobs_run_in_the_thread_in_order() -> None:
    worker = WorkerThread("test")
    done: list[tuple[int, str]] = []

    for number in range(5):
        worker.start(lambda number=number: done.append((number, threading.current_thread().name)))  # type: ignore[misc]

    eventually(lambda: len(done) == 5, within=20, what="all jobs")
    assert done == [(number, "test") for number in range(5)]
    worker.close()


def test_the_thread_ends_after_the_jobs_that_it_has() -> None:
    worker = WorkerThread("short-lived")
    free, ended = threading.Event(), threading.Event()

    def wait() -> None:
        free.wait(20)

    worker.start(wait)
    worker.start(ended.set)

    worker.close()
    assert not ended.is_set()
    free.set()

    assert ended.wait(20)
    eventually(
        lambda: all(thread.name != "short-lived" for thread in threading.enumerate()),
        within=20,
        what="the end of the thread",
    )
