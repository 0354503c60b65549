"""The command line.

It imports the standard library alone: the program knows its command before the slow imports begin.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from app import VERSION

PROGRAM: Final = "spot-interruption-exporter"
_LARGEST_PORT: Final = 65535
_DEMO_PORT: Final = 8080
_NAME_COLUMNS: Final = 16  # as argparse makes it for the longest option

_COMMANDS: Final[Mapping[str, str]] = {
    "serve": "run the exporter (the default)",
    "check": "test everything that the exporter needs, and change nothing",
    "demo": "show the exporter at work on this machine, without a cloud account",
}
_ENVIRONMENT: Final[Mapping[str, str]] = {
    "CONFIG_PATH": "the configuration file, if --config is not given",
    "SIE_...": "a key of the configuration, in place of the file's value:\n"
    "SIE_SERVER__PORT is server.port; lists are JSON",
}
_EXIT_CODES: Final[Mapping[str, str]] = {
    "0": "success; SIGTERM or SIGINT ended serve, or a demo that was serving",
    "1": "the exporter cannot start or cannot go on, a check failed,\nor the demo's counts are wrong",
    "2": "the command line or the configuration is wrong",
    "130, 143": "SIGINT or SIGTERM ended check, or a demo that was not serving yet",
}
_DEFAULTS: Final[Mapping[str, Mapping[str, object]]] = {
    "serve": {"config": None, "reset_totals": False},
    "check": {"config": None},
    "demo": {"once": False, "port": _DEMO_PORT},
}
"""The options of each command."""


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command and its options, which may stand on either side of it.

    `arguments` are the process's own by default. Exits with 2 if they are wrong.
    """
    parser = _parser()
    given = vars(parser.parse_args(arguments))
    command = given.pop("command")
    if command not in _COMMANDS:
        parser.error(_unknown(command))
    for option in given:
        if option not in _DEFAULTS[command]:
            parser.error(f"{command} does not take --{option.replace('_', '-')}")
    return argparse.Namespace(command=command, **{**_DEFAULTS[command], **given})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        PROGRAM,
        usage=f"%(prog)s [{' | '.join(_COMMANDS)}] [options]",
        description="Counts GKE Spot VM interruptions for Prometheus.\n\n" + _section("commands", _COMMANDS),
        epilog=f"{_section('environment', _ENVIRONMENT)}\n\n{_section('exit codes', _EXIT_CODES)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("command", nargs="?", default="serve", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {VERSION}")
    both = parser.add_argument_group("options of serve and check")
    both.add_argument("--config", type=_path, metavar="PATH", help="the configuration file")
    serve = parser.add_argument_group("options of serve")
    serve.add_argument(
        "--reset-totals",
        action="store_true",
        help="for a restored backup: start every counter at 0, keep the rest",
    )
    demo = parser.add_argument_group("options of demo")
    demo.add_argument("--once", action="store_true", help="stop after printing, do not serve")
    demo.add_argument("--port", type=_port, help=f"listen here (default: {_DEMO_PORT}; 0: any free port)")
    return parser


def _section(title: str, lines: Mapping[str, str]) -> str:
    indent = "\n" + " " * (2 + _NAME_COLUMNS)
    texts = (f"  {name:{_NAME_COLUMNS}}{text}".replace("\n", indent) for name, text in lines.items())
    return "\n".join([f"{title}:", *texts])


def _unknown(command: str) -> str:
    *names, last = _COMMANDS
    close = get_close_matches(command, _COMMANDS, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"unknown command {command!r}: the commands are {', '.join(names)} and {last}{hint}"


def _path(text: str) -> Path:
    # A script may pass a variable that is not set. Path("") would be the current folder.
    if not text:
        raise argparse.ArgumentTypeError("should be the path of a file, not empty")
    return Path(text)


def _port(text: str) -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or int(text) > _LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: give a number from 0 to {_LARGEST_PORT}")
    return int(text)
