"""One fault after the other while events come; in the end each event is counted exactly once.

`python -m tests.chaos.faults [--only NAME] [--seed 1]`: a line a fault, and exit code 1 where one does harm.
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
from tests.chaos.disk import damaged, full_disk, read_only, sync_fails
from tests.chaos.harm import FULL, HarmError, Size
from tests.chaos.sigterm import sigterm
from tests.chaos.telling import say
from tests.support.process import ExitedError

FAULTS: Final[Mapping[str, Callable[[Path, Size, int], str]]] = {
    fault.__name__.replace("_", "-"): fault
    for fault in (
        full_disk,
        sync_fails,
        read_only,
        damaged,
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
    """Have every fault happen, or one, and print what was seen."""
    options = _options()
    failed = [name for name in options.only or FAULTS if not _seen(name, options.seed)]
    say(f"harm done by {', '.join(failed)}" if failed else "no harm done")
    sys.exit(bool(failed))


def _seen(name: str, seed: int) -> bool:
    began = time.monotonic()
    try:
        with TemporaryDirectory() as folder:
            figures = FAULTS[name](Path(folder), FULL, seed)
    except (HarmError, ExitedError, TimeoutError) as exc:
        say(f"FAIL  {name}: {exc}")
        return False
    say(f"ok    {name} ({time.monotonic() - began:.0f} s): {figures}")
    return True


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Faults under load, and what they must not do.")
    parser.add_argument("--only", action="append", choices=list(FAULTS), help="this one; may be repeated")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
