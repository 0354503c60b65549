"""A copy of the checkout in which documented commands may write."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.support.docs import ROOT

_IGNORED: Final = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "*.db*", "build", "dist", "site")


def copied(folder: Path) -> Path:
    """Copy the checkout; its `.venv` is the environment of the tests."""
    checkout = shutil.copytree(ROOT, folder / "spot-interruption-exporter", ignore=_IGNORED)
    (checkout / ".venv").symlink_to(sys.prefix)
    return checkout


def shell(
    command: str, checkout: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command as a reader does, in the checkout, and stop at its first error."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=checkout,
        env=os.environ | dict(env or {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
