"""Log lines as JSON on standard error, with the field names of Cloud Logging.

https://cloud.google.com/logging/docs/structured-logging
"""

import json
import logging
import sys
from itertools import islice
from typing import Final

from pydantic_core import from_json, to_json

from app.domain.times import rfc3339

_SEVERITIES: Final = {
    logging.DEBUG: "DEBUG",
    logging.INFO: "INFO",
    logging.WARNING: "WARNING",
    logging.ERROR: "ERROR",
    logging.CRITICAL: "CRITICAL",
}
_RECORD_ATTRIBUTES: Final = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName"}
_EXTRAS_FROM: Final = len(vars(logging.makeLogRecord({})))
"""The attributes of the record come first; they are skipped."""
_VERBOSE: Final = ("uvicorn", "uvicorn.access", "uvicorn.error", "httpx", "httpcore", "google")


def configure(level: str) -> None:
    """Log to standard error from this level (debug, info, warning or error).

    The loggers of the server and of the clients log from WARNING, through the same handler.
    """
    _skip_unused_attributes()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in _VERBOSE:
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
        # Only the level of the logger itself is checked, not that of the root.
        logger.setLevel(max(root.level, logging.WARNING))
    # It warns at each step of its search for credentials. The failure of the search is an exception.
    logging.getLogger("google.auth").setLevel(logging.CRITICAL)


def _skip_unused_attributes() -> None:
    # No line shows these attributes, and every interruption logs a line.
    # https://docs.python.org/3/howto/logging.html#optimization
    logging.logThreads = False
    logging.logProcesses = False
    logging.logMultiprocessing = False
    vars(logging)["_srcfile"] = None


class JsonFormatter(logging.Formatter):
    """Formats a record as a line of ASCII JSON.

    Its fields are `severity`, `time`, `message`, `logger`, the extras, and `exception`. With
    `extra={"each": [...]}` there is one line per dictionary: interruptions come in hundreds, and a record
    costs more than its line. Such a dictionary is not empty, and repeats none of these fields.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line or the lines of the record, for any kind of extras."""
        line: dict[str, object] = {
            "severity": _SEVERITIES.get(record.levelno, "DEFAULT"),
            "time": rfc3339(record.created),
            "message": record.getMessage(),
            "logger": record.name,
        }
        if record.exc_info and record.exc_info[0]:
            line["exception"] = self.formatException(record.exc_info)
        for key, value in islice(vars(record).items(), _EXTRAS_FROM, None):
            if key not in _RECORD_ATTRIBUTES:
                line.setdefault(key, value)
        each = line.pop("each", None)
        if isinstance(each, list):
            # Encoded once. With each line, it would take a fifth of the instructions.
            common = _encoded(line)[1:]
            return "\n".join([f"{_encoded(fields)[:-1]},{common}" for fields in each])
        return _encoded(line)


def _encoded(line: dict[str, object]) -> str:
    try:
        # Faster than the standard library, but its result is UTF-8.
        encoded = to_json(line, inf_nan_mode="strings", fallback=_text)
    except (ValueError, RecursionError):  # a lone surrogate, or a value that contains itself
        return json.dumps({str(key): _plain(value) for key, value in line.items()})
    return encoded.decode() if encoded.isascii() else json.dumps(from_json(encoded))


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001  # a log line must not raise
        return f"<{type(value).__name__}>"


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | None) else _text(value)
