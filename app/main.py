"""The composition root: what is made of which setting, and what lives as long as the application."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Lifespan, Message, Receive, Scope, Send

from app import VERSION
from app.chores import Chores
from app.domain.attribution import Rules
from app.errors import InternalError
from app.gcp.client import make_client
from app.gcp.listing import FAILURES, PAGE_SECONDS
from app.gcp.oidc import Verifier
from app.inventory import SHORTEST_PAUSE_SECONDS, Inventory
from app.metrics import ENDPOINTS, Endpoint, Metrics
from app.protocol import Headers, Reply
from app.recorder import PATIENCE_SECONDS, Recorder
from app.settings import Settings
from app.store.opening import open_store
from app.store.port import OpenedStore
from app.web.body import BodyReader
from app.web.interruptions import add_interruptions
from app.web.openapi import describe
from app.web.ops import add_health, add_metrics
from app.web.page import StatusPage, add_page
from app.web.problems import as_response, leaves, problem, problem_of
from app.web.push import Gate, PushEndpoint

if TYPE_CHECKING:
    from httpx import AsyncClient

_DAY: Final = 86400.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What nobody configures, and a test may change: the disk, the clock, how long things take."""

    open_store: Callable[..., OpenedStore] = open_store
    clock: Callable[[], float] = time.time
    patience_seconds: float = PATIENCE_SECONDS
    shortest_pause_seconds: float = SHORTEST_PAUSE_SECONDS
    page_seconds: float = PAGE_SECONDS


_REAL: Final = Surroundings()


