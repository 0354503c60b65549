import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any, Final

import pytest
from google.api_core import client_logging

from app.logs import JsonFormatter, configure

QUIET: Final = ("uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore", "google")

logger = logging.getLogger("app.somewhere")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("", *QUIET, "google.auth")]
    before = [(each, [*each.handlers], each.level, each.propagate) for each in loggers]
    yield
    for each, handlers, level, propagate in before:
        each.handlers, each.propagate = handlers, propagate
        each.setLevel(level)


@contextmanager
def written(level: str = "info") -> Iterator[list[dict[str, Any]]]:
    """Yield a list that has the lines logged during the block after its end."""
    lines: list[dict[str, Any]] = []
    with redirect_stderr(StringIO()) as stderr:
        configure(level)
        yield lines
    assert stderr.getvalue().isascii()
    lines += [json.loads(line, parse_constant=no_json) for line in stderr.getvalue().splitlines()]


def no_json(constant: str) -> None:
    raise AssertionError(constant)


class Unprintable:
    def __str__(self) -> str:
        raise RuntimeError


def circular() -> list[object]:
    ring: list[object] = []
    ring.append(ring)
    return ring


@pytest.mark.parametrize("severity", ["INFO", "WARNING", "ERROR", "CRITICAL"])
def test_a_line_has_the_names_that_cloud_logging_reads(severity: str) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    with written() as lines:
        logger.log(logging.getLevelNamesMapping()[severity], "counted")
    (line,) = lines

    assert before <= datetime.fromisoformat(line.pop("time")) <= datetime.now(UTC)
    assert line == {"severity": severity, "message": "counted", "logger": "app.somewhere"}


def test_a_time_is_utc_with_milliseconds() -> None:
    line = JsonFormatter().format(logging.makeLogRecord({"created": 1700000000.25}))

    assert json.loads(line)["time"] == "2023-11-14T22:13:20.250Z"


def test_a_level_without_a_name_is_default() -> None:
    with written() as lines:
        logger.log(25, "between")

    assert [line["severity"] for line in lines] == ["DEFAULT"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        pytest.param("tills", "tills", id="text"),
        pytest.param(7, 7, id="number"),
        pytest.param(None, None, id="nothing"),
        pytest.param(["a", {"b": 1.5}], ["a", {"b": 1.5}], id="nested"),
        pytest.param("a\nb\u2028\U0001f4a5\x00", "a\nb\u2028\U0001f4a5\x00", id="odd-characters"),
        pytest.param("\ud800", "\ud800", id="lone-surrogate"),
        pytest.param(datetime(2024, 1, 1, tzinfo=UTC), "2024-01-01T00:00:00Z", id="date"),
        pytest.param(Unprintable(), "<Unprintable>", id="unprintable"),
        pytest.param(float("nan"), "NaN", id="nan"),
        pytest.param({("a", 1): 2}, {"a,1": 2}, id="keys-of-no-json"),
        pytest.param(circular(), "[[...]]", id="circular"),
    ],
)
def test_an_extra_of_any_type_is_written(value: object, shown: object) -> None:
    with written() as lines:
        logger.info("counted", extra={"cluster": value})

    assert [(line["message"], line["cluster"]) for line in lines] == [("counted", shown)]


def test_an_extra_of_no_json_leaves_the_others_as_they_are() -> None:
    with written() as lines:
        logger.info("counted", extra={"age": float("nan"), "count": 7})

    assert [line["count"] for line in lines] == [7]


def test_a_record_of_many_is_a_line_each() -> None:
    with written() as lines:
        logger.info("counted", extra={"each": [{"instance": "a"}, {"instance": "b", "message": "x"}]})

    assert [(line["message"], line["instance"]) for line in lines] == [("counted", "a"), ("counted", "b")]


def test_extras_do_not_displace_what_every_line_has() -> None:
    with written() as lines:
        logger.info("counted", extra={"severity": "x", "time": "x", "logger": "x"})
    (line,) = lines

    assert (line["severity"], line["logger"]) == ("INFO", "app.somewhere")
    assert line["time"] != "x"


def test_a_message_of_many_lines_is_one_line() -> None:
    with written() as lines:
        logger.warning("first\nsecond %s", "third\r\n")

    assert [line["message"] for line in lines] == ["first\nsecond third\r\n"]


def test_an_exception_is_a_field_with_its_trace() -> None:
    with written() as lines:
        try:
            _ = 1 / 0
        except ZeroDivisionError:
            logger.exception("failed")
    (line,) = lines

    assert line["severity"] == "ERROR"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("ZeroDivisionError: division by zero")


def test_without_an_exception_there_is_no_field() -> None:
    with written() as lines:
        logger.error("failed", exc_info=sys.exc_info())

    assert ["exception" in line for line in lines] == [False]


def test_configuring_twice_writes_once() -> None:
    with written() as lines:
        configure("info")
        logger.info("counted")

    assert len(lines) == 1


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["DEBUG", "INFO", "WARNING", "ERROR"]),
        ("info", ["INFO", "WARNING", "ERROR"]),
        ("warning", ["WARNING", "ERROR"]),
        ("error", ["ERROR"]),
    ],
)
def test_a_level_shows_itself_and_above(level: str, shown: list[str]) -> None:
    with written(level) as lines:
        for severity in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logger.log(severity, "said")

    assert [line["severity"] for line in lines] == shown


@pytest.mark.parametrize("name", QUIET)
@pytest.mark.parametrize(
    ("level", "shown"),
    [("debug", ["WARNING", "ERROR"]), ("warning", ["WARNING", "ERROR"]), ("error", ["ERROR"])],
)
def test_servers_and_clients_speak_from_warning_on(name: str, level: str, shown: list[str]) -> None:
    library = logging.getLogger(name)
    its_own = StringIO()
    library.addHandler(logging.StreamHandler(its_own))
    library.propagate = False

    with written(level) as lines:
        for severity in (logging.INFO, logging.WARNING, logging.ERROR):
            library.log(severity, "said")

    assert [line["severity"] for line in lines] == shown
    assert its_own.getvalue() == ""


def test_a_process_writes_ascii_and_utc_wherever_it_runs() -> None:
    program = "import logging, app.logs; app.logs.configure('info'); logging.info('caf\\u00e9')"
    run = [sys.executable, "-c", program]

    done = subprocess.run(run, env={"LC_ALL": "C", "TZ": "XXX-9"}, capture_output=True, check=True)
    line = json.loads(done.stderr)

    assert done.stdout == b""
    assert line["message"] == "caf\u00e9"
    assert abs(datetime.now(UTC) - datetime.fromisoformat(line["time"])) < timedelta(hours=1)


def test_a_warning_of_googles_library_has_the_form_of_every_line() -> None:
    # Its clients call this when they are made. It takes the loggers of the library away from the root logger,
    # and Python then writes their warnings as plain text.
    with written() as lines:
        client_logging.setup_logging()
        logging.getLogger("google.api_core.bidi").warning("Background thread did not exit.")

    assert [(line["severity"], line["logger"]) for line in lines] == [("WARNING", "google.api_core.bidi")]


def test_the_search_for_credentials_is_not_logged() -> None:
    # A start that fails says why in one line.
    with written("debug") as lines:
        logging.getLogger("google.auth._default").warning("Authentication failed using Compute Engine.")

    assert lines == []
