"""An event that is recorded by a recorder, as something to await."""

import asyncio
from functools import partial

from app.domain.events import Event
from app.domain.outcomes import Outcome
from app.recorder import Recorder, Result


async def record(recorder: Recorder, event: Event) -> Outcome:
    """Submit an event, and return its outcome or raise its error."""
    answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    recorder.submit(event, partial(_resolve, answer))
    return await answer


def _resolve(answer: "asyncio.Future[Outcome]", result: Result) -> None:
    if answer.done():  # cancelled
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)
