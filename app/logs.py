"""Log lines as JSON on standard error, under the names that Cloud Logging understands.

https://cloud.google.com/logging/docs/structured-logging
"""

import json
import logging
import sys
from itertools import islice
from typing import Final

from pydantic_core import from_json, to_json

from app.domain.moments import rfc3339

_SEVERITIES: Final = {
    logging.DEBUG: "DEBUG",
    logging.INFO: "INFO",
    logging.WARNING: "WARNING",
    logging.ERROR: "ERROR",
    logging.CRITICAL: "CRITICAL",
}
_RECORDS_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName"}
_EXTRAS_FROM: Final = len(vars(logging.makeLogRecord({})))
"""A record's own attributes come first, and need no look."""
_CHATTY: Final = ("uvicorn", "uvicorn.access", "uvicorn.error", "httpx", "httpcore")


def configure(level: str) -> None:
    """Send every logger's lines at or above the level (debug, info, warning, error) to standard error.

    Servers' and clients' own loggers speak from WARNING on, and through the same handler.
    """
    _gather_less()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _CHATTY:
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
        # A logger's own level is the only one asked: the root's would not hold it back.
        logger.setLevel(max(root.level, logging.WARNING))


def _gather_less() -> None:
    # No line shows these, so they are not looked up: every interruption logs a line.
    # https://docs.python.org/3/howto/logging.html#optimization
    logging.logThreads = False
    logging.logProcesses = False
    logging.logMultiprocessing = False
    vars(logging)["_srcfile"] = None


class JsonFormatter(logging.Formatter):
    """One line of ASCII JSON a record: `severity`, `time`, `message`, `logger`, the extras, `exception`.

    A record whose extra `each` is a list of dictionaries becomes as many lines, each with one of them:
    interruptions come by the hundred, and a record for each would cost more than its line.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line, or as some, whatever its extras are."""
        line: dict[str, object] = {
            "severity": _SEVERITIES.get(record.levelno, "DEFAULT"),
            "time": rfc3339(record.created),
            "message": record.getMessage(),
            "logger": record.name,
        }
        if record.exc_info and record.exc_info[0]:
            line["exception"] = self.formatException(record.exc_info)
        for key, value in islice(vars(record).items(), _EXTRAS_FROM, None):
            if key not in _RECORDS_OWN:
                line.setdefault(key, value)
        each = line.pop("each", None)
        if isinstance(each, list):
            return "\n".join(_encoded(fields | line) for fields in each)
        return _encoded(line)


def _encoded(line: dict[str, object]) -> str:
    try:
        # Faster than the standard library, but UTF-8.
        encoded = to_json(line, inf_nan_mode="strings", fallback=_text)
    except (ValueError, RecursionError):  # a lone surrogate, something that holds itself
        return json.dumps({str(key): _plain(value) for key, value in line.items()})
    return encoded.decode() if encoded.isascii() else json.dumps(from_json(encoded))


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001  # a log line must not fail what it tells of
        return f"<{type(value).__name__}>"


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | None) else _text(value)
