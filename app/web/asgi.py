"""A push endpoint as a route of FastAPI, for pushes that the server's protocol does not handle.

Such a push has a URL in an unusual form, or goes to an application without that protocol.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from fastapi import Request, Response
from starlette.types import Receive

from app.errors import BodyTimeoutError, BodyTooLargeError, StoppingError
from app.web.answers import Answer, Headers
from app.web.body import CALLER_GONE, CallerGoneError, read_body
from app.web.push import PushEndpoint
from app.web.push_request import BODY_SECONDS

_NOBODY: Answer = Answer(400, (), b"")
"""The answer to a caller that has gone."""


def route_of(endpoint: PushEndpoint) -> Callable[[Request], Awaitable[Response]]:
    """Return the function that answers the POST requests of a route."""

    async def push(request: Request) -> Response:
        answer = await answer_push(endpoint, request.headers.raw, request.receive)
        headers = {name.decode(): value.decode() for name, value in answer.headers}
        return Response(answer.body, answer.status, headers)

    return push


async def answer_push(
    endpoint: PushEndpoint, headers: Headers, receive: Receive, body_seconds: float = BODY_SECONDS
) -> Answer:
    """Return the answer to a push. `body_seconds` is the time that its body may take."""
    try:
        if not endpoint.admits(headers):
            refusal = await endpoint.authenticate(headers)
            if refusal is not None:
                return refusal
        body = await read_body(receive, endpoint.max_body_bytes, body_seconds)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        endpoint.receive(headers, body, partial(_resolve, answer))
        return await answer
    except CallerGoneError:
        return _NOBODY
    except (BodyTimeoutError, BodyTooLargeError) as exc:
        return endpoint.refuse(exc)
    except asyncio.CancelledError as exc:  # the server stops, and ends the requests in progress
        if exc.args == (CALLER_GONE,):
            raise
        return endpoint.refuse(StoppingError("the exporter has stopped"))


def _resolve(future: "asyncio.Future[Answer]", answer: Answer) -> None:
    if not future.done():  # cancelled a moment ago
        future.set_result(answer)
