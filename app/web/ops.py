"""What people, probes and Prometheus ask for: metrics, health, readiness and the landing page."""

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from jinja2 import Environment, PackageLoader

from app import VERSION
from app.metrics import Metrics
from app.web.problems import as_response, problem

_TEMPLATES: Final = Environment(loader=PackageLoader("app.web"), autoescape=True)
_PAGE_HEADERS: Final = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
}


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
    """The exposition, and the landing page that leads to it. They are no part of the described API."""

    @app.get(path, include_in_schema=False)
    async def exposition(request: Request) -> Response:
        # Rendering takes tens of milliseconds for thousands of series: not in the event loop.
        body, content_type = await asyncio.to_thread(metrics.render, request.headers.get("accept", ""))
        return Response(body, media_type=content_type)

    @app.get("/", include_in_schema=False)
    async def landing() -> Response:
        links = (
            (path, "The metrics, in Prometheus' text format or as OpenMetrics."),
            ("/healthz", "Whether the exporter does its work."),
            ("/readyz", "Whether every interruption can be attributed at once, or what is missing."),
        )
        page = _TEMPLATES.get_template("landing.html").render(version=VERSION, links=links)
        return Response(page, media_type="text/html; charset=utf-8", headers=_PAGE_HEADERS)


_STATES: Final[dict[int | str, dict[str, object]]] = {
    200: {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/State"}}}},
    503: {"content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}},
}


def _state(wrong: Sequence[str], reason: str) -> Response:
    if not wrong:
        return JSONResponse({"status": "ok"})
    return as_response(problem(HTTPStatus.SERVICE_UNAVAILABLE, reason, "; ".join(wrong)))
