"""A task for each project of a set that changes, and the turns of those projects."""

import asyncio
from collections.abc import Callable

from app.project_tasks import ProjectTasks
from app.turns import Participant, Turns

A, B, C = (Participant(id=name) for name in "abc")


async def until(condition: Callable[[], bool]) -> None:
    """Let the other tasks run until the condition is true; a test that hangs has a timeout."""
    while not condition():  # noqa: ASYNC110 - nothing sets an event
        await asyncio.sleep(0)


def test_each_project_has_one_task_as_long_as_it_is_in_the_set() -> None:
    running: list[str] = []

    async def work(project: Participant) -> None:
        running.append(project.id)
        try:
            await asyncio.Event().wait()
        finally:
            running.remove(project.id)

    async def main() -> None:
        tasks = ProjectTasks(work)
        tasks.replace([A, B])
        task = asyncio.create_task(tasks.run())
        await until(lambda: running == ["a", "b"])
        tasks.replace([B, C])
        await until(lambda: running == ["b", "c"])
        tasks.replace([])
        await until(lambda: not running)
        tasks.replace([A])
        await until(lambda: running == ["a"])
        task.cancel()
        await asyncio.wait([task])
        assert running == []

    asyncio.run(main())


def test_a_project_that_is_dropped_when_its_turn_comes_does_not_stop_the_others() -> None:
    turns, end, order = Turns(60.0), asyncio.Event(), list[str]()
    failed = Participant(id="failed", failed=True)

    async def take(project: Participant) -> None:
        async with turns.turn(project):
            order.append(project.id)

    async def main() -> None:
        async def take_first() -> None:
            async with turns.turn(A):
                await end.wait()
            dropped.cancel()  # B is next, and does not know it yet

        first = asyncio.create_task(take_first())
        await asyncio.sleep(0)
        last, dropped = asyncio.create_task(take(failed)), asyncio.create_task(take(B))
        await asyncio.sleep(0)
        end.set()
        await asyncio.wait([first, dropped, last], timeout=60)

    asyncio.run(main())
    assert order == ["failed"]
