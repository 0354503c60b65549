"""A Python whose programs start in milliseconds: a process that has imported their modules is forked.

For tests that start the same program many times, where the start is not what they test. The program runs in a
process of its own, with the arguments, the environment, the folder and the streams of a real start. Only its
modules were imported before, so whatever an import reads from the environment needs a real start. A program
that is not given by `-m` gets a real start.
"""

import ctypes
import gc
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NoReturn, TypeAlias

COMPUTE: Final = ("app.gcp.compute.instances", "app.gcp.compute.operations")
"""The modules of the child processes that read the Compute Engine API."""
PROGRAM: Final = (
    *("app.arguments", "app.check", "app.cli", "app.demo.story", "app.serving"),
    # Those that a start imports only when it needs them.
    *("app.gcp.oidc", "app.store.sqlite.backend", "app.store.sqlite.file", "app.store.sqlite.ledger"),
    *("app.store.redis.backend", "app.store.redis.connection", "app.store.redis.ledger"),
    *("anyio._backends._asyncio", "httpcore", "pydantic.v1", "uvicorn.lifespan.off"),
)
"""The modules of the commands."""

_ROOT: Final = Path(__file__).parents[2]
_MAX_BYTES: Final = 1 << 17
_PR_SET_CHILD_SUBREAPER: Final = 36
_OWN_CHILD, _STARTERS_CHILD = "own", "starter's"
_STARTER: Final = """\
#!{python} -IS
import _socket, os, select, signal, sys
server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
server.connect({address!r})
words = [{mode!r}, str(os.getppid()), os.getcwd(), str(len(sys.argv) - 1), *sys.argv[1:]]
words += map("=".join, os.environ.items())
streams = b"".join(stream.to_bytes(4, sys.byteorder) for stream in (0, 1, 2))
server.sendmsg([os.fsencode(chr(0).join(words))], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
program = int(server.recv(16))
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, _: os.kill(program, number))
ends = select.poll()
ends.register(server, select.POLLIN)
ends.register(os.pidfd_open(os.getppid()), select.POLLIN)
if server.fileno() not in dict(ends.poll()):
    os._exit(1)
status = int(server.recv(16))
if status >= 0:
    os._exit(status)
if -status != signal.SIGKILL:
    signal.signal(-status, signal.SIG_DFL)
os.kill(os.getpid(), -status)
"""
"""An executable for code that starts Python itself. The program ends with it, and it with the program."""


@contextmanager
def warm_python(*modules: str) -> Iterator[str]:
    """Run a process that has imported the modules during a `with` block; return the path of a Python.

    The path can be used as `sys.executable`, as the program of a command, and by `Forked`.
    """
    with TemporaryDirectory() as directory:
        address, python = f"{directory}/socket", Path(directory, "python")
        python.write_text(_STARTER.format(python=sys.executable, address=address, mode=_OWN_CHILD))
        python.chmod(0o755)
        with subprocess.Popen(
            [sys.executable, "-m", __name__, str(python), address, *modules],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            assert server.stdout.readline(), "the modules cannot be imported"
            yield str(python)
            server.stdin.close()


def is_warm(program: str) -> bool:
    """Return True if the program is a Python of this module."""
    return Path(program).with_name("socket").is_socket()


class Forked:
    """A program that a warm Python runs, as a child of this process."""

    def __init__(self, command: Sequence[str], *, output: int, env: Mapping[str, str]) -> None:
        """Start it with both output streams in a file descriptor."""
        _adopt_orphans()
        python, *arguments = command
        words = [_STARTERS_CHILD, str(os.getpid()), str(Path.cwd()), str(len(arguments)), *arguments]
        words += map("=".join, env.items())
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server,
            Path(os.devnull).open("rb") as nothing,
        ):
            server.connect(str(Path(python).with_name("socket")))
            socket.send_fds(server, [os.fsencode("\0".join(words))], [nothing.fileno(), output, output])
            self.pid = int(server.recv(16))

    def wait(self) -> int:
        """Wait for its end, and return its exit status, as Popen has it."""
        _, status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(status)


