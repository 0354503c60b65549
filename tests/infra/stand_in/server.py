"""The stand-in's process. Terraform starts it, reads the schemas, and mocks everything else.

https://developer.hashicorp.com/terraform/plugin/terraform-plugin-protocol
"""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

_CORE_PROTOCOL = 1
_PROVIDER_PROTOCOL = 5


class _Provider(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """Answers `GetSchema` with the schemas, and each other call with an empty message."""

    def __init__(self, schemas: bytes, shut_down: Callable[[], None]) -> None:
        self._schemas = schemas
        self._shut_down = shut_down

    def service(self, details: Any) -> Any:  # noqa: ANN401  # grpc has no types
        service, method = details.method.removeprefix("/").split("/")
        if service not in ("tfplugin5.Provider", "plugin.GRPCController"):
            return None
        return grpc.unary_unary_rpc_method_handler(lambda *_: self._answer(method))

    def _answer(self, method: str) -> bytes:
        if method == "Shutdown":
            self._shut_down()
        return self._schemas if method == "GetSchema" else b""


def main(schemas: bytes) -> None:
    """Serve until Terraform shuts this process down."""
    ended = threading.Event()
    server = grpc.server(ThreadPoolExecutor(max_workers=4), handlers=[_Provider(schemas, ended.set)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    sys.stdout.write(f"{_CORE_PROTOCOL}|{_PROVIDER_PROTOCOL}|tcp|127.0.0.1:{port}|grpc\n")
    sys.stdout.flush()
    ended.wait()
    server.stop(grace=None)


if __name__ == "__main__":
    main(Path(sys.argv[1]).read_bytes())
