"""Servers as subprocesses: started on loopback, waited for, stopped or killed."""

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import httpx

T = TypeVar("T")

LOOPBACK: Final = "127.0.0.1"
_POLL_SECONDS: Final = 0.02
_PATIENCE: Final = 6
"""A machine with three times as many busy processes as cores, and some more."""
_TAIL_BYTES: Final = 8_000


class ExitedError(Exception):
    """A process ended that should be running; the message ends with its output."""


def free_port() -> int:
    """A TCP port on which nothing listens on loopback, and that no outgoing connection takes.

    Nothing keeps it free: bind it soon, or hand over a bound socket where the program takes one.
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
    """The probe's first truthy answer; TimeoutError, naming the last one, if it takes too long.

    `within` seconds are too long on an idle machine. A loaded one gets more, in proportion: a deadline is
    for what hangs. What the probe raises is not caught.
    """
    deadline = time.monotonic() + within * _PATIENCE
    while not (answer := probe()):
        if time.monotonic() >= deadline:
            raise TimeoutError(f"not within {within:g} s: {what}; the last answer was {answer!r}")
        time.sleep(_POLL_SECONDS)
    return answer


def answers(url: str) -> Callable[[], bool]:
    """Whether a GET of the URL is answered with a success now."""

    def probe() -> bool:
        try:
            return httpx.get(url, timeout=5, trust_env=False).is_success
        except httpx.TransportError:
            return False

    return probe


def listens(port: int) -> Callable[[], bool]:
    """Whether a connection to the port is accepted now."""

    def probe() -> bool:
        try:
            socket.create_connection((LOOPBACK, port), timeout=5).close()
        except OSError:
            return False
        return True

    return probe


class Process:
    """A program that runs for the time of a `with` block, or between `start` and `stop`.

    Its output, of all its starts, is in the file `output`. `env` is added to the test's own
    environment. It gets a process group of its own, which is killed with it: what it started may
    outlive it by a moment, not more.
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
        self._popen: subprocess.Popen[bytes] | None = None

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
        """Start it, once more if it ended, and return when it is ready.

        Raises ExitedError the moment it ends instead, and TimeoutError when it takes too long.
        """
        if self._popen is not None:
            raise RuntimeError(f"{self!r} is running: stop or kill it first")
        with self.output.open("ab") as sink:
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=os.environ | self._env,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self, *, within: float = 10) -> int:
        """Ask it to end with SIGTERM, kill it after `within` seconds; its exit status, as Popen has it.

        Negative is the signal that ended it. 0 where it was not running.
        """
        if self._popen is None:
            return 0
        # Not send_signal, which reaps.
        os.kill(self._popen.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            eventually(self._exited, within=within, what=f"the end of {self!r}")
        return self.kill()

    def send(self, number: signal.Signals) -> None:
        """Send it, and not what it started, a signal."""
        os.kill(self.pid, number)

    def wait(self, *, within: float = 10) -> int:
        """Its exit status once it has ended by itself, 0 where it was not running; else TimeoutError."""
        if self._popen is None:
            return 0
        eventually(self._exited, within=within, what=f"the end of {self!r}")
        return self.kill()

    def kill(self) -> int:
        """End it and all that it started with SIGKILL, as a container's end does; its exit status."""
        if self._popen is None:
            return 0
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        status = self._popen.wait()
        self._popen = None
        return status

    @property
    def pid(self) -> int:
        """Its process id; raises ExitedError if it has ended."""
        if self._popen is None or self._exited():
            raise self._ended()
        return self._popen.pid

    def text(self) -> str:
        """All that it has written so far."""
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
