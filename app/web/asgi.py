"""A push endpoint as an ASGI application: the way of a push that the server's protocol does not handle.

That is a push whose URL is not written as usual, or one to an application without that protocol.
"""

import asyncio
from dataclasses import dataclass
from functools import partial

from starlette.types import Receive, Scope, Send

from app.errors import BodyTimeoutError, BodyTooLargeError, StoppingError
from app.web.answers import Answer, Headers
from app.web.body import CallerGoneError, read_body
from app.web.push import PushEndpoint
from app.web.push_request import BODY_SECONDS


@dataclass(frozen=True, slots=True)
class PushApplication:
    """An ASGI application around an endpoint."""

    endpoint: PushEndpoint
    body_seconds: float = BODY_SECONDS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one POST."""
        try:
            answer = await self._answer(scope["headers"], receive)
        except CallerGoneError:
            return
        except (BodyTimeoutError, BodyTooLargeError) as exc:
            answer = self.endpoint.refuse(exc)
        except asyncio.CancelledError:  # the server stops, and ends the requests in progress
            answer = self.endpoint.refuse(StoppingError("the exporter has stopped"))
        headers = [*answer.headers, (b"content-length", b"%d" % len(answer.body))]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, headers: Headers, receive: Receive) -> Answer:
        if not self.endpoint.admits(headers):
            refusal = await self.endpoint.authenticate(headers)
            if refusal is not None:
                return refusal
        body = await read_body(receive, self.endpoint.max_body_bytes, self.body_seconds)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.endpoint.receive(headers, body, partial(_resolve, answer))
        return await answer


def _resolve(future: "asyncio.Future[Answer]", answer: Answer) -> None:
    if not future.done():  # cancelled a moment ago
        future.set_result(answer)
