"""What people, probes and Prometheus ask for: metrics, health and readiness."""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from app.metrics import Metrics
from app.web.problems import as_response, problem


class Condition(Protocol):
    """How the exporter is."""

    def ailing(self) -> str | None:
        """Why only a restart would help; None while it does its work."""
        ...

    def missing(self) -> Sequence[str]:
        """What is still missing before every interruption can be attributed at once."""
        ...


def add_health(app: FastAPI, condition: Condition) -> None:
    """`/healthz` for probes and load balancers, `/readyz` for people, `check` and alerts."""

    @app.get("/healthz", summary="Whether the exporter does its work", responses=_STATES)
    async def healthz() -> Response:
        return _state((ailing,) if (ailing := condition.ailing()) else (), "unhealthy")

    @app.get("/readyz", summary="Whether every interruption can be attributed at once", responses=_STATES)
    async def readyz() -> Response:
        return _state(condition.missing(), "not_ready")


def add_metrics(app: FastAPI, metrics: Metrics, path: str) -> None:
    """The exposition. It is no part of the described API."""

    @app.get(path, include_in_schema=False)
    async def exposition(request: Request) -> Response:
        # Rendering takes tens of milliseconds for thousands of series: not in the event loop.
        body, content_type = await asyncio.to_thread(metrics.render, request.headers.get("accept", ""))
        return Response(body, media_type=content_type)


_STATES: Final[dict[int | str, dict[str, object]]] = {
    200: {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/State"}}}},
    503: {"content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}},
}


def _state(wrong: Sequence[str], reason: str) -> Response:
    if not wrong:
        return JSONResponse({"status": "ok"})
    return as_response(problem(HTTPStatus.SERVICE_UNAVAILABLE, reason, "; ".join(wrong)))
