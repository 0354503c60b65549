"""Prometheus 3 beside the installed version: `python -m tests.support.prometheus_3` builds it with Go."""

import os
import subprocess
from pathlib import Path
from typing import Final

from tests.support.output import print_line

_MODULE: Final = "github.com/prometheus/prometheus"
_VERSION: Final = "v0.315.1"
"""The version of the Go module. Prometheus 3.x.y has the module version 0.3xx.y."""
_CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_PROGRAM: Final = _CACHE / "spot-interruption-exporter" / f"prometheus-{_VERSION}"


def built_prometheus() -> Path | None:
    """Return the program, or None if it was not built."""
    return _PROGRAM if _PROGRAM.exists() else None


def build() -> Path:
    """Build the program without its user interface and its service discoveries, unless it is there."""
    if not _PROGRAM.exists():
        environment = {**os.environ, "GOWORK": "off"}
        subprocess.run(["go", "mod", "download", f"{_MODULE}@{_VERSION}"], env=environment, check=True)
        modules = subprocess.run(["go", "env", "GOMODCACHE"], check=True, capture_output=True, text=True)
        source = Path(modules.stdout.strip()) / f"{_MODULE}@{_VERSION}"
        tags = ["-mod=readonly", "-tags=remove_all_sd", "-ldflags=-s -w"]
        command = ["go", "build", "-C", str(source), *tags, "-o", str(_PROGRAM), "./cmd/prometheus"]
        subprocess.run(command, env=environment, check=True)
    return _PROGRAM


if __name__ == "__main__":
    print_line(str(build()))
