"""The limit of open files: with a low one, connections that send nothing must not shut out the others."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from tests.support.entries import insert
from tests.support.process import LOOPBACK
from tests.support.program import COMMAND, ExporterProcess

WARNING: Final = (
    "the limit of open files allows fewer connections than server.max_connections; raise the limit"
)


def limited(option: str) -> list[str]:
    """Return a command that serves with a limit of 256 open files, `-S` for the soft one alone."""
    return ["sh", "-c", f'ulimit {option} -n 256; exec "$@"', "sh", *COMMAND]


@contextmanager
def silent_connections(exporter: ExporterProcess, number: int) -> Iterator[None]:
    with ExitStack() as connections:
        for _ in range(number):
            address = LOOPBACK, exporter.configured["server"]["port"]
            connections.enter_context(socket.create_connection(address, timeout=60))
        yield


def test_the_soft_limit_is_raised(tmp_path: Path) -> None:
    with ExporterProcess(tmp_path, command=limited("-S")) as exporter:
        with silent_connections(exporter, 300):
            assert exporter.outcome(insert("node-1")) == "tracked"

        assert WARNING not in [line["message"] for line in exporter.logs()]


def test_with_a_low_hard_limit_there_are_fewer_connections(tmp_path: Path) -> None:
    with ExporterProcess(tmp_path, command=limited("")) as exporter:
        with silent_connections(exporter, 300):
            assert exporter.outcome(insert("node-1")) == "tracked"
            assert exporter.status("/healthz") == 200

        (line,) = [line for line in exporter.logs() if line["message"] == WARNING]
        assert (line["severity"], line["max_connections"]) == ("WARNING", 78)
