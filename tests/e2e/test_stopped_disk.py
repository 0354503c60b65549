"""An exporter whose disk stops for good still ends."""

import signal
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.support.entries import insert
from tests.support.program import ExporterProcess

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
