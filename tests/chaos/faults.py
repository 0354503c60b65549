"""One fault after the other during deliveries; in the end each event must be counted exactly once.

`python -m tests.chaos.faults [--only NAME] [--seed 1]` prints a line per fault; exit status 1 if one fails.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.chaos.certificates import (
    certificates_down,
    certificates_rotating,
    certificates_rubbish,
    certificates_slow,
)
from tests.chaos.clock import clock_back
from tests.chaos.crowd import crowd
from tests.chaos.disk import damaged, damaged_index, full_disk, read_only, slow_disk, sync_fails
from tests.chaos.fault_check import FULL, FaultError, Size
from tests.chaos.redis_rollback import redis_flushed, redis_restored
from tests.chaos.sigterm import sigterm
from tests.support.output import print_line
from tests.support.process import ExitedError

FAULTS: Final[Mapping[str, Callable[[Path, Size, int], str]]] = {
    fault.__name__.replace("_", "-"): fault
    for fault in (
        full_disk,
        slow_disk,
        sync_fails,
        read_only,
        damaged,
        damaged_index,
        redis_restored,
        redis_flushed,
        clock_back,
        sigterm,
        certificates_down,
        certificates_slow,
        certificates_rubbish,
        certificates_rotating,
        crowd,
    )
}


def main() -> None:
    """Inject every fault, or the named ones, and print the results."""
    options = _options()
    failed = [name for name in options.only or FAULTS if not _passes(name, options.seed)]
    print_line(f"failed: {', '.join(failed)}" if failed else "all faults passed")
    sys.exit(bool(failed))


def _passes(name: str, seed: int) -> bool:
    began = time.monotonic()
    try:
        with TemporaryDirectory() as folder:
            figures = FAULTS[name](Path(folder), FULL, seed)
    except (FaultError, ExitedError, TimeoutError) as exc:
        print_line(f"FAIL  {name}: {exc}")
        return False
    print_line(f"ok    {name} ({time.monotonic() - began:.0f} s): {figures}")
    return True


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Faults under load, and checks that they do no harm.")
    parser.add_argument(
        "--only", action="append", choices=list(FAULTS), help="inject only this fault; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
