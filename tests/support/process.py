"""Servers as subprocesses on loopback, which can be started, awaited, stopped and killed."""

import contextlib
import itertools
import os
import random
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx

from tests.support.warm_python import Forked, is_warm

T = TypeVar("T")

LOOPBACK: Final = "127.0.0.1"
NO_AUTHORITIES: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""The `verify` of clients that do not speak TLS. The default reads all authorities, 20 ms for each client."""
_POLL_SECONDS: Final = 0.02
_PATIENCE: Final = 6
"""The load of a machine with a little more than three times as many busy processes as cores."""
_TAIL_BYTES: Final = 8_000


class ExitedError(Exception):
    """A process has ended that should run. The message ends with its output."""


def free_port() -> int:
    """Return a TCP port of loopback without a listener, outside the range of outgoing connections.

    It is not reserved: bind it soon, or pass a bound socket if the program takes one.
    """
    while True:
        port = next(_ports)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((LOOPBACK, port))
            return port


def _below_the_ephemeral() -> Iterator[int]:
    # From somewhere of its own in each process: tests may run in several.
    first, last = 15_000, 32_000
    start = random.SystemRandom().randrange(first, last)
    return itertools.cycle([*range(start, last), *range(first, start)])


_ports: Final = _below_the_ephemeral()


def eventually(probe: Callable[[], T | None], *, within: float, what: str) -> T:
    """Return the first truthy result of the probe. Raises TimeoutError with the last result.

    `within` is in seconds of an idle machine; a loaded machine gets more time, in proportion, because the
    limit is for a probe that hangs. Exceptions of the probe are not caught.
    """
    deadline = time.monotonic() + within * _PATIENCE
    while not (answer := probe()):
        if time.monotonic() >= deadline:
            raise TimeoutError(f"not within {within:g} s: {what}; the last answer was {answer!r}")
        time.sleep(_POLL_SECONDS)
    return answer


def answers(url: str) -> Callable[[], bool]:
    """Return True if a GET of the URL succeeds now."""

    def probe() -> bool:
        try:
            return httpx.get(url, timeout=5, trust_env=False, verify=NO_AUTHORITIES).is_success
        except httpx.TransportError:
            return False

    return probe


def listens(port: int) -> Callable[[], bool]:
    """Return True if the port accepts a connection now."""

    def probe() -> bool:
        try:
            socket.create_connection((LOOPBACK, port), timeout=5).close()
        except OSError:
            return False
        return True

    return probe


class Process:
    """A program that runs during a `with` block, or between `start` and `stop`.

    The output of all its starts is in the file `output`. `env` is added to the environment of the test. The
    program has its own process group, which is killed with it, so its children end a moment later at most.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        output: Path,
        ready: Callable[[], bool],
        env: Mapping[str, str] | None = None,
        within: float = 30,
    ) -> None:
        self.command = [str(word) for word in command]
        self.output = output
        self._ready = ready
        self._env = dict(env or {})
        self._within = within
        self._popen: subprocess.Popen[bytes] | Forked | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{Path(self.command[0]).name} {self.output}>"

    def start(self) -> None:
        """Start it, also again after its end, and return when it is ready.

        Raises ExitedError if it ends before that, and TimeoutError.
        """
        if self._popen is not None:
            raise RuntimeError(f"{self!r} is running: stop or kill it first")
        env = os.environ | self._env
        with self.output.open("ab") as sink:
            if is_warm(self.command[0]):
                self._popen = Forked(self.command, output=sink.fileno(), env=env)
            else:
                self._popen = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=sink,
                    stderr=subprocess.STDOUT,
                    env=env,
                    start_new_session=True,
                )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self, *, within: float = 10) -> int:
        """Send SIGTERM, kill it after `within` seconds, and return its exit status, as Popen has it.

        A negative number is the signal that ended it. 0 if it was not running.
        """
        if self._popen is None:
            return 0
        # Not send_signal, which reaps.
        os.kill(self._popen.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            eventually(self._exited, within=within, what=f"the end of {self!r}")
        return self.kill()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, not to its children."""
        os.kill(self.pid, number)

    def wait(self, *, within: float = 10) -> int:
        """Wait for its end, and return its exit status, 0 if it was not running. Raises TimeoutError."""
        if self._popen is None:
            return 0
        eventually(self._exited, within=within, what=f"the end of {self!r}")
        return self.kill()

    def kill(self) -> int:
        """Kill it and its children, as the end of a container does, and return its exit status."""
        if self._popen is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        status = self._popen.wait()
        self._popen = None
        return status

    @property
    def pid(self) -> int:
        """The process id. Raises ExitedError if it has ended."""
        if self._popen is None or self._exited():
            raise self._ended()
        return self._popen.pid

    def text(self) -> str:
        """Return its output so far."""
        return self.output.read_text(errors="replace")

    def _wait_until_ready(self) -> None:
        def ready() -> bool:
            if self._exited():
                raise self._ended()
            return self._ready()

        try:
            eventually(ready, within=self._within, what=f"{self!r} is ready")
        except TimeoutError as exc:
            exc.add_note(self._tail())
            raise

    def _exited(self) -> bool:
        # Seen, not reaped: until it is, no other process can get its id, and `kill` cannot hit a stranger.
        assert self._popen is not None
        return os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _ended(self) -> ExitedError:
        how = "is not running" if self._popen is None else f"ended with status {self.kill()}"
        return ExitedError(f"{self!r} {how}; its output:\n{self._tail()}")

    def _tail(self) -> str:
        return self.output.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
