"""The log of what was refused: a line per endpoint, reason and minute, however many callers are refused."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_LOG_EVERY_SECONDS: Final = 60.0
_LOGGED_WITH_A_TRACE: Final = ("internal",)
"""Reasons of bugs: each has an ERROR of its own."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Kind:
    """The refusals of one endpoint for one reason since the last line in the log."""

    logged_at: float = float("-inf")
    number: int = 0
    detail: str = ""


class RefusalLog:
    """Logs refusals, and keeps the newest detail of each reason. The number of reasons bounds both."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.newest: dict[str, str] = {}
        """The newest detail, by reason."""
        self._monotonic = monotonic
        self._kinds: dict[tuple[str, str], _Kind] = {}

    def note(self, endpoint: str, reason: str, detail: str) -> None:
        """Note a refusal. The first one is logged at once, and the others of its minute together."""
        self.newest[reason] = detail
        kind = self._kinds.setdefault((endpoint, reason), _Kind())
        kind.number, kind.detail = kind.number + 1, detail
        self._log_due(endpoint, reason, kind)

    def flush(self) -> None:
        """Log what was refused since the last lines, if their minute is over. Called every minute."""
        for (endpoint, reason), kind in self._kinds.items():
            self._log_due(endpoint, reason, kind)

    def _log_due(self, endpoint: str, reason: str, kind: _Kind) -> None:
        now = self._monotonic()
        is_too_early = now - kind.logged_at < _LOG_EVERY_SECONDS
        if is_too_early or not kind.number or reason in _LOGGED_WITH_A_TRACE:
            return
        _log.warning(
            "pushes refused",
            extra={"endpoint": endpoint, "reason": reason, "detail": kind.detail, "refused": kind.number},
        )
        kind.logged_at, kind.number = now, 0
