"""A task for each project, for a set of projects that can change."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Generic, TypeVar

from app.turns import Participant

_P = TypeVar("_P", bound=Participant)


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
