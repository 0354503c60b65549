"""The exporter as a process: `python -m app` with a configuration file, on loopback."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self

import httpx

from tests.support.entries import JsonObject, push
from tests.support.issuer import Issuer, IssuerServer
from tests.support.process import LOOPBACK, NO_AUTHORITIES, Process, answers, free_port
from tests.support.samples import Samples, parsed, value_of

COMMAND: Final = (sys.executable, "-m", "app")
# Google's certificates are on loopback here, whatever proxy leads to the world.
ENVIRONMENT: Final = {"NO_PROXY": LOOPBACK, "no_proxy": LOOPBACK}

AUDIENCE: Final = "https://sie.example.com"
ACCOUNT: Final = "sie-push@shop-prod.iam.gserviceaccount.com"
SUBSCRIPTIONS: Final = {
    "creation": "sie-creation-subscription",
    "interruption": "sie-interruption-subscription",
}


def current_command() -> list[str]:
    """Return the command of the exporter in the current Python, which a fixture may have replaced."""
    return [sys.executable, *COMMAND[1:]]


def overridden(**overrides: object) -> list[str]:
    """Return a command that serves with these `Overrides`; see `tests.support.overridden`."""
    return [sys.executable, "-m", "tests.support.overridden", json.dumps(overrides, default=str)]


def set_ahead(clock: Path, seconds: float) -> None:
    """Set a clock of `overridden` exporters ahead of the real one."""
    new = clock.with_suffix(".new")
    new.write_text(str(seconds))
    new.replace(clock)  # an exporter may be reading it


class PushCredentials(NamedTuple):
    """The credentials of pushes: the URL of the certificates, and a token that is valid for an hour."""

    server: IssuerServer
    token: str


@contextmanager
def issued_credentials() -> Iterator[PushCredentials]:
    """Run a local issuer during a `with` block."""
    issuer = _issuer()
    with IssuerServer(issuer) as server:
        yield PushCredentials(server, issuer.token(audience=AUDIENCE, email=ACCOUNT))


@cache
def _issuer() -> Issuer:
    """Return the issuer of all credentials. There is only one, because creating its key takes long."""
    return Issuer()


def run(
    *arguments: str | Path, by: Sequence[str] = (), env: Mapping[str, str] | None = None, within: float = 180
) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself, and return its output. `by` is a program that starts it.

    With `by` it is a real start, because such a program changes the process.
    """
    return subprocess.run(
        [*by, *(COMMAND if by else current_command()), *map(str, arguments)],
        env=os.environ | ENVIRONMENT | dict(env or {}),
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )


def configuration(
    directory: Path, credentials: PushCredentials | None, **sections: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a configuration with two listeners on free ports and a store in the directory.

    Without credentials everybody may push. The keys of each section replace those of that section.
    """
    authentication: dict[str, Any] = {"authentication": "none"}
    if credentials is not None:
        authentication = {
            "audience": AUDIENCE,
            "service_account_email": ACCOUNT,
            "certs_url": credentials.server.url,
        }
    usual: dict[str, dict[str, Any]] = {
        "pubsub": {
            f"instance_{kind}_subscription_name": SUBSCRIPTIONS[kind] for kind in ("creation", "interruption")
        }
        | authentication,
        "server": {"host": LOOPBACK, "port": free_port()},
        "prometheus": {"port": free_port()},
        "store": {"url": f"sqlite:///{directory / 'exporter.db'}"},
        "inventory": {"enabled": False},
    }
    return {name: usual.get(name, {}) | dict(sections.get(name, {})) for name in usual.keys() | sections}


def written(directory: Path, configured: Mapping[str, Any]) -> Path:
    """Write the configuration to a file, and return its path."""
    path = directory / "config.yaml"
    path.write_text(json.dumps(configured))  # JSON is YAML.
    return path


class ExporterProcess:
    """An exporter process during a `with` block, with its answers, metrics and logs."""

    def __init__(
        self,
        directory: Path,
        credentials: PushCredentials | None = None,
        *,
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        named_by: Literal["option", "variable"] = "option",
        configured: Mapping[str, Any] | None = None,
        command: Sequence[str] | None = None,
        **sections: Mapping[str, Any],
    ) -> None:
        """`named_by` is the way in which it gets its file; `configured` replaces the whole configuration.

        `command` is that of `overridden` for an exporter with other times; None: the usual one.
        """
        self.configured = configured or configuration(directory, credentials, **sections)
        self.url = f"http://{LOOPBACK}:{self.configured['server']['port']}"
        self.metrics_address = f"{LOOPBACK}:{self.configured['prometheus']['port']}"
        self.store = Path(self.configured["store"]["url"].removeprefix("sqlite:///"))
        self.headers = {} if credentials is None else {"authorization": f"Bearer {credentials.token}"}
        self.client = httpx.Client(
            base_url=self.url, headers=self.headers, timeout=30, trust_env=False, verify=NO_AUTHORITIES
        )
        path = str(written(directory, self.configured))
        option, variable = (("--config", path), {}) if named_by == "option" else ((), {"CONFIG_PATH": path})
        self.process = Process(
            [*(command or current_command()), *arguments, *option],
            output=directory / "exporter.log",
            ready=answers(f"http://{self.metrics_address}/healthz"),
            env={**ENVIRONMENT, **variable, **(env or {})},
        )

    def __enter__(self) -> Self:
        self.process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self.process.stop(within=15)

    def push(self, entry: JsonObject) -> httpx.Response:
        """Push an entry as Pub/Sub does."""
        endpoint = endpoint_of(entry)
        return self.client.post(f"/events/{endpoint}", content=body_of(entry))

    def outcome(self, entry: JsonObject) -> str:
        """Push an entry, which must be answered 200, and return its outcome."""
        response = self.push(entry)
        assert response.status_code == 200, response.text
        outcome: str = response.json()["outcome"]
        return outcome

    def reason(self, entry: JsonObject) -> tuple[int, str]:
        """Push an entry that is refused, and return the status and the reason."""
        response = self.push(entry)
        return response.status_code, response.json()["reason"]

    def status(self, path: str) -> int:
        """Return the status that the metrics listener answers."""
        return self.client.get(f"http://{self.metrics_address}{path}").status_code

    def samples(self) -> Samples:
        """Return the samples of a scrape."""
        return parsed(self._scrape())

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of a series, or None if there is no such series."""
        return value_of(self._scrape(), name, **labels)

    def interruptions(self, cluster: str) -> float | None:
        """Return the number of counted interruptions of a cluster."""
        return self.value("interruption_events_total", kubernetes_cluster=cluster)

    def _scrape(self) -> str:
        return self.client.get(f"http://{self.metrics_address}/metrics").text

    def logs(self) -> list[dict[str, Any]]:
        """Return all log lines of all its starts."""
        return [json.loads(line) for line in self.process.text().splitlines()]


def endpoint_of(entry: JsonObject) -> str:
    """Return the endpoint to which an entry is pushed."""
    return "creation" if entry["protoPayload"]["methodName"].endswith("insert") else "interruption"


def body_of(entry: JsonObject) -> bytes:
    """Return the body of the delivery of an entry, from the subscription of its endpoint."""
    return push(entry, subscription=f"projects/shop-prod/subscriptions/{SUBSCRIPTIONS[endpoint_of(entry)]}")
