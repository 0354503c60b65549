"""docker-compose.yaml's services as processes on loopback: the same files, commands and environment."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from tests.support.emulator import PubSubEmulator
from tests.support.process import LOOPBACK, Process, answers, free_port
from tests.support.program import COMMAND
from tests.support.requirement import require

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())
SERVICES: Final[Mapping[str, dict[str, Any]]] = COMPOSE["services"]

GRACE_SECONDS: Final = 6


class Topology:
    """The services that are running, and how to run a command beside them."""

    def __init__(self, directory: Path, replaced: Mapping[str, str]) -> None:
        self._directory = directory
        self._replaced = replaced

    def run(self, service: str) -> list[str]:
        """What `docker compose run --rm SERVICE` prints, by line; AssertionError where it fails."""
        described = SERVICES[service]
        [interpreter, script] = described["entrypoint"]
        assert interpreter == "python"
        done = subprocess.run(
            [sys.executable, mounted(service, script), *described["command"]],
            env=os.environ | self.environment(service),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()

    def get(self, address: str, path: str) -> httpx.Response:
        """What `host:port`, as compose names it, answers."""
        return httpx.get(f"http://{self.replace(address)}{path}", trust_env=False)

    def environment(self, service: str) -> dict[str, str]:
        """The service's variables, with addresses on loopback."""
        return {name: self.replace(value) for name, value in SERVICES[service]["environment"].items()}

    def replace(self, text: str) -> str:
        """Text in which what only containers have is replaced by this machine's."""
        for theirs, ours in self._replaced.items():
            text = text.replace(theirs, ours)
        return text

    def replaced_file(self, path: Path) -> Path:
        """A copy of a configuration file, with replacements."""
        copy = self._directory / path.name
        copy.write_text(self.replace(path.read_text()))
        return copy


def mounted(service: str, target: str) -> Path:
    """The file of this repository that a container sees at a path."""
    for volume in SERVICES[service]["volumes"]:
        source, inside = map(Path, volume.split(":")[:2])
        if volume.startswith("./") and Path(target).is_relative_to(inside):
            return ROOT / source / Path(target).relative_to(inside)
    raise AssertionError(f"{service} has nothing at {target}")


@contextmanager
def topology(directory: Path) -> Iterator[Topology]:
    """Start the exporter, the emulator, its topics and Prometheus, with shorter times."""
    main, metrics, prometheus = free_port(), free_port(), free_port()
    with PubSubEmulator(directory, project=SERVICES["topics"]["environment"]["PUBSUB_PROJECT_ID"]) as pubsub:
        running = Topology(
            directory,
            {
                "pubsub:8085": pubsub.url.removeprefix("http://"),
                "exporter:8080": f"{LOOPBACK}:{main}",
                "exporter:8090": f"{LOOPBACK}:{metrics}",
                "prometheus:9090": f"{LOOPBACK}:{prometheus}",
                "/etc/prometheus/rules.yaml": str(mounted("prometheus", "/etc/prometheus/rules.yaml")),
                "=/prometheus": f"={directory / 'tsdb'}",
                "_interval: 5s": "_interval: 1s",
            },
        )
        with _exporter(running, directory, main, metrics), _prometheus(running, directory, prometheus):
            running.run("topics")
            yield running


def _exporter(running: Topology, directory: Path, main: int, metrics: int) -> Process:
    environment = running.environment("exporter")
    config = mounted("exporter", environment["CONFIG_PATH"])
    return Process(
        COMMAND,
        output=directory / "exporter.log",
        ready=answers(f"http://{LOOPBACK}:{metrics}/healthz"),
        env=environment
        | {
            "CONFIG_PATH": str(config),
            "SIE_SERVER__HOST": LOOPBACK,
            "SIE_SERVER__PORT": str(main),
            "SIE_PROMETHEUS__PORT": str(metrics),
            "SIE_PROMETHEUS__HOLD_SECONDS": "2",
            "SIE_ATTRIBUTION__GRACE_SECONDS": str(GRACE_SECONDS),
            "SIE_STORE__URL": f"sqlite:///{directory / 'store.db'}",
        },
    )


def _prometheus(running: Topology, directory: Path, port: int) -> Process:
    program = require("prometheus", shutil.which("prometheus"))
    config = "/etc/prometheus/prometheus.yml"
    copy = running.replaced_file(mounted("prometheus", config))
    options = [
        option.replace(config, str(copy)) if config in option else running.replace(option)
        for option in SERVICES["prometheus"]["command"]
    ]
    return Process(
        [program, *options, f"--web.listen-address={LOOPBACK}:{port}"],
        output=directory / "prometheus.log",
        ready=answers(f"http://{LOOPBACK}:{port}/-/ready"),
    )
