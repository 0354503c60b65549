"""The FastAPI application: routes, problem documents, and the end of each connection while it stops."""

from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from app import VERSION
from app.errors import InternalError, UnavailableError
from app.metrics import ENDPOINTS
from app.web.asgi import route_of
from app.web.ops import IS_HEAD
from app.web.problems import as_response, problem, problem_of, reason_of
from app.web.push import PushEndpoint

_ENDPOINT_PATHS: Final = frozenset(f"/events/{endpoint}" for endpoint in ENDPOINTS)
_ALLOW_GET: Final = {"Allow": "GET, HEAD"}
_MAX_DETAIL: Final = 100
_MAX_QUERY_BYTES: Final = 4096
"""FastAPI takes up to 400 ms to read a query of 64 KiB."""


class Application(FastAPI):
    """FastAPI with push endpoints, most of whose requests the server's protocol answers itself.

    FastAPI's layers would cost more than the rest of a push.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - FastAPI's own
        """`options` are those of FastAPI."""
        self.endpoints: dict[str, PushEndpoint] = {}
        """The push endpoints, by path."""
        self.direct_endpoints: Mapping[str, PushEndpoint] = self.endpoints
        """Those that the server's protocol calls, without ASGI."""
        self.is_stopping: Callable[[], bool] = lambda: False
        """While it returns True, each connection is closed after its next answer, so balancers move on."""
        super().__init__(**options)

    def add_push(self, path: str, endpoint: PushEndpoint, **description: Any) -> None:  # noqa: ANN401
        """Send each POST at the path to the endpoint. `description` is for FastAPI's OpenAPI document."""
        self.endpoints[path] = endpoint
        self.add_api_route(path, route_of(endpoint), methods=["POST"], **description)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if self.is_stopping():
            send = partial(_send_and_close, send)
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", IS_HEAD: True}  # uvicorn leaves the body out
        if scope["type"] == "http" and scope["method"] == "GET" and _has_long_query(scope):
            await _LONG_QUERY(scope, receive, send)
            return
        await super().__call__(scope, receive, send)


_LONG_QUERY: Final = as_response(
    problem(HTTPStatus.BAD_REQUEST, "bad_request", f"the query is longer than {_MAX_QUERY_BYTES} bytes")
)


def _has_long_query(scope: Scope) -> bool:
    return len(scope["query_string"]) > _MAX_QUERY_BYTES


async def _send_and_close(send: Send, message: Message) -> None:
    """Send an answer that closes its connection. If kept, it could be reset during its next request."""
    if message["type"] == "http.response.start":
        others = [header for header in message["headers"] if header[0] != b"connection"]
        message = {**message, "headers": [*others, (b"connection", b"close")]}
    await send(message)


def make_application(
    on_elsewhere: Callable[[str, str], None], *, openapi_url: str | None = "/openapi.json"
) -> Application:
    """Return an application without routes, which answers errors with problem documents.

    `on_elsewhere` is called with the reason and the path of a push that reached no endpoint.
    """
    app = Application(
        title="spot-interruption-exporter",
        version=VERSION,
        openapi_url=openapi_url,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(HTTPException, partial(_http_problem, on_elsewhere))
    app.add_exception_handler(UnavailableError, _unavailable)
    app.add_exception_handler(Exception, _bug)
    return app


def _http_problem(on_elsewhere: Callable[[str, str], None], request: Request, exc: Exception) -> Response:
    """Return a problem document for an unknown path or method, which the router refuses."""
    assert isinstance(exc, HTTPException)  # noqa: S101 - FastAPI calls it for this class only
    status = HTTPStatus(exc.status_code)
    reason = reason_of(status)
    path: str = request.scope["path"]
    is_wrong_method = status is HTTPStatus.METHOD_NOT_ALLOWED
    if request.method == "POST" or (is_wrong_method and path in _ENDPOINT_PATHS):
        # Without the query, which can have a token.
        on_elsewhere(reason, f"{request.method} {quote(path[:_MAX_DETAIL])}"[:_MAX_DETAIL])
    # The router names HEAD, which is answered where GET is, for some routes only, and in any order.
    takes_get = "GET" in (exc.headers or {}).get("Allow", "")
    headers = _ALLOW_GET if takes_get else exc.headers
    return as_response(problem(status, reason, str(exc.detail).lower(), headers))


async def _unavailable(_request: Request, exc: Exception) -> Response:
    assert isinstance(exc, UnavailableError)  # noqa: S101 - FastAPI calls it for this class only
    return as_response(problem_of(exc))


async def _bug(_request: Request, _exc: Exception) -> Response:
    return as_response(problem_of(InternalError("a bug in the exporter; its log has the trace")))
