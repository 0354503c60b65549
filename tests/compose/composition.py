"""docker-compose.yaml, by itself and with the file that goes over it, as compose reads them.

https://docs.docker.com/reference/compose-file/merge/
"""

from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
BASE: Final = ROOT / "docker-compose.yaml"
OVER: Final = ROOT / "infra/compose/docker-compose.replicas.yaml"


class Composition:
    """What the files say together, and what one asks of it."""

    def __init__(self, name: str, *files: Path) -> None:
        self.name = name
        self.content: dict[str, Any] = {}
        for file in files:
            self.content = _merged(self.content, yaml.safe_load(file.read_text()))
        self.services: dict[str, dict[str, Any]] = self.content["services"]

    def __repr__(self) -> str:
        return self.name

    @property
    def exporters(self) -> list[str]:
        """The services that are exporters and stay."""
        return [name for name, one in self.services.items() if "build" in one and "entrypoint" not in one]

    def mounted(self, service: str, target: str) -> Path:
        """The file of this repository that a container sees at a path."""
        for volume in self.services[service]["volumes"]:
            source, inside = map(Path, volume.split(":")[:2])
            if volume.startswith("./") and Path(target).is_relative_to(inside):
                return ROOT / source / Path(target).relative_to(inside)
        raise AssertionError(f"{service} has nothing at {target}")

    def listening(self, service: str) -> set[int]:
        """A container's ports that are published or exposed."""
        described = self.services[service]
        ports = (*described.get("ports", ()), *described.get("expose", ()))
        return {int(port.rpartition(":")[2]) for port in ports}


def _merged(under: Any, over: Any) -> Any:  # noqa: ANN401  # YAML
    if not isinstance(under, dict) or not isinstance(over, dict):
        assert not isinstance(under, list), "lists of both files are merged by rules that are not here"
        return over
    return under | {
        key: _by_target(under[key], value)
        if key == "volumes" and isinstance(value, list) and key in under
        else _merged(under.get(key), value)
        for key, value in over.items()
    }


def _by_target(under: list[str], over: list[str]) -> list[str]:
    return list({volume.split(":")[1]: volume for volume in (*under, *over)}.values())


PLAIN: Final = Composition("plain", BASE)
REPLICAS: Final = Composition("replicas", BASE, OVER)
