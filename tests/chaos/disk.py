"""Faults of the disk and of the file on it."""

import resource
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from tests.chaos.harm import HarmError, Size, demand
from tests.chaos.load import Load, Side
from tests.support.exporter import Exporter as InThread
from tests.support.ledgers import remember
from tests.support.process import ExitedError
from tests.support.program import Exporter
from tests.support.unsynced import UnsyncedDisk

_PAGE: Final = 4096
_UNAVAILABLE: Final = "503 store_unavailable"


def full_disk(directory: Path, size: Size, seed: int) -> str:
    """No file may grow for a while; everything is refused, and taken when there is room again."""
    with Exporter(directory) as exporter, Load(Side.of_process(exporter), size, seed) as load:
        load.wait(0.25)
        pid = exporter.process.pid
        # To a process that may write no file beyond its first page, every disk is full.
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE, (_PAGE, resource.RLIM_INFINITY))
        refused = load.wait_for_refusals(_UNAVAILABLE, 100)
        demand(exporter.status("/healthz") == 200, "it says that it is ill")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
        back = time.monotonic()
        load.wait_for_more(within=5)
        took = time.monotonic() - back
        load.finish()
        demand(exporter.process.pid == pid, "it was started anew")
        return (
            f"{refused} refused meanwhile, the next taken {took:.2f} s after there was room; {load.exact()}"
        )


def sync_fails(directory: Path, size: Size, seed: int) -> str:
    """The disk fails to sync, twice for a while: what is written and refused counts once all the same."""
    disk, without = UnsyncedDisk(), {"pubsub.authentication": "none"}
    with (
        InThread(directory, without, two_listeners=True, open_store=disk.open) as exporter,
        Load(Side.of_thread(exporter), size, seed) as load,
    ):
        refused = 0
        for share in (0.3, 0.6):
            load.wait(share)
            disk.syncs = False
            refused += load.wait_for_refusals(_UNAVAILABLE, 50)
            disk.syncs = True
            load.wait_for_more(within=5)
        load.finish()
        return f"{refused} refused meanwhile; {load.exact()}"


def read_only(directory: Path, size: Size, seed: int) -> str:
    """The file may not be written any more: who has it open goes on, who starts anew ends and says why."""
    if (setpriv := shutil.which("setpriv")) is None:
        raise HarmError("this needs setpriv of util-linux")
    exporter = Exporter(directory)
    # So that permissions bind root too.
    dropped = [setpriv, "--bounding-set=-dac_override,-dac_read_search"]
    exporter.process.command = [*dropped, *exporter.process.command]
    with exporter, Load(Side.of_process(exporter), size, seed) as load:
        load.wait(0.2)
        for file in directory.glob("exporter.db*"):
            file.chmod(0o400)
        load.wait(0.4)
        exporter.process.kill()
        before = exporter.store.read_bytes()
        told = ""
        try:
            exporter.process.start()
        except ExitedError as exc:
            told = str(exc)
        demand("ended with status 1" in told, f"it has started, or ended in another way: {told[-300:]}")
        demand(str(exporter.store) in told.splitlines()[-1], f"it does not name its file: {told[-300:]}")
        demand(exporter.store.read_bytes() == before, "it has changed the file")
        for file in directory.glob("exporter.db*"):
            file.chmod(0o600)
        exporter.process.start()
        load.finish()
        return f"exit 1 with {told.splitlines()[-1].split(': ', 1)[-1]!r}; {load.exact()}"


def damaged(directory: Path, size: Size, seed: int) -> str:
    """The file is overwritten under a running exporter, which ends; the next begins a new one, exactly."""
    # Larger than what SQLite keeps in memory: else nobody reads the file before the next start.
    remember(directory, time.time(), interruptions=5 * size.interruptions, pools=10)
    with Exporter(directory) as exporter:
        with Load(Side.of_process(exporter), size, seed) as load:
            load.wait(0.3)
            status = _overwrite_until_it_ends(exporter)
            load.give_up()
        exporter.process.start()
        aside = [file.name for file in directory.glob("*.damaged-*")]
        demand(bool(aside), "the damaged file was not kept")
        resets = exporter.value("spot_interruption_exporter_store_resets_total")
        demand(resets == 1, f"store_resets_total is {resets}")
        # Everything once more, as from a subscription that was set back to before the damage.
        with Load(Side.of_process(exporter), size, seed) as load:
            load.finish()
            how = f"ended with {status} by itself" if status is not None else "noticed at the next start"
            return f"{how}, {len(aside)} files moved aside; {load.exact()}"


def _overwrite_until_it_ends(exporter: Exporter) -> int | None:
    """Its exit status; None where it has all of the file in its memory, does not notice, and is killed."""
    until = time.monotonic() + 8
    while time.monotonic() < until:
        with exporter.store.open("r+b") as file:
            length = file.seek(0, 2) - _PAGE
            file.seek(_PAGE)
            file.write(b"\xa5" * max(length, 0))
        with suppress(TimeoutError):
            return exporter.process.wait(within=0.03)
    exporter.process.kill()
    return None
