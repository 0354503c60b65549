"""An exporter whose disk stops for good still ends."""

import signal
import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from tests.support.entries import insert
from tests.support.process import LOOPBACK
from tests.support.program import ExporterProcess, body_of

COMMAND = (sys.executable, "-m", "tests.support.on_stopped_disk")


@pytest.mark.parametrize("path", [None, "/interruptions", "/"], ids=["no-read", "ledger", "page"])
def test_the_process_ends_although_the_disk_has_stopped(tmp_path: Path, path: str | None) -> None:
    with ExporterProcess(tmp_path, command=COMMAND) as exporter:
        assert exporter.outcome(insert("node-1")) == "tracked"
        exporter.process.send(signal.SIGUSR1)
        if path is not None:
            with suppress(httpx.ReadTimeout):
                exporter.client.get(f"http://{exporter.metrics_address}{path}", timeout=2)
        exporter.process.send(signal.SIGTERM)

        assert exporter.process.wait(within=15) == 0  # before the disk moves again


def test_pushes_that_wait_for_the_disk_are_answered_at_the_end(tmp_path: Path) -> None:
    with ExporterProcess(tmp_path, command=COMMAND) as exporter, ExitStack() as stack:
        assert exporter.outcome(insert("node-0")) == "tracked"
        exporter.process.send(signal.SIGUSR1)
        address = (LOOPBACK, exporter.configured["server"]["port"])
        pushes = [stack.enter_context(socket.create_connection(address)) for _ in range(4)]
        for number, push in enumerate(pushes):
            body = body_of(insert(f"node-{number + 1}"))
            push.sendall(
                b"POST /events/creation HTTP/1.1\r\nHost: sie\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )
        assert exporter.client.get(f"{exporter.url}/healthz").status_code == 200  # read after the pushes
        exporter.process.send(signal.SIGTERM)

        assert exporter.process.wait(within=15) == 0
        assert [push.recv(65536).partition(b"\r\n")[0] for push in pushes] == [
            b"HTTP/1.1 503 Service Unavailable"
        ] * 4
