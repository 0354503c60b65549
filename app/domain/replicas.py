"""The settings that a replica publishes to the others."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

Setting: TypeAlias = str | float | Sequence[str]

_PROJECTS: Final = "projects"


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """The settings that all replicas should share, by their dotted keys."""

    values: Mapping[str, Setting]

    @classmethod
    def make(cls, projects: Iterable[str], values: Mapping[str, Setting]) -> "ReplicaSettings":
        """Return the settings of a replica that lists these projects."""
        return cls({_PROJECTS: sorted(projects), **values})

    @property
    def projects(self) -> Sequence[str]:
        """The projects that the replica lists."""
        projects = self.values.get(_PROJECTS, ())
        return () if isinstance(projects, str | float) else projects


NO_SETTINGS: Final = ReplicaSettings({})


def all_projects(replicas: Iterable[ReplicaSettings]) -> Sequence[str]:
    """Return the projects that at least one of the replicas lists, without duplicates, in their order."""
    return list(dict.fromkeys(project for replica in replicas for project in replica.projects))
