"""The listeners of the applications, and the stop of the process."""

import asyncio
import gc
import logging
import resource
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
from app.exporter import DEFAULTS, Exporter, Overrides, log_failure
from app.main import create_app, create_ops_app
from app.settings import Settings
from app.store.opening import url_without_secrets
from app.web.application import Application
from app.web.protocol import protocol_for

_BACKLOG: Final = 2048
_TICK_SECONDS: Final = 1.0
_OTHER_FILES: Final = 100
"""Open files that are not connections of a listener: the store, child processes, calls to other services."""
_SWITCH_SECONDS: Final = 0.0005
_GARBAGE_THRESHOLD: Final = 20_000

_log = logging.getLogger(__name__)


def serve(
    settings: Settings, path: Path | None, *, reset_totals: bool = False, overrides: Overrides = DEFAULTS
) -> None:
    """Run the exporter until SIGTERM or SIGINT. Raises StartError, also if it has to give up later.

    `path` is the file that the settings were read from, for the log. The caller blocks SIGHUP, and ends the
    process. The event loop stays open, because closing it waits for a lookup of a name without an answer.
    """
    _tune()
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    runner.run(_serve(settings, path, reset_totals=reset_totals, overrides=overrides))


def _tune() -> None:
    """Fit the interpreter to many short-lived objects and one thread that must answer soon."""
    # A scrape is rendered in another thread: this limits how long it keeps the interpreter's lock.
    sys.setswitchinterval(_SWITCH_SECONDS)
    # A batch holds thousands of objects, and hardly any are in a cycle. The objects of the modules stay: the
    # collector does not look at them again. Their garbage, 0.3 MiB, stays too: to find it takes 30 ms.
    gc.freeze()
    gc.set_threshold(_GARBAGE_THRESHOLD)
    gc.enable()


async def _serve(settings: Settings, path: Path | None, *, reset_totals: bool, overrides: Overrides) -> None:
    # Until the store is open, which can take long, a signal ends the process at once.
    exporter = Exporter(settings, reset_totals=reset_totals, overrides=overrides)
    with stop_signals() as signals, _hang_ups_logged():
        async with exporter.running(), listening(exporter) as listeners:
            _log_start(settings, path, listeners)
            fatal = await _wait_for_stop(exporter, signals, listeners)
    if fatal:
        raise StartError(fatal)
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
            "authentication": settings.pubsub.authentication if settings.pubsub.delivery == "push" else None,
            "delivery": settings.pubsub.delivery,
            "hold_seconds": settings.prometheus.hold_seconds,
            "listener": f"{host}:{listeners.ports[0]}",
            "metrics_listener": f"{host}:{listeners.ports[-1]}",
        },
    )


@dataclass(frozen=True, slots=True)
class Listeners:
    """The listeners that are serving."""

    ports: Sequence[int]
    """The port of the main listener, and that of the metrics listener if it is another."""
    tasks: "Sequence[asyncio.Task[None]]"


@asynccontextmanager
async def listening(exporter: Exporter, *, advice: str = "") -> AsyncIterator["Listeners"]:
    """Serve the exporter's endpoints, and its metrics if they have a port of their own.

    At the end, a request in progress has the exporter's `seconds_left`. Raises StartError if a port cannot be
    used; its message ends with the `advice`, by default with the keys to change.
    """
    settings = exporter.settings
    parts = [("server.port", settings.server.port, create_app)]
    if not settings.one_listener:
        parts.append(("prometheus.port", settings.metrics_port, create_ops_app))
    max_connections = allow_connections(settings.server.max_connections, len(parts))
    servers = [
        _Server(
            settings,
            port,
            make_app(exporter),
            max_connections=max_connections,
            advice=advice or f"change {key} or server.host",
        )
        for key, port, make_app in parts
    ]
    running = [
        asyncio.create_task(server.serve(sockets=[server.socket]), name=f"listener on port {server.port}")
        for server in servers
    ]
    for task in running:
        task.add_done_callback(log_failure)
    try:
        yield Listeners([server.port for server in servers], running)
    finally:
        for server in servers:
            server.stop(exporter.seconds_left())
        await asyncio.wait(running)


