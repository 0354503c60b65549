"""The limit of the throughput benchmark: an ASGI application that only reads the body and answers 200."""

import socket
import sys
from collections.abc import Awaitable, Callable

import uvicorn
from starlette.types import Receive, Scope, Send


async def limit_app(_scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every request with an empty JSON object."""
    message = await receive()
    while message.get("more_body"):
        message = await receive()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{}"})


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
