"""Prometheus 3 beside the installed version: `python -m tests.support.prometheus_3` builds it with Go."""

import sys
from pathlib import Path
from typing import Final

import pytest

from tests.support.go_programs import PROMETHEUS, built, path_of
from tests.support.output import print_line

_BUILD_SECONDS: Final = 3600


def built_prometheus() -> Path | None:
    """Return the program, or None if it was not built."""
    program = path_of(PROMETHEUS)
    return program if program.exists() else None


if __name__ == "__main__":
    try:
        print_line(str(built(PROMETHEUS, within=_BUILD_SECONDS)))
    except pytest.skip.Exception as exc:
        sys.exit(str(exc))
