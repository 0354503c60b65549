#!/usr/bin/env python3
"""The image's health check: exit status 0 if /healthz of the configured port answers 200, otherwise 1."""

import http.client
import os
import sys
from typing import Final

from app.errors import ConfigurationError
from app.settings import config_path, load_settings

_TIMEOUT_SECONDS: Final = 5
# Addresses to bind that are not addresses to connect to, and the loopback address for each.
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def main() -> int:
    """Send one request; an error goes to standard error, which `docker inspect` shows."""
    try:
        settings, _ = load_settings(config_path(None, os.environ), os.environ)
    except ConfigurationError as exc:
        return _unhealthy("; ".join(exc.problems))
    host = _WILDCARDS.get(settings.server.host, settings.server.host)
    connection = http.client.HTTPConnection(host, settings.server.port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/healthz")
        response = connection.getresponse()
        answer = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as exc:
        return _unhealthy(f"{host} port {settings.server.port}: {exc}")
    return 0 if response.status == http.HTTPStatus.OK else _unhealthy(f"{response.status} {answer}")


def _unhealthy(reason: str) -> int:
    sys.stderr.write(f"{reason}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