@cache
def _adopt_orphans() -> None:
    """Become the parent of all descendants whose parent has ended."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


_Arguments: TypeAlias = list[str]


@dataclass(frozen=True, slots=True)
class _Program:
    """A running program that has a starter."""

    pid: int
    ended: int
    """A descriptor that can be read when the program has ended."""
    starter: socket.socket


class _Server:
    """Forks a process for each request."""

    def __init__(self, python: str, address: str) -> None:
        self._python = python
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(address)
        self._listener.listen(128)
        self._poll = select.poll()
        self._poll.register(self._listener, select.POLLIN)
        self._poll.register(0)
        self._programs: dict[int, _Program] = {}
        """The programs by each of their descriptors."""

    def run(self) -> _Arguments:
        """Serve until stdin is closed. In a process that was forked, return the arguments of the program."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor == 0:
                    os._exit(0)
                if descriptor == self._listener.fileno():
                    arguments = self._fork()
                    if arguments is not None:
                        return arguments
                elif descriptor in self._programs:
                    self._end(self._programs[descriptor])

    def _fork(self) -> _Arguments | None:
        connection, _ = self._listener.accept()
        data, streams, _, _ = socket.recv_fds(connection, _MAX_BYTES, 3)
        if len(streams) < 3:
            connection.close()  # the starter has ended
            return None
        mode, starter, folder, count, *words = os.fsdecode(data).split("\0")
        pid = os.fork() if mode == _OWN_CHILD else _fork_for(connection)
        if pid == 0:
            self._close()
            connection.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            if mode == _OWN_CHILD:
                os.setsid()
            os.chdir(folder)
            arguments, variables = words[: int(count)], words[int(count) :]
            os.environ.clear()
            for variable in variables:
                name, _, value = variable.partition("=")
                os.environ[name] = value
            if "-m" not in arguments:
                os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606
            sys.executable = self._python
            # The first is the folder in which this server was started.
            sys.path[:1] = [*([] if "-P" in arguments else [folder]), *_python_path()]
            if ["--parent", starter] in map(list, pairwise(arguments)):
                # The parent that the program must not outlive is this server, which watches the starter.
                arguments[arguments.index("--parent") + 1] = str(os.getppid())
            return arguments
        for stream in streams:
            os.close(stream)
        if mode == _OWN_CHILD:
            _send(connection, pid)
            self._add(_Program(pid, os.pidfd_open(pid), connection))
        else:
            connection.close()
        return None

    def _add(self, program: _Program) -> None:
        for descriptor in (program.ended, program.starter.fileno()):
            self._programs[descriptor] = program
            self._poll.register(descriptor, select.POLLIN)

    def _end(self, program: _Program) -> None:
        """Reap a program that has ended, or whose starter has ended."""
        with suppress(ProcessLookupError):
            os.kill(program.pid, signal.SIGKILL)
        _, status = os.waitpid(program.pid, 0)
        _send(program.starter, os.waitstatus_to_exitcode(status))
        for descriptor in (program.ended, program.starter.fileno()):
            self._poll.unregister(descriptor)
            del self._programs[descriptor]
        program.starter.close()
        os.close(program.ended)

    def _close(self) -> None:
        self._listener.close()
        for program in {*self._programs.values()}:
            program.starter.close()
            os.close(program.ended)


def _fork_for(connection: socket.socket) -> int:
    """Fork a process whose parent ends, so that the process that adopts orphans becomes its parent.

    It has a session of its own before its id is sent, so that its group can be killed from then on.
    """
    reading, writing = os.pipe()
    parent = os.fork()
    if parent == 0:
        if os.fork():
            os._exit(0)
        os.setsid()
        os.close(reading)
        os.write(writing, str(os.getpid()).encode())
        os.close(writing)
        return 0
    os.close(writing)
    os.waitpid(parent, 0)
    pid = int(os.read(reading, 16))
    os.close(reading)
    _send(connection, pid)
    return pid


def _python_path() -> list[str]:
    return list(filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))


def _send(connection: socket.socket, number: int) -> None:
    with suppress(OSError):  # the starter has ended
        connection.send(str(number).encode())


def main() -> None:
    """Import the modules, serve, and run the program of a request in the process that was forked for it."""
    _, python, address, *modules = sys.argv
    for module in modules:
        import_module(module)
    gc.freeze()  # a collection would copy the memory that all processes share
    server = _Server(python, address)
    os.write(1, b"ready\n")
    arguments = server.run()
    sys.argv = arguments[arguments.index("-m") + 1 :]
    _run(sys.argv[0])


def _run(module: str) -> NoReturn:
    """Run a module as the main program, and end without freeing everything, which would copy it."""
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as exc:
        if isinstance(exc.code, str):
            sys.stderr.write(f"{exc.code}\n")
        status = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:  # noqa: BLE001 - as Python does
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - ends the threads of pools, as an exit does
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
