"""Faults of the disk and of the store's file."""

import resource
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.chaos.fault_check import FaultError, Size, check
from tests.chaos.load import ExporterAccess, Load
from tests.support.exporter import Exporter
from tests.support.ledgers import remember
from tests.support.process import ExitedError
from tests.support.program import COMMAND, ExporterProcess
from tests.support.slow_disk import SlowDisk
from tests.support.sqlite_files import overwrite_page
from tests.support.unsynced import UnsyncedDisk

_PAGE: Final = 4096
_COMMIT_TIMEOUT_SECONDS: Final = 1.0
"""Less than the time for which a caller waits."""
_UNAVAILABLE: Final = "503 store_unavailable"


def full_disk(directory: Path, size: Size, seed: int) -> str:
    """Let no file grow for a while. Pushes are refused, and accepted when there is space again."""
    with (
        ExporterProcess(directory) as exporter,
        Load(ExporterAccess.of_process(exporter), size, seed) as load,
    ):
        load.wait(0.25)
        pid = exporter.process.pid
        # A process that may not write beyond the first page of a file behaves as on a full disk.
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE, (_PAGE, resource.RLIM_INFINITY))
        refused = load.wait_for_refusals(_UNAVAILABLE, 100)
        check(exporter.status("/healthz") == 200, "/healthz does not answer 200")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
        restored = time.monotonic()
        load.wait_for_acknowledgement(within=5)
        took = time.monotonic() - restored
        load.finish()
        check(exporter.process.pid == pid, "the process was restarted")
        return (
            f"{refused} pushes refused, the next accepted {took:.2f} s after there was space;"
            f" {load.check_exact()}"
        )


def sync_fails(directory: Path, size: Size, seed: int) -> str:
    """Let the disk fail to sync, twice for a while. Events that are written but refused count only once."""
    disk, settings = UnsyncedDisk(), {"pubsub.authentication": "none"}
    with (
        Exporter(directory, settings, two_listeners=True, open_store=disk.open) as exporter,
        Load(ExporterAccess.of_thread(exporter), size, seed) as load,
    ):
        refused = 0
        for share in (0.3, 0.6):
            load.wait(share)
            disk.syncs = False
            refused += load.wait_for_refusals(_UNAVAILABLE, 50)
            disk.syncs = True
            load.wait_for_acknowledgement(within=5)
        load.finish()
        return f"{refused} pushes refused; {load.check_exact()}"


def slow_disk(directory: Path, size: Size, seed: int) -> str:
    """Let no read and no write of the disk end for a while. Pushes are refused; health and metrics go on."""
    settings = {"pubsub.authentication": "none"}
    with (
        SlowDisk() as disk,
        Exporter(
            directory, settings, two_listeners=True, commit_timeout_seconds=_COMMIT_TIMEOUT_SECONDS
        ) as exporter,
        Load(ExporterAccess.of_thread(exporter), size, seed) as load,
    ):
        refused = 0
        for share in (0.3, 0.6):
            load.wait(share)
            with disk.stopped():
                refused += load.wait_for_refusals("503 store_slow", 50)
                began = time.monotonic()
                status = exporter.client.get(f"{exporter.metrics_url}/healthz").status_code
                took = time.monotonic() - began
                check(status == 200, f"/healthz answers {status}")
                load.wait_for_scrapes(2)
            load.wait_for_acknowledgement(within=5)
        load.finish()
        return f"{refused} pushes refused, /healthz after {1000 * took:.0f} ms; {load.check_exact()}"


def read_only(directory: Path, size: Size, seed: int) -> str:
    """Make the file read-only. A running exporter continues; a restarted one ends and reports the reason."""
    if (setpriv := shutil.which("setpriv")) is None:
        raise FaultError("this fault needs setpriv: apt-get install util-linux")
    exporter = ExporterProcess(directory, command=COMMAND)  # a real start, as setpriv changes the process
    # Without these capabilities, file permissions apply to root too.
    unprivileged = [setpriv, "--bounding-set=-dac_override,-dac_read_search"]
    exporter.process.command = [*unprivileged, *exporter.process.command]
    with exporter, Load(ExporterAccess.of_process(exporter), size, seed) as load:
        load.wait(0.2)
        for file in directory.glob("exporter.db*"):
            file.chmod(0o400)
        load.wait(0.4)
        exporter.process.kill()
        before = exporter.store.read_bytes()
        output = ""
        try:
            exporter.process.start()
        except ExitedError as exc:
            output = str(exc)
        check("ended with status 1" in output, f"it started, or did not end with status 1: {output[-300:]}")
        check(
            str(exporter.store) in output.splitlines()[-1],
            f"the error does not name the file: {output[-300:]}",
        )
        check(exporter.store.read_bytes() == before, "the file was changed")
        for file in directory.glob("exporter.db*"):
            file.chmod(0o600)
        exporter.process.start()
        load.finish()
        return f"exit 1 with {output.splitlines()[-1].split(': ', 1)[-1]!r}; {load.check_exact()}"


def damaged(directory: Path, size: Size, seed: int) -> str:
    """Overwrite the file of a running exporter, which ends. The next start makes a new file."""
    # Larger than SQLite's page cache, or the running exporter would not read the file again.
    remember(directory, time.time(), interruptions=5 * size.interruptions, pools=10)
    with ExporterProcess(directory) as exporter:
        with Load(ExporterAccess.of_process(exporter), size, seed) as load:
            load.wait(0.3)
            status = _overwrite_until_it_ends(exporter, size.damage_seconds)
            load.give_up()
        exporter.process.start()
        moved = [file.name for file in directory.glob("*.damaged-*")]
        check(bool(moved), "the damaged file was not kept")
        resets = exporter.value("spot_interruption_exporter_store_resets_total")
        check(resets == 1, f"store_resets_total is {resets}")
        # Deliver everything again, like a subscription that was seeked to before the damage.
        with Load(ExporterAccess.of_process(exporter), size, seed) as load:
            load.finish()
            how = f"ended with status {status}" if status is not None else "detected at the next start"
            return f"{how}, {len(moved)} files moved aside; {load.check_exact()}"


def damaged_index(directory: Path, size: Size, seed: int) -> str:
    """Overwrite a page of an index while the exporter is down. The next start carries everything over."""
    with (
        ExporterProcess(directory) as exporter,
        Load(ExporterAccess.of_process(exporter), size, seed) as load,
    ):
        load.wait(0.5)
        exporter.process.kill()
        overwrite_page(exporter.store, "ledger_by_time")
        exporter.process.start()
        resets = exporter.value("spot_interruption_exporter_store_resets_total")
        check(resets == 1, f"store_resets_total is {resets}")
        load.finish()
        return f"everything was carried over; {load.check_exact()}"


def _overwrite_until_it_ends(exporter: ExporterProcess, seconds: float) -> int | None:
    """Return the exporter's exit status, or None if it never read a damaged page and was killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with exporter.store.open("r+b") as file:
            length = file.seek(0, 2) - _PAGE
            file.seek(_PAGE)
            file.write(b"\xa5" * max(length, 0))
        with suppress(TimeoutError):
            return exporter.process.wait(within=0.03)
    exporter.process.kill()
    return None
