"""The services of the compose files as processes on loopback, with their files, commands and environment."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import httpx

from tests.compose.composition import REPLICAS, Composition
from tests.support.emulator import PubSubEmulator
from tests.support.process import LOOPBACK, NO_AUTHORITIES, Process, answers, free_port
from tests.support.program import overridden, set_ahead
from tests.support.redis import RedisServer
from tests.support.requirement import require

_GRACE_SECONDS: Final = 150
"""A clock that is set ahead by as much has not been without an exporter, which would extend the grace."""


class Topology:
    """The running services, and the one-shot commands."""

    def __init__(self, compose: Composition, directory: Path, replaced: Mapping[str, str]) -> None:
        self.compose = compose
        self.directory = directory
        self.clock = directory / "seconds-ahead"
        set_ahead(self.clock, 0)
        self._replaced = replaced

    def run(self, service: str, *, on_line: Callable[[str], None] = lambda _: None) -> list[str]:
        """Return the output lines of `docker compose run --rm SERVICE`. Raises AssertionError if it fails.

        `on_line` is called with each line as soon as the command has written it.
        """
        described = self.compose.services[service]
        [interpreter, script] = described["entrypoint"]
        assert interpreter == "python"
        errors = self.directory / f"{service}.stderr"
        with (
            errors.open("w") as stderr,
            subprocess.Popen(
                [sys.executable, self.compose.mounted(service, script), *described["command"]],
                env=os.environ | self.environment(service),
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            ) as command,
        ):
            assert command.stdout is not None
            lines = []
            for line in command.stdout:
                lines.append(line.rstrip("\n"))
                on_line(lines[-1])
        assert (command.returncode, errors.read_text()) == (0, "")
        return lines

    def end_grace_periods(self) -> None:
        """Set the clocks of all exporters ahead by a grace period."""
        set_ahead(self.clock, _GRACE_SECONDS)

    def get(self, address: str, path: str) -> httpx.Response:
        """GET a path from `host:port`, an address in the compose network."""
        return httpx.get(
            f"http://{self.replace(address)}{path}", trust_env=False, timeout=60, verify=NO_AUTHORITIES
        )

    def environment(self, service: str) -> dict[str, str]:
        """Return the service's environment variables, with addresses on loopback."""
        variables = self.compose.services[service]["environment"]
        return {name: self.replace(value) for name, value in variables.items()}

    def replace(self, text: str) -> str:
        """Replace addresses and paths of containers by those of this machine."""
        for in_container, on_host in self._replaced.items():
            text = text.replace(in_container, on_host)
        return text

    def replaced_file(self, service: str, target: str) -> Path:
        """Return a copy of a mounted file, with replacements."""
        mounted = self.compose.mounted(service, target)
        copy = self.directory / mounted.name
        copy.write_text(self.replace(mounted.read_text()))
        return copy


@contextmanager
def topology(compose: Composition, directory: Path) -> Iterator[Topology]:
    """Run all services and create the topics, with shorter intervals than in the compose files."""
    addresses = {
        f"{name}:{port}": f"{LOOPBACK}:{free_port()}"
        for name in (*compose.exporters, "prometheus", *(["balancer"] if compose is REPLICAS else []))
        for port in sorted(compose.listening(name))
    }
    project = compose.services["topics"]["environment"]["PUBSUB_PROJECT_ID"]
    with ExitStack() as stack:
        pubsub = stack.enter_context(PubSubEmulator(directory, project=project))
        replaced = {
            "/tmp/nginx": str(directory / "nginx"),  # noqa: S108  # a path in a container
            "listen 8080;": f"listen {addresses.get('balancer:8080')};",
            **addresses,
            "pubsub:8085": pubsub.url.removeprefix("http://"),
            "/etc/prometheus/rules.yaml": str(compose.mounted("prometheus", "/etc/prometheus/rules.yaml")),
            "/etc/prometheus/targets.yaml": str(
                directory / compose.mounted("prometheus", "/etc/prometheus/targets.yaml").name
            ),
            "=/prometheus": f"={directory / 'tsdb'}",
            "_interval: 5s": "_interval: 1s",
        }
        if compose is REPLICAS:
            valkey = stack.enter_context(_valkey(compose, directory))
            replaced["redis://valkey:6379/0"] = valkey.url
        running = Topology(compose, directory, replaced)
        for name in compose.exporters:
            stack.enter_context(_exporter(running, name))
        if compose is REPLICAS:
            stack.enter_context(_balancer(running))
        stack.enter_context(_prometheus(running))
        running.run("topics")
        yield running


def _valkey(compose: Composition, directory: Path) -> RedisServer:
    _, *options = compose.services["valkey"]["command"]
    return RedisServer(directory / "valkey", *options)


def _exporter(running: Topology, name: str) -> Process:
    directory = running.directory / name
    directory.mkdir()
    environment = running.environment(name)
    return Process(
        overridden(settle_seconds=0, clock=running.clock),
        output=directory / "exporter.log",
        ready=answers(f"http://{running.replace(f'{name}:8090')}/healthz"),
        env={"SIE_STORE__URL": f"sqlite:///{directory / 'store.db'}"}
        | environment
        | {
            "CONFIG_PATH": str(running.compose.mounted(name, environment["CONFIG_PATH"])),
            "SIE_SERVER__HOST": LOOPBACK,
            "SIE_SERVER__PORT": running.replace(f"{name}:8080").rpartition(":")[2],
            "SIE_PROMETHEUS__PORT": running.replace(f"{name}:8090").rpartition(":")[2],
            "SIE_PROMETHEUS__HOLD_SECONDS": "2",
            "SIE_ATTRIBUTION__GRACE_SECONDS": str(_GRACE_SECONDS),
        },
    )


def _balancer(running: Topology) -> Process:
    # Debian installs nginx in /usr/sbin, which is only in root's PATH.
    program = require("nginx", shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin"))
    config = running.replaced_file("balancer", "/etc/nginx/nginx.conf")
    return Process(
        [
            program,
            "-e",
            "stderr",
            "-p",
            running.directory,
            "-c",
            config,
            "-g",
            "daemon off; master_process off;",
        ],
        output=running.directory / "nginx.log",
        ready=answers(f"http://{running.replace('balancer:8080')}/healthz"),
    )


def _prometheus(running: Topology) -> Process:
    program = require("prometheus", shutil.which("prometheus"))
    config = "/etc/prometheus/prometheus.yml"
    copy = running.replaced_file("prometheus", config)
    running.replaced_file("prometheus", "/etc/prometheus/targets.yaml")
    options = [
        option.replace(config, str(copy)) if config in option else running.replace(option)
        for option in running.compose.services["prometheus"]["command"]
    ]
    address = running.replace("prometheus:9090")
    return Process(
        [program, *options, f"--web.listen-address={address}"],
        output=running.directory / "prometheus.log",
        ready=answers(f"http://{address}/-/ready"),
    )
