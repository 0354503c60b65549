"""The listeners: which application is served on which port, and how the process stops."""

import asyncio
import gc
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Final

import uvicorn
import uvloop

from app import VERSION
from app.errors import StartError
from app.exporter import Exporter
from app.main import create_app, create_ops_app
from app.settings import Settings
from app.store import url_without_secrets
from app.web.application import Application
from app.web.protocol import protocol_for

_SHUTDOWN_SECONDS: Final = 8
"""For requests that are still under way when everything else has stopped."""
_BACKLOG: Final = 2048
_SWITCH_SECONDS: Final = 0.0005
_GARBAGE_THRESHOLD: Final = 20_000

_log = logging.getLogger(__name__)


def serve(settings: Settings, path: Path | None, *, reset_totals: bool = False) -> None:
    """Run the exporter until SIGTERM or SIGINT. Raises StartError, also if it has to give up later.

    `path` is the file that the settings were read from, for the log. The caller blocks SIGHUP.
    """
    _tune()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, path, reset_totals=reset_totals))


def _tune() -> None:
    """Fit the interpreter to many short-lived objects and one thread that must answer soon."""
    # A scrape is rendered in another thread: this limits how long it keeps the interpreter's lock.
    sys.setswitchinterval(_SWITCH_SECONDS)
    # Every batch holds thousands of objects, hardly any in a cycle; the modules' need not be looked at again,
    # once what their making has left is gone.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_THRESHOLD)


async def _serve(settings: Settings, path: Path | None, *, reset_totals: bool) -> None:
    # Opening the store can take its time, and a signal meanwhile need not wait: it ends the process.
    app = create_app(settings, reset_totals=reset_totals)
    exporter: Exporter = app.state.exporter
    with stop_signals() as stops, _hang_ups_logged():
        async with exporter.running(), listening(settings, app) as listeners:
            _log_start(settings, path, listeners)
            gave_up = await _until_asked(exporter, stops, listeners)
    if gave_up:
        raise StartError(gave_up)
    _log.info("stopped")


def _log_start(settings: Settings, path: Path | None, listeners: "Listeners") -> None:
    host = f"[{settings.server.host}]" if ":" in settings.server.host else settings.server.host
    _log.info(
        "started",
        extra={
            "version": VERSION,
            "configuration_file": None if path is None else str(path),
            "store": url_without_secrets(settings.store.url),
            "projects": settings.project_ids,
            "authentication": settings.pubsub.authentication,
            "delivery": "push",
            "listener": f"{host}:{listeners.ports[0]}",
            "metrics_listener": f"{host}:{listeners.ports[-1]}",
        },
    )


@dataclass(frozen=True, slots=True)
class Listeners:
    """What is being served."""

    ports: Sequence[int]
    """The main listener's, and the metrics listener's where it is another."""
    tasks: "Sequence[asyncio.Task[None]]"


@asynccontextmanager
async def listening(settings: Settings, app: Application, *, advice: str = "") -> AsyncIterator["Listeners"]:
    """Serve the application, and its metrics where they have a port of their own.

    Raises StartError if a port cannot be used; its message ends with the `advice`.
    """
    servers = [_Server(settings, settings.server.port, app, advice)]
    if not settings.one_listener:
        servers.append(_Server(settings, settings.metrics_port, create_ops_app(app.state.exporter), advice))
    running = [asyncio.create_task(server.serve(sockets=[server.socket])) for server in servers]
    try:
        yield Listeners([server.port for server in servers], running)
    finally:
        for server in servers:
            server.should_exit = True
        await asyncio.wait(running)


async def _until_asked(exporter: Exporter, stops: "asyncio.Queue[int]", listeners: "Listeners") -> str | None:
    """Wait for a signal and wind down; or for a reason to give up, and tell it."""
    asked = asyncio.create_task(stops.get())
    broken = asyncio.create_task(exporter.broken())
    await asyncio.wait([asked, broken, *listeners.tasks], return_when=asyncio.FIRST_COMPLETED)
    if asked.done():
        await _wind_down(exporter, stops)
    asked.cancel()
    broken.cancel()
    if broken.done():
        return broken.result()
    return None if asked.done() else "a listener has ended"


async def _wind_down(exporter: Exporter, stops: "asyncio.Queue[int]") -> None:
    """Take pushes for a while, then only scrapes; another signal cuts either short."""
    _log.info("stopping")
    exporter.stopping = True
    await _at_most(exporter.settings.server.drain_seconds, stops.get())
    exporter.gate.closed = True
    exporter.metrics.hasten()
    await _at_most(exporter.settings.prometheus.linger_seconds, stops.get())


async def _at_most(seconds: float, something: Awaitable[int]) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(something, seconds)


@contextmanager
def stop_signals(*others: signal.Signals) -> Iterator["asyncio.Queue[int]"]:
    """Queue SIGTERM, SIGINT and the `others` as they come; before and after, they do what they did."""
    loop = asyncio.get_running_loop()
    stops: asyncio.Queue[int] = asyncio.Queue()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, *others)}
    for number in before:
        loop.add_signal_handler(number, stops.put_nowait, number)
    try:
        yield stops
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextmanager
def _hang_ups_logged() -> Iterator[None]:
    """Log a WARNING for each SIGHUP, also for one that came earlier. SIGHUP is blocked before and after."""
    loop = asyncio.get_running_loop()
    text = "SIGHUP is ignored: the configuration is read at start; restart to apply it"
    loop.add_signal_handler(signal.SIGHUP, _log.warning, text)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        loop.remove_signal_handler(signal.SIGHUP)


class _Server(uvicorn.Server):
    """One listener; signals and the lifespan are handled once, for all of them."""

    def __init__(self, settings: Settings, port: int, app: Application, advice: str) -> None:
        self.socket = _listen(settings.server.host, port, advice)
        self.port: int = self.socket.getsockname()[1]
        super().__init__(
            uvicorn.Config(
                app,
                workers=1,  # whatever $WEB_CONCURRENCY says
                http=protocol_for(app.take),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=settings.server.keep_alive_seconds,
                timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            )
        )

    def capture_signals(self) -> nullcontext[None]:  # type: ignore[override]
        return nullcontext()


def _listen(host: str, port: int, advice: str) -> socket.socket:
    """Return a listening socket; on every address of IPv6 it takes IPv4 too. Raises StartError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server(
            (host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=_is_dual_stack(host)
        )
    except OSError as exc:
        # The library repeats the address behind the reason, in parentheses.
        reason = (exc.strerror or str(exc)).partition(" (")[0]
        raise StartError(f"cannot listen on {host} port {port}: {reason}{advice}") from exc


def _is_dual_stack(host: str) -> bool:
    """Return whether the host is `::`, however it is spelled, and the kernel can take IPv4 on it."""
    try:
        return ":" in host and ip_address(host).is_unspecified and socket.has_dualstack_ipv6()
    except ValueError:  # not an address
        return False
