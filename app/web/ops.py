"""The endpoints for metrics, health and readiness."""

import asyncio
import gzip
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from app.exposition import preferred_format
from app.metrics import Metrics
from app.negotiation import accepts_gzip
from app.web.problems import as_response, problem
from app.web.waiting import WaitingLimit

IS_HEAD: Final = "is_head"
"""The key of a scope whose method was HEAD before the application made it GET."""
_GZIP_LEVEL: Final = 1
"""For 50,000 series, 10 MB: level 1 gives 422 kB in 17 ms of processor time, level 6 337 kB in 41 ms."""


class Condition(Protocol):
    """The health and the readiness of the exporter."""

    def unhealthy_reason(self) -> str | None:
        """Return the reason for which a restart is needed, or None."""
        ...

    def not_ready_reasons(self) -> Sequence[str]:
        """Return the reasons for which some interruptions cannot be attributed at once."""
        ...


def add_health(app: FastAPI, condition: Condition) -> None:
    """Add `/healthz` for probes and load balancers, and `/readyz` for people and alerts."""

    @app.get("/healthz", summary="Liveness: 200 while the exporter works", responses=_STATES)
    async def healthz() -> Response:
        reason = condition.unhealthy_reason()
        return _state((reason,) if reason else (), "unhealthy")

    @app.get(
        "/readyz", summary="Readiness: 200 if interruptions can be attributed at once", responses=_STATES
    )
    async def readyz() -> Response:
        return _state(condition.not_ready_reasons(), "not_ready")


def add_metrics(app: FastAPI, metrics: Metrics, path: str) -> None:
    """Add the exposition. It is not part of the described API."""
    scrapes = Scrapes(metrics)

    @app.get(path, include_in_schema=False)
    async def exposition(request: Request) -> Response:
        accept = _header(request, "accept")
        compressed = accepts_gzip(_header(request, "accept-encoding"))
        headers = {"vary": "Accept, Accept-Encoding", **({"content-encoding": "gzip"} if compressed else {})}
        if IS_HEAD in request.scope:
            # Its caller sees no sample. A rendering would begin the hold of new series, as a scrape does.
            head = Response(media_type=preferred_format(accept).content_type, headers=headers)
            del head.headers["content-length"]  # only a rendering would give it
            return head
        body, content_type = await scrapes.answer(accept, compressed=compressed)
        return Response(body, media_type=content_type, headers=headers)


class Scrapes:
    """Renders for one scrape at a time. Scrapes that arrive meanwhile share the next rendering."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._turn = asyncio.Lock()
        self._limit = WaitingLimit()
        self._waiting: dict[tuple[str, bool], asyncio.Task[tuple[bytes, str]]] = {}
        """The renderings that have not begun, by content type and compression."""

    async def answer(self, accept: str, *, compressed: bool) -> tuple[bytes, str]:
        """Return the body and its content type. Raises OverloadError."""
        # Not by the header: callers who send many different headers would each get a rendering.
        key = (preferred_format(accept).content_type, compressed)
        with self._limit.place():
            if key not in self._waiting:
                self._waiting[key] = asyncio.create_task(self._render(key, accept))
            return await asyncio.shield(self._waiting[key])

    async def _render(self, key: tuple[str, bool], accept: str) -> tuple[bytes, str]:
        async with self._turn:
            del self._waiting[key]
            # Rendering thousands of series would hold up the event loop.
            return await asyncio.to_thread(self._rendered, accept, key[1])

    def _rendered(self, accept: str, compressed: bool) -> tuple[bytes, str]:  # noqa: FBT001 - called by position
        body, content_type = self._metrics.render(accept)
        return gzip.compress(body, _GZIP_LEVEL, mtime=0) if compressed else body, content_type


def _header(request: Request, name: str) -> str:
    """Return the header's list, which may be spread over several fields."""
    return ",".join(request.headers.getlist(name))


_STATES: Final[dict[int | str, dict[str, object]]] = {
    200: {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/State"}}}},
    503: {"content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}},
}


def _state(wrong: Sequence[str], reason: str) -> Response:
    if not wrong:
        return JSONResponse({"status": "ok"})
    return as_response(problem(HTTPStatus.SERVICE_UNAVAILABLE, reason, "; ".join(wrong)))
