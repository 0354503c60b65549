"""docker-compose.yaml, alone and merged with its override file, as compose reads them.

https://docs.docker.com/reference/compose-file/merge/
"""

from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[2]
BASE: Final = ROOT / "docker-compose.yaml"
OVERRIDE: Final = ROOT / "infra/compose/docker-compose.replicas.yaml"


class Composition:
    """The merged content of compose files, and queries on it."""

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
        """The names of the services that run the exporter itself, without the one-shot commands."""
        return [
            name
            for name, described in self.services.items()
            if "build" in described and "entrypoint" not in described
        ]

    def mounted(self, service: str, target: str) -> Path:
        """Return the file of this repository that is mounted in a container at this path."""
        for volume in self.services[service]["volumes"]:
            source, inside = map(Path, volume.split(":")[:2])
            if volume.startswith("./") and Path(target).is_relative_to(inside):
                return ROOT / source / Path(target).relative_to(inside)
        raise AssertionError(f"{service} mounts no file of the repository at {target}")

    def listening(self, service: str) -> set[int]:
        """Return the container ports that a service publishes or exposes."""
        described = self.services[service]
        ports = (*described.get("ports", ()), *described.get("expose", ()))
        return {int(port.rpartition(":")[2]) for port in ports}


def _merged(base: Any, override: Any) -> Any:  # noqa: ANN401  # YAML
    if not isinstance(base, dict) or not isinstance(override, dict):
        assert not isinstance(base, list), (
            "two lists: compose merges these by rules that this function does not have"
        )
        return override
    return base | {
        key: _merged_volumes(base[key], value)
        if key == "volumes" and isinstance(value, list) and key in base
        else _merged(base.get(key), value)
        for key, value in override.items()
    }


def _merged_volumes(base: list[str], override: list[str]) -> list[str]:
    """Merge two lists of volumes. A volume of the override replaces one with the same target."""
    return list({volume.split(":")[1]: volume for volume in (*base, *override)}.values())


PLAIN: Final = Composition("plain", BASE)
REPLICAS: Final = Composition("replicas", BASE, OVERRIDE)
