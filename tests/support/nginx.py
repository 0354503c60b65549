"""A real nginx that sends requests to replicas in turn, as a load balancer does.

https://nginx.org/en/docs/http/ngx_http_upstream_module.html
"""

import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx

from tests.support.process import LOOPBACK, NO_AUTHORITIES, Process, answers, eventually, free_port
from tests.support.requirement import require

_READ_SECONDS: Final = 5

# A POST goes to another replica only when no connection could be made: `proxy_next_upstream` sends none twice
# that may have arrived. What a replica answers, and what it fails to answer, is the caller's to repeat.
_CONFIG: Final = """
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx-error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {directory}/bodies;
  proxy_temp_path {directory}/proxied;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  client_body_buffer_size 64k;
  keepalive_requests 1000000;
  upstream replicas {{
    {servers}
    keepalive 32;
  }}
  server {{
    listen {host}:{port} backlog=2048;
    location = /nginx/generation {{ return 200 "{generation}"; }}
    location / {{
      proxy_pass http://replicas;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_connect_timeout 1s;
      proxy_read_timeout {read_seconds}s;
      proxy_next_upstream error timeout;
    }}
  }}
}}
"""


class Nginx:
    """An nginx during a `with` block; round robin over the addresses."""

    def __init__(self, directory: Path, addresses: Sequence[str]) -> None:
        program = require("nginx", shutil.which("nginx"))
        self._directory = directory
        self.port = free_port()
        self._generation = 0
        self._config = directory / "nginx.conf"
        self.url = f"http://{LOOPBACK}:{self.port}"
        self._write(addresses)
        self._process = Process(
            [program, "-p", directory, "-c", self._config, "-e", directory / "nginx-error.log"],
            output=directory / "nginx.log",
            ready=answers(f"{self.url}/nginx/generation"),
        )

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()

    def retarget(self, addresses: Sequence[str]) -> None:
        """Send further requests to these addresses. Requests in progress stay where they are."""
        self._generation += 1
        self._write(addresses)
        self._process.send(signal.SIGHUP)
        eventually(self._is_current, within=10, what="nginx has read its new configuration")

    def _is_current(self) -> bool:
        # On a new connection, for old ones stay with the worker that had them.
        answer = httpx.get(f"{self.url}/nginx/generation", trust_env=False, timeout=60, verify=NO_AUTHORITIES)
        return answer.text == str(self._generation)

    def _write(self, addresses: Sequence[str]) -> None:
        servers = "\n    ".join(f"server {address} max_fails=1 fail_timeout=1s;" for address in addresses)
        self._config.write_text(
            _CONFIG.format(
                directory=self._directory,
                servers=servers,
                host=LOOPBACK,
                port=self.port,
                generation=self._generation,
                read_seconds=_READ_SECONDS,
            )
        )