class Exporter:
    """Everything that runs, wired; and how it is."""

    def __init__(
        self, settings: Settings, *, reset_totals: bool = False, surroundings: Surroundings = _REAL
    ) -> None:
        """Open the store. Raises StartError."""
        self.settings = settings
        self.client = self._make_client()
        self.clock = surroundings.clock
        self.metrics = Metrics(
            cluster_label=settings.prometheus.cluster_label,
            hold_seconds=settings.prometheus.hold_seconds,
            reasons=[leaf.reason for leaf in leaves()],
            projects=_projects(settings),
            listing_failures=FAILURES,
            clock=surroundings.clock,
        )
        opened = surroundings.open_store(
            settings.store.url,
            Rules(
                grace_seconds=settings.attribution.grace_seconds,
                retention_seconds=settings.store.retention_days * _DAY,
                max_label_sets=settings.prometheus.max_label_sets,
            ),
            replica=settings.store.replica,
            hold=settings.prometheus.hold_seconds > 0,
            reset_totals=reset_totals,
        )
        if reset_totals:
            _log.warning(
                "--reset-totals: this exporter's counters start at 0, everything else is kept;"
                " remove the option, because every start with it resets them"
            )
        if opened.moved_aside_to is not None:
            _log.error(
                "the store was damaged; it was moved aside, and a new one begun",
                extra={"moved_to": str(opened.moved_aside_to)},
            )
            self.metrics.reset()
        for warning in opened.warnings:
            _log.warning("what is counted may not last", extra={"why": warning})
        self.store = opened.store
        self.ledger = opened.ledger
        self._sync = opened.sync
        self.recorder = Recorder(
            self.store,
            self.metrics,
            patience_seconds=surroundings.patience_seconds,
            clock=surroundings.clock,
        )
        self.verifier = self._make_verifier()
        self.gate = Gate()
        self.stopping = False
        state = self.store.state()
        self.metrics.restore(state)
        self.inventory = Inventory(
            _projects(settings),
            self.recorder,
            self.metrics,
            remembered=state.listed,
            interval_seconds=settings.inventory.interval_seconds,
            endpoint=settings.inventory.endpoint,
            shortest_pause_seconds=surroundings.shortest_pause_seconds,
            page_seconds=surroundings.page_seconds,
            clock=surroundings.clock,
        )
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    def _make_client(self) -> "AsyncClient | None":
        pubsub = self.settings.pubsub
        return None if pubsub.authentication == "none" else make_client(pubsub.certs_url)

    def _make_verifier(self) -> Verifier | None:
        pubsub = self.settings.pubsub
        if self.client is None:
            return None
        return Verifier(
            self.client,
            certs_url=pubsub.certs_url,
            audiences=pubsub.audience,
            accounts=pubsub.service_account_email,
            clock_skew_seconds=pubsub.clock_skew_seconds,
        )

    def ailing(self) -> str | None:
        """Why only a restart would help; None while the writer and the periodic work live."""
        ended = [task.get_name() for task in self._tasks if task.done()]
        return None if self._tasks and not ended else f"not running: {', '.join(ended) or 'the writer'}"

    def missing(self) -> Sequence[str]:
        """What is missing before every interruption can be attributed at once."""
        return ["the exporter is stopping"] if self.stopping else self.inventory.missing()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write and do the periodic work; at the end, commit everything accepted and close the store."""
        writer = asyncio.create_task(self.recorder.run(), name="writer")
        chores = Chores(self.recorder, self.metrics, sync=self._sync, tell=self.inventory.hear)
        periodic = [
            asyncio.create_task(chores.run(), name="periodic work"),
            asyncio.create_task(self.inventory.run(), name="inventory"),
        ]
        self._tasks = (writer, *periodic)
        try:
            yield
        finally:
            for task in periodic:
                task.cancel()
            await asyncio.wait(periodic)
            self.recorder.close()
            await asyncio.wait([writer])
            if self.verifier is not None:
                await self.verifier.aclose()
            if self.client is not None:
                await self.client.aclose()
            self.store.close()

    async def broken(self) -> str:
        """Wait until nothing but a restart helps, and say why."""
        lost = asyncio.create_task(self.recorder.lost.wait())
        await asyncio.wait([lost, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        lost.cancel()
        return self.recorder.lost_by or str(self.ailing())


def _projects(settings: Settings) -> Sequence[str]:
    return settings.project_ids if settings.inventory.enabled else ()


def create_app(
    settings: Settings, *, reset_totals: bool = False, surroundings: Surroundings = _REAL
) -> "Application":
    """The main application, which an ingress reaches; its lifespan runs the exporter. Raises StartError.

    With one listener it serves the metrics too; with two, `create_ops_app` makes the other's.
    """
    exporter = Exporter(settings, reset_totals=reset_totals, surroundings=surroundings)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with exporter.running():
            yield

    app = _application(lifespan)
    app.state.exporter = exporter
    app.is_stopping = lambda: exporter.stopping
    for endpoint in ENDPOINTS:
        app.add_push(f"/events/{endpoint}", _push(exporter, endpoint))
    add_health(app, exporter)
    if settings.one_listener:
        _add_ops(app, exporter)
    describe(app, authenticated=exporter.verifier is not None)
    return app


def create_ops_app(exporter: Exporter) -> "Application":
    """The metrics listener's application, where it has a port of its own."""
    app = _application(openapi_url=None)
    add_health(app, exporter)
    _add_ops(app, exporter)
    return app


def _add_ops(app: FastAPI, exporter: Exporter) -> None:
    add_metrics(app, exporter.metrics, exporter.settings.prometheus.path)
    add_interruptions(app, exporter.ledger)
    add_page(
        app,
        StatusPage(
            condition=exporter,
            metrics=exporter.metrics,
            ledger=exporter.ledger,
            clock=exporter.clock,
            metrics_path=exporter.settings.prometheus.path,
            listing_interval_seconds=exporter.settings.inventory.interval_seconds,
        ),
    )


def _push(exporter: Exporter, endpoint: Endpoint) -> PushEndpoint:
    pubsub = exporter.settings.pubsub
    subscriptions: Mapping[Endpoint, str] = {
        "creation": pubsub.instance_creation_subscription_name,
        "interruption": pubsub.instance_interruption_subscription_name,
    }
    return PushEndpoint(
        endpoint=endpoint,
        subscription=subscriptions[endpoint],
        authenticator=exporter.verifier,
        recorder=exporter.recorder,
        pushes=exporter.metrics.pushes[endpoint],
        gate=exporter.gate,
        ask=exporter.inventory.ask,
        bodies=BodyReader(exporter.settings.server.max_body_bytes),
        clock=exporter.clock,
    )


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


def _application(
    lifespan: Lifespan[FastAPI] | None = None, *, openapi_url: str | None = "/openapi.json"
) -> Application:
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
