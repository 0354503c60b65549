"""The FastAPI application, in which the push endpoints bypass FastAPI's layers."""

from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Lifespan, Message, Receive, Scope, Send

from app import VERSION
from app.errors import InternalError
from app.web.problems import as_response, problem, problem_of
from app.web.protocol import Headers, Reply
from app.web.push import PushEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable


class Application(FastAPI):
    """FastAPI, but for the pushes: its layers a request would cost more than all that is done with one."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - FastAPI's own
        """`options` are FastAPI's."""
        self._pushes: dict[str, PushEndpoint] = {}
        self.is_stopping: Callable[[], bool] = lambda: False
        """While that is so, each connection is closed with its next answer: its balancer finds another."""
        super().__init__(**options)

    def add_push(self, path: str, push: PushEndpoint) -> None:
        """Have the endpoint answer POST at the path; the router only refuses the other methods."""
        self._pushes[path] = push
        self.router.routes.append(Route(path, push, methods=["POST"]))

    def take(self, path: bytes, headers: Headers, body: bytes, reply: Reply) -> bool:
        """Take a POST that has come whole, if it is a push as they usually are; see `PushEndpoint.take`."""
        push = self._pushes.get(path.decode("latin-1"))
        return push is not None and not self.is_stopping() and push.take(headers, body, reply)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if self.is_stopping():
            send = partial(_send_last, send)
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._pushes:
            await self._pushes[scope["path"]](scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


async def _send_last(send: Send, message: Message) -> None:
    """Send what closes the connection behind it. One that was kept would be reset under a request, later."""
    if message["type"] == "http.response.start":
        others = [header for header in message["headers"] if header[0] != b"connection"]
        message = {**message, "headers": [*others, (b"connection", b"close")]}
    await send(message)


def make_application(
    lifespan: Lifespan[FastAPI] | None = None, *, openapi_url: str | None = "/openapi.json"
) -> Application:
    """Return an application without routes, which answers errors with problem documents."""
    app = Application(
        title="spot-interruption-exporter",
        version=VERSION,
        lifespan=lifespan,
        openapi_url=openapi_url,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(HTTPException, _http_problem)
    app.add_exception_handler(Exception, _bug)
    return app


async def _http_problem(_request: Request, exc: Exception) -> Response:
    """Say in a problem document what the router refuses: another path, another method."""
    assert isinstance(exc, HTTPException)  # noqa: S101 - FastAPI hands over what it was registered for
    status = HTTPStatus(exc.status_code)
    reason = status.phrase.lower().replace(" ", "_")
    return as_response(problem(status, reason, str(exc.detail).lower(), exc.headers))


async def _bug(_request: Request, _exc: Exception) -> Response:
    return as_response(problem_of(InternalError("a bug; the log has the trace")))
