"""The comparison of the replicas' settings."""

import logging
from collections.abc import Mapping

from app.domain.replicas import ReplicaSettings, Setting

_log = logging.getLogger(__name__)


class SettingsComparison:
    """Logs one WARNING for each setting in which another replica differs."""

    def __init__(self, own: ReplicaSettings) -> None:
        self._own = own
        self._differing: frozenset[str] = frozenset()
        """The keys that are in the log."""

    def compare(self, replicas: Mapping[str, ReplicaSettings]) -> None:
        """Log the settings that differ now and did not before; `replicas` are the others, by name."""
        differing: dict[str, tuple[str, Setting]] = {}
        for name, replica in replicas.items():
            for key, value in replica.values.items():
                if key in self._own.values and value != self._own.values[key]:
                    differing[key] = (name, value)
        for key in sorted(differing.keys() - self._differing):
            name, value = differing[key]
            _log.warning(
                "the replicas have different settings; give all of them the same configuration",
                extra={"key": key, "own": self._own.values[key], "replica": name, "theirs": value},
            )
        self._differing = frozenset(differing)
