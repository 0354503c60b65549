"""The turns of the projects: one child process at a time reads their instances or operations."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import assert_never

from app.errors import InventoryUnavailableError
from app.gcp.listing import Lines, Part, Progress, Summary


@dataclass(slots=True, eq=False, kw_only=True)
class Participant:
    """A project that is read regularly."""

    id: str
    secondary: bool = False
    """Its readings wait for every listing."""
    failed: bool = False
    """Its last reading failed."""
    postponed: bool = False
    """Its last reading was ended in favour of another project."""


class Turns:
    """Lets one project be read at a time: listings first, and projects whose last reading did not fail.

    One at a time, because the memory of a child counts towards the exporter's limit. Most of its second is
    processor time, so two at a time would not finish many projects sooner.

    While a listing waits whose project did not fail last time, the current reading is postponed if it returns
    no new page for its share of `page_seconds`.
    """

    def __init__(self, page_seconds: float) -> None:
        """`page_seconds`: the time after which a page counts as failed; the projects share it."""
        self._page_seconds = page_seconds
        self._silence_seconds = page_seconds
        self._free = asyncio.Condition()
        self._taken = False
        self._waiting: list[Participant] = []
        self._limit: asyncio.Timeout | None = None
        self._page_at = 0.0
        self._retrying: str | None = None

    def share_among(self, projects: int) -> None:
        """Share the time in which a project may be silent among this number of projects."""
        self._silence_seconds = self._page_seconds / max(projects, 1)

    @asynccontextmanager
    async def turn(self, project: Participant) -> AsyncGenerator[None, None]:
        """Wait for the project's turn, which lasts for the block."""
        async with self._free:
            self._waiting.append(project)
            try:
                self._limit_silence()
                await self._free.wait_for(lambda: not self._taken and self._next() is project)
            finally:
                self._waiting.remove(project)
                self._free.notify_all()  # if it was cancelled when its turn had come, another is next
            self._taken = True
        project.postponed, self._retrying = False, None
        self._page_at = asyncio.get_running_loop().time()
        try:
            yield
        finally:
            self._taken = False
            async with self._free:
                self._free.notify_all()

    async def read(
        self,
        reading: AsyncGenerator[Part, None],
        project: Participant,
        record: Callable[[Sequence[bytes]], Awaitable[None]],
        report: Callable[[Progress], None] = lambda _: None,
    ) -> Summary:
        """Record the lines of a project's reading, report its progress, and return its summary.

        Raises what `record` raises, and InventoryUnavailableError if the reading fails or is postponed.
        """
        async with aclosing(reading) as parts:
            while part := await self._next_part(parts, project):
                match part:
                    case Lines():
                        await record(part.lines)
                    case Progress():
                        report(part)
                    case Summary():
                        summary = part
                    case _:
                        assert_never(part)
        return summary

    async def _next_part(self, parts: AsyncGenerator[Part, None], project: Participant) -> Part | None:
        """Return the reading's next part; None after the last."""
        loop = asyncio.get_running_loop()
        if self._retrying is None:
            self._page_at = loop.time()  # recording the last part may have waited for the store
        try:
            async with asyncio.timeout(None) as self._limit:
                self._limit_silence()
                part = await anext(parts, None)
        except TimeoutError:
            project.postponed = True
            raise InventoryUnavailableError(
                self._retrying or "unavailable",
                f"project {project.id} delivered no page for {self._silence_seconds:g} s while others waited;"
                " the exporter reads it after them",
            ) from None
        finally:
            self._limit = None
        self._retrying = part.retrying if isinstance(part, Progress) else None
        return part

    def _next(self) -> Participant:
        return min(self._waiting, key=lambda project: (project.secondary, project.failed))

    def _limit_silence(self) -> None:
        if self._limit is not None and not self._limit.expired():
            others_wait = any(not (project.failed or project.secondary) for project in self._waiting)
            self._limit.reschedule(self._page_at + self._silence_seconds if others_wait else None)
