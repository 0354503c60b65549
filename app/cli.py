"""The commands; the only readers of settings and of the environment."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from app import VERSION
from app.errors import ConfigurationError, ExporterError
from app.logs import configure
from app.settings import Settings, config_path, load_settings

_PROGRAM: Final = "spot-interruption-exporter"
_FAILED: Final = 1
_MISCONFIGURED: Final = 2
_LARGEST_PORT: Final = 65535

_log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and give its exit code: 0; 1 if it failed; 2 for the configuration."""
    options = _parser().parse_args(_with_default(sys.argv[1:] if arguments is None else arguments))
    try:
        return _run(options)
    except ConfigurationError as exc:
        for line in exc.problems:
            sys.stderr.write(f"{_PROGRAM}: {line}\n")
        return _MISCONFIGURED
    except ExporterError as exc:
        sys.stderr.write(f"{_PROGRAM}: {exc}\n")
        return _FAILED


def _with_default(arguments: Sequence[str]) -> Sequence[str]:
    """`serve` where no command is named."""
    if arguments and (
        arguments[0] in ("serve", "check", "demo") or arguments[0] in ("-h", "--help", "--version")
    ):
        return arguments
    return ["serve", *arguments]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(_PROGRAM, description="Counts GKE Spot VM interruptions for Prometheus.")
    parser.add_argument("--version", action="version", version=f"{_PROGRAM} {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run the exporter (the default)")
    serve.add_argument("--reset-totals", action="store_true", help="have every counter begin at 0")
    check = commands.add_parser("check", help="look at everything it needs, and change nothing")
    for command in (serve, check):
        command.add_argument("--config", type=Path, metavar="PATH", help="the file; default: $CONFIG_PATH")
    demo = commands.add_parser("demo", help="see it work on this machine, with no cloud account")
    demo.add_argument(
        "--once", action="store_true", help="stop after printing; exit 0 only if the counts are right"
    )
    demo.add_argument("--port", type=_port, default=8080, help="the demo's port (8080; 0: any that is free)")
    return parser


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= _LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"{port} is no port")
    return port


def _run(options: argparse.Namespace) -> int:
    # A command imports what it needs: `check` starts without the server, and a wrong key is told at once.
    if options.command == "demo":
        from app.demo.story import run_demo  # noqa: PLC0415

        return run_demo(port=options.port, once=options.once)
    path = config_path(options.config, os.environ)
    settings, warnings = load_settings(path, os.environ)
    if options.command == "check":
        from app.check import run_check  # noqa: PLC0415

        return run_check(settings, path, warnings)
    _serve(settings, warnings, reset_totals=options.reset_totals)
    return 0


def _serve(settings: Settings, warnings: Sequence[str], *, reset_totals: bool) -> None:
    from app.serving import serve  # noqa: PLC0415

    configure(settings.log_level)
    for warning in warnings:
        _log.warning(warning)
    serve(settings, reset_totals=reset_totals)
