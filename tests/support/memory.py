"""A file system in memory, where a commit does not wait for a disk."""

import os
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
"""The directory for temporary files there; None if this machine has none."""
