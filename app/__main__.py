"""The command `spot-interruption-exporter`, which is also `python -m app`."""

import gc
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from types import FrameType

_STOPS = (signal.SIGTERM, signal.SIGINT)
_IGNORED_VARIABLES = (
    # Libraries read these when they are imported or set up TLS, and fail if they cannot write to the path:
    # prometheus_client would keep its values in files there, ssl and urllib3 would write the session keys.
    "PROMETHEUS_MULTIPROC_DIR",
    "prometheus_multiproc_dir",
    "SSLKEYLOGFILE",
    # Google's libraries fail at values of these that they do not know. The exporter has no use for them.
    "GOOGLE_API_USE_MTLS_ENDPOINT",
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION",
    # With this one they write every answer to stderr.
    "GOOGLE_SDK_PYTHON_LOGGING_SCOPE",
)
# Google's libraries fail if it is set and empty.
_UNIVERSE = "GOOGLE_CLOUD_UNIVERSE_DOMAIN"


def main() -> int:
    """Run a command and return its exit code.

    A signal to stop ends the process at once, until the command handles signals itself.
    """
    for name in _IGNORED_VARIABLES:
        os.environ.pop(name, None)
    if not os.environ.get(_UNIVERSE):
        os.environ.pop(_UNIVERSE, None)
    # Blocked signals wait: the exit code depends on the command, which is not known yet.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {*_STOPS, signal.SIGHUP})
    from app.arguments import parse_arguments  # noqa: PLC0415 - after the signals are blocked

    options = parse_arguments()
    serves = options.command == "serve"
    for number in _STOPS:
        signal.signal(number, partial(_end, succeeded=serves))
    # SIGHUP stays blocked for `serve`, which logs it once it can.
    signal.pthread_sigmask(signal.SIG_SETMASK, mask | {signal.SIGHUP} if serves else mask)
    # The imports take most of the time of a start, and the collector a tenth of theirs: hardly anything that
    # they make is garbage. The commands start it.
    gc.disable()
    from app.cli import run  # noqa: PLC0415

    code = run(options)
    if serves:
        # Python would wait for the threads that read the ledger, and a disk that hangs holds them for ever.
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    return code


def _end(number: int, _frame: FrameType | None, *, succeeded: bool) -> None:
    # Not by an exception: the code that is being imported might catch it.
    # Open files are left as kill -9 would leave them; every start can handle that.
    os._exit(0 if succeeded else 128 + number)


if __name__ == "__main__":
    sys.exit(main())
