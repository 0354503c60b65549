"""A real Redis server, and its keys.

https://redis.io/docs/latest/operate/oss_and_stack/management/config/
"""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from redis import Redis

from tests.support.process import LOOPBACK, Process, free_port
from tests.support.requirement import require

KEY_PREFIX: Final = "spot-interruption-exporter"


def key(*parts: str, prefix: str = KEY_PREFIX) -> str:
    """Return the exporter's key with that name, as it is in the server."""
    return f"{{{prefix}}}:{':'.join(parts)}"


class RedisServer:
    """A Redis during a `with` block. Each write is on disk, so it may be killed and started again."""

    def __init__(self, directory: Path, *options: str, program: str = "redis-server") -> None:
        """`options` are added to the command line."""
        self.port = free_port()
        self.url = f"redis://{LOOPBACK}:{self.port}/0"
        directory.mkdir(parents=True, exist_ok=True)
        self.process = Process(
            [
                require(program, shutil.which(program)),
                *("--bind", LOOPBACK, "--port", str(self.port), "--dir", str(directory)),
                *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
                *options,
            ],
            output=directory / "redis.log",
            ready=_answers(self.port),
        )
        self.client: Redis = Redis(port=self.port, decode_responses=True)

    def __enter__(self) -> Self:
        self.process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self.process.stop()


def _answers(port: int) -> Callable[[], Any]:
    def answers() -> bool:
        try:
            with socket.create_connection((LOOPBACK, port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    return answers
