"""The program on a disk that stops at SIGUSR1: `python -m tests.support.on_stopped_disk [OPTIONS]`."""

import signal
import sys

from app.__main__ import main
from tests.support.slow_disk import SlowDisk

if __name__ == "__main__":
    stopped = SlowDisk().stopped()
    signal.signal(signal.SIGUSR1, lambda *_: stopped.__enter__())
    sys.exit(main())
