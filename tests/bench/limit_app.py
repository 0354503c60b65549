"""The limit of the benchmarks: an ASGI application that only reads the body and answers 200.

A GET is answered with the number of the other requests.
"""

import socket
import sys
from collections.abc import Awaitable, Callable
from copy import copy
from itertools import count
from typing import Final

import uvicorn
from starlette.types import Receive, Scope, Send

_requests: Final = count()


async def limit_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every request with a number. That of a GET is the number of the other requests before it."""
    message = await receive()
    while message.get("more_body"):
        message = await receive()
    number = copy(_requests) if scope["method"] == "GET" else _requests
    body = b"%d" % next(number)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve(app: Callable[[Scope, Receive, Send], Awaitable[None]], port: int) -> None:
    """Serve an application on loopback with the exporter's uvicorn options."""
    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    config = uvicorn.Config(
        app,
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    serve(limit_app, int(sys.argv[1]))
