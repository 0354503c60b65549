import asyncio
import threading
from collections.abc import Callable

import pytest

from app.worker_thread import Aside

WITHIN_SECONDS = 20


@pytest.fixture
def aside() -> Aside:
    return Aside("test")


def test_work_is_done_in_the_thread_one_after_the_other(aside: Aside) -> None:
    done: list[tuple[int, str]] = []

    def work(number: int) -> int:
        done.append((number, threading.current_thread().name))
        return number

    async def scenario() -> list[int]:
        return await asyncio.gather(*(aside.run(lambda number=number: work(number)) for number in range(5)))  # type: ignore[misc]

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4]
    assert done == [(number, "test") for number in range(5)]
    aside.close()


def test_something_else_is_done_here_while_the_work_waits(aside: Aside) -> None:
    begun, ready = threading.Event(), threading.Event()
    here: list[str] = []

    def work() -> bool:
        begun.set()
        return ready.wait(WITHIN_SECONDS)

    def meanwhile() -> None:
        assert begun.wait(WITHIN_SECONDS)
        here.append(threading.current_thread().name)
        ready.set()

    assert asyncio.run(aside.run(work, meanwhile))
    assert here == [threading.current_thread().name]
    aside.close()


def test_a_thread_that_is_late_is_not_waited_for(aside: Aside) -> None:
    late, ready = threading.Event(), threading.Event()

    async def scenario() -> bool:
        before = asyncio.create_task(aside.run(lambda: late.wait(WITHIN_SECONDS)))
        await asyncio.sleep(0)
        after = asyncio.create_task(aside.run(ready.is_set, ready.set))
        await asyncio.sleep(0)
        assert ready.is_set()
        late.set()
        return await before and await after

    assert asyncio.run(scenario())
    aside.close()


def failing() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("work", "meanwhile"),
    [(failing, None), (failing, lambda: None), (lambda: None, failing)],
    ids=["the-work", "the-work-beside-something", "what-is-beside-it"],
)
def test_what_is_raised_is_told(
    aside: Aside, work: Callable[[], None], meanwhile: Callable[[], None] | None
) -> None:
    with pytest.raises(ZeroDivisionError):
        asyncio.run(aside.run(work, meanwhile))
    aside.close()


def test_work_comes_to_its_end_whatever_is_raised_beside_it(aside: Aside) -> None:
    done = threading.Event()

    with pytest.raises(ZeroDivisionError):
        asyncio.run(aside.run(done.set, failing))
    assert done.is_set()
    aside.close()
