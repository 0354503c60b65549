"""HTTP over a plain socket, for requests that no HTTP client sends."""

import socket
from contextlib import closing
from functools import partial

from tests.support.exporter import Exporter
from tests.support.process import LOOPBACK


def connected(exporter: Exporter) -> "closing[socket.socket]":
    """Connect to the exporter's main listener. The connection is closed at the end of a `with` block."""
    return closing(socket.create_connection((LOOPBACK, exporter.ports[0]), timeout=20))


def request_head(*headers: str, path: str = "/events/creation") -> bytes:
    """Return the head of a POST request with these header lines."""
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: exporter", *headers, "", ""]).encode()


def read_answer(connection: socket.socket) -> bytes:
    """Read until the other side closes the connection."""
    return b"".join(iter(partial(connection.recv, 65536), b""))