def allow_connections(wanted: int, listeners: int) -> int:
    """Return the number of connections that each listener can have, which is the wanted one if possible.

    The limit of open files is often 1,024, but a process may raise it, up to the hard limit. Beyond it a
    server can only reset new connections, and then idle connections of a stranger would shut out all others.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted * listeners + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    allowed = min(wanted, max(soft - _OTHER_FILES, soft // 2) // listeners)
    if allowed < wanted:
        _log.warning(
            "the limit of open files allows fewer connections than server.max_connections; raise the limit",
            extra={"max_connections": allowed, "open_files": soft},
        )
    return allowed


async def _wait_for_stop(
    exporter: Exporter, signals: "asyncio.Queue[int]", listeners: "Listeners"
) -> str | None:
    """Wait for a signal and drain, or for a fatal error, and return that error."""
    signal_came = asyncio.create_task(signals.get())
    fatal = asyncio.create_task(exporter.wait_until_fatal())
    await asyncio.wait([signal_came, fatal, *listeners.tasks], return_when=asyncio.FIRST_COMPLETED)
    if signal_came.done():
        await drain(exporter, signals)
    signal_came.cancel()
    fatal.cancel()
    if fatal.done():
        return fatal.result()
    return None if signal_came.done() else "a listener has failed; the log has its error"


async def drain(exporter: Exporter, signals: "asyncio.Queue[int]") -> None:
    """Accept pushes for some time, then only scrapes. A further signal ends either period."""
    _log.info("stopping")
    exporter.stopping = True
    began = asyncio.get_running_loop().time()
    await exporter.stop_pulling()
    spent = asyncio.get_running_loop().time() - began
    await _wait_up_to(exporter.settings.server.drain_seconds, signals.get())
    exporter.gate.closed = True
    exporter.metrics.shorten_hold()
    await _wait_up_to(exporter.settings.prometheus.linger_seconds, signals.get())
    exporter.begin_end(spent)


async def _wait_up_to(seconds: float, event: Awaitable[object]) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(event, seconds)


@contextmanager
def stop_signals(*others: signal.Signals) -> Iterator["asyncio.Queue[int]"]:
    """Queue SIGTERM, SIGINT and the `others` during the block; their handlers are restored after it."""
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[int] = asyncio.Queue()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, *others)}
    for number in before:
        loop.add_signal_handler(number, signals.put_nowait, number)
    try:
        yield signals
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
    """One listener. Signals and the lifespan are handled once, outside of it, for all listeners."""

    def __init__(
        self, settings: Settings, port: int, app: Application, *, max_connections: int, advice: str
    ) -> None:
        self._stopped = asyncio.Event()
        self.socket = _listen(settings.server.host, port, advice)
        self.port: int = self.socket.getsockname()[1]
        super().__init__(
            uvicorn.Config(
                app,
                workers=1,  # whatever $WEB_CONCURRENCY says
                http=protocol_for(
                    app.direct_endpoints,
                    max_connections=max_connections,
                    is_stopping=app.is_stopping,
                ),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=settings.server.keep_alive_seconds,
            )
        )

    def stop(self, seconds: float) -> None:
        """Have `serve` close the connections, and return after this time at most."""
        self.config.timeout_graceful_shutdown = seconds  # type: ignore[assignment]  # uvicorn waits for it
        self.should_exit = True
        self._stopped.set()

    async def main_loop(self) -> None:
        # uvicorn wakes up ten times a second, which is most of what an idle exporter does. Its tick renews
        # the header `date`, each second.
        while not await self.on_tick(0):
            await _wait_up_to(_TICK_SECONDS, self._stopped.wait())

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
        raise StartError(f"cannot listen on {host} port {port}: {reason}; {advice}") from exc


def _is_dual_stack(host: str) -> bool:
    """Return whether the host is `::`, however it is spelled, and the kernel can take IPv4 on it."""
    try:
        return ":" in host and ip_address(host).is_unspecified and socket.has_dualstack_ipv6()
    except ValueError:  # not an address
        return False
