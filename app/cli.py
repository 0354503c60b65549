"""The commands. Only they read the settings and the environment."""

import argparse
import gc
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from app.arguments import PROGRAM
from app.errors import ConfigurationError, ExporterError
from app.logs import configure
from app.settings import Settings, config_path, load_settings

_FAILED: Final = 1
_MISCONFIGURED: Final = 2

_log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> int:
    """Run a command and return its exit code: 0; 1 if it failed; 2 if the configuration is wrong."""
    try:
        return _run(options)
    except ConfigurationError as exc:
        for line in exc.problems:
            sys.stderr.write(f"{PROGRAM}: {line}\n")
        return _MISCONFIGURED
    except ExporterError as exc:
        sys.stderr.write(f"{PROGRAM}: {exc}\n")
        return _FAILED
    except BrokenPipeError:
        # The reader has gone, as in `check | head -1`. Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED


def _run(options: argparse.Namespace) -> int:
    # A command imports what it needs: `check` does not load the server, and a wrong key is reported at once.
    if options.command == "demo":
        from app.demo.story import run_demo  # noqa: PLC0415

        gc.enable()
        return run_demo(port=options.port, once=options.once)
    path = config_path(options.config, os.environ)
    settings, warnings = load_settings(path, os.environ)
    if options.command == "check":
        from app.check import run_check  # noqa: PLC0415

        gc.enable()
        return run_check(settings, path, warnings)
    _serve(settings, path, warnings, reset_totals=options.reset_totals)
    return 0


def _serve(settings: Settings, path: Path | None, warnings: Sequence[str], *, reset_totals: bool) -> None:
    from app.serving import serve  # noqa: PLC0415

    configure(settings.log_level)
    for warning in warnings:
        _log.warning(warning)
    serve(settings, path, reset_totals=reset_totals)
