"""The exporter for tests: the real application on loopback, in a thread of the test's process."""

import asyncio
import json
import threading
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import httpx
import uvloop

from app.exporter import Exporter as Parts
from app.exporter import Overrides
from app.metrics import Endpoint
from app.serving import listening
from app.settings import load_settings, variable
from tests.support.entries import JsonObject, insert, preempted, push
from tests.support.issuer import Issuer, IssuerServer
from tests.support.process import LOOPBACK, NO_AUTHORITIES, free_port
from tests.support.samples import Samples, parsed, value_of

T = TypeVar("T")

OWN: Final = "spot_interruption_exporter"
"""The prefix of the exporter's metrics about itself."""
AUDIENCE: Final = "https://sie.example.com"
ACCOUNT: Final = "sie-push@example-project.iam.gserviceaccount.com"
_WITHIN_SECONDS: Final = 120
_FAST: Final = {"settle_seconds": 0.0, "poll_seconds": 0.05, "retry_seconds": 0.1}
"""Overrides for tests. Nothing that a test starts has an outage behind it."""


@cache
def issuer() -> Issuer:
    """Return the issuer of all valid tokens. There is only one, because creating its key takes long."""
    return Issuer()


def token(by: Issuer | None = None, **fields: object) -> str:
    """Return an Authorization header, valid except for the given claims and `header`; see `Issuer.token`."""
    usual: dict[str, Any] = {"audience": AUDIENCE, "email": ACCOUNT}
    return f"Bearer {(by or issuer()).token(**(usual | fields))}"


def subscription(endpoint: Endpoint) -> str:
    """Return the name of the subscription that pushes to the endpoint."""
    return f"projects/shop-prod/subscriptions/sie-{endpoint}-subscription"


class Exporter:
    """Runs between `start` and `stop`, or during a `with` block. It may be started again.

    `settings` are dotted keys with their values. Operations are read only if they say so. The store is a
    file in the directory, which later exporters there use again. With `two_listeners` the metrics
    have a port of their own. Other keywords are those of `Overrides`.
    """

    direct_pushes = True
    """False in a test of the way through uvicorn and ASGI."""

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, object] | None = None,
        *,
        two_listeners: bool = False,
        **overrides: Any,  # noqa: ANN401  # of `Overrides`
    ) -> None:
        overrides = {"direct_pushes": self.direct_pushes, **overrides}
        self._settings = {
            "server.host": LOOPBACK,
            "server.port": 0,
            "store.url": f"sqlite:///{directory}/exporter.db",
            "pubsub.instance_creation_subscription_name": "sie-creation-subscription",
            "pubsub.instance_interruption_subscription_name": "sie-interruption-subscription",
            "recovery.enabled": False,
            "pubsub.audience": AUDIENCE,
            "pubsub.service_account_email": ACCOUNT,
            **({"prometheus.port": free_port()} if two_listeners else {}),
            **(settings or {}),
        }
        self._overrides = {**_FAST, **overrides}
        self._running = ExitStack()

    @cached_property
    def authorization(self) -> str:
        """The header of a valid push."""
        return token()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start to serve. Raises the exception of a start that fails."""
        with ExitStack() as running:
            self.client = running.enter_context(_client())
            if "pubsub.certs_url" not in self._settings:
                self.certificates = running.enter_context(IssuerServer(issuer()))
            server = _Server(self._environment(), self._overrides)
            running.callback(server.stop)
            self.ports = server.start()
            self.parts = server.parts
            self.perform = server.perform
            self._running = running.pop_all()
        self.url = f"http://{LOOPBACK}:{self.ports[0]}"
        self.metrics_url = f"http://{LOOPBACK}:{self.ports[-1]}"

    def stop(self) -> None:
        """Stop as after SIGTERM, without the drain and linger periods."""
        self._running.close()

    def post(
        self,
        endpoint: Endpoint,
        body: bytes,
        *,
        authorization: str | None = "the usual",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Push a body without change."""
        if authorization == "the usual":
            authorization = self.authorization
        return self.client.post(
            f"{self.url}/events/{endpoint}",
            content=body,
            headers={
                "content-type": "application/json",
                **({"authorization": authorization} if authorization is not None else {}),
                **(headers or {}),
            },
        )

    def deliver(self, endpoint: Endpoint, entry: JsonObject | bytes, **fields: Any) -> httpx.Response:  # noqa: ANN401  # `envelope`'s own
        """Push an entry in an envelope of the endpoint's subscription."""
        return self.post(endpoint, push(entry, **{"subscription": subscription(endpoint), **fields}))

    def create(self, name: str, **fields: Any) -> httpx.Response:  # noqa: ANN401  # `insert`'s own
        """Push the creation of an instance."""
        return self.deliver("creation", insert(name, **fields))

    def interrupt(self, name: str, **fields: Any) -> httpx.Response:  # noqa: ANN401  # `preempted`'s own
        """Push the interruption of an instance."""
        return self.deliver("interruption", preempted(name, **fields))

    def scrape(self, accept: str = "text/plain") -> httpx.Response:
        """Return the served metrics."""
        return self.client.get(f"{self.metrics_url}/metrics", headers={"accept": accept})

    def exposition(self) -> Samples:
        """Return every sample of a scrape."""
        return parsed(self.scrape().text)

    def value(self, series: str, **labels: str) -> float | None:
        """Return the current value of a sample, or None if there is no such series."""
        return value_of(self.scrape().text, series, **labels)

    def answered(self, endpoint: Endpoint, outcome: str) -> float:
        """Return the number of pushes answered 200 with this outcome."""
        return self._own("push_messages_total", endpoint=endpoint, outcome=outcome)

    def refused(self, endpoint: Endpoint, reason: str) -> float:
        """Return the number of pushes refused for this reason."""
        return self._own("push_errors_total", endpoint=endpoint, reason=reason)

    def _own(self, series: str, **labels: str) -> float:
        value = self.value(f"{OWN}_{series}", **labels)
        assert value is not None, f"there is no {series} with {labels}"
        return value

    def _environment(self) -> dict[str, str]:
        settings = {**self._settings}
        if "pubsub.certs_url" not in settings:
            settings["pubsub.certs_url"] = self.certificates.url
        return {
            variable(key): value if isinstance(value, str) else json.dumps(value)
            for key, value in settings.items()
        }


def _client() -> httpx.Client:
    return httpx.Client(trust_env=False, verify=NO_AUTHORITIES, timeout=_WITHIN_SECONDS)


class _Server:
    """A run of the application."""

    def __init__(self, environment: Mapping[str, str], overrides: Mapping[str, Any]) -> None:
        self._environment = environment
        self._overrides = overrides
        self._ports: Future[Sequence[int]] = Future()
        self._thread = threading.Thread(target=self._run, name="exporter")

    def start(self) -> Sequence[int]:
        """Return the port of the main listener, and that of the metrics listener if it is another."""
        self._thread.start()
        return self._ports.result(_WITHIN_SECONDS)

    def stop(self) -> None:
        """Stop it. pytest reports an exception of its thread."""
        if self._ports.exception() is None:
            self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(_WITHIN_SECONDS)
        if self._thread.is_alive():
            raise TimeoutError("the exporter does not stop")

    def perform(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in its event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        try:
            settings, _ = load_settings(None, self._environment)
            self.parts = Parts(settings, overrides=Overrides(**self._overrides))
        except Exception as exc:  # noqa: BLE001  # whatever it is, it is the test's
            self._ports.set_exception(exc)
            return
        async with self.parts.running(), listening(self.parts) as listeners:
            self._ports.set_result(listeners.ports)
            await self._stopped.wait()
