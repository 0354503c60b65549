"""A task for each project, for a set of projects that can change."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Generic, TypeVar

from app.turns import Participant

_JITTER: Final = 0.1

_P = TypeVar("_P", bound=Participant)


def jittered(seconds: float) -> float:
    """Return the seconds, a little more or less each time, so that the projects do not keep step."""
    return seconds * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no secret


class ProjectTasks(Generic[_P]):
    """Runs the same endless work for each project, and cancels it for a project that is dropped."""

    def __init__(self, work: Callable[[_P], Coroutine[Any, Any, None]]) -> None:
        self._work = work
        self._projects: Sequence[_P] = ()
        self._changed = asyncio.Event()

    def replace(self, projects: Iterable[_P]) -> None:
        """Work for these projects from now on."""
        self._projects = tuple(projects)
        self._changed.set()

    async def run(self) -> None:
        """Run the tasks until cancelled, or until one of them fails."""
        running: dict[_P, asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                for project in [project for project in running if project not in self._projects]:
                    running.pop(project).cancel()
                for project in self._projects:
                    if project not in running:
                        running[project] = group.create_task(self._work(project))
                await self._changed.wait()
