"""The original exporter, built from its source, as a server of `tests/bench/pull.py`.

It lists the instances of the Compute API at its start, and its library cannot be led to another address. So
it gets a proxy that plays the Compute API, with a certificate of its own.
https://github.com/thought-machine/spot-interruption-exporter
"""

import json
import os
import shutil
import ssl
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from tests.support.process import LOOPBACK

REPOSITORY: Final = "https://github.com/thought-machine/spot-interruption-exporter"
COMMIT: Final = "14acb9d56441dba97db446689f10d4081f861bba"
"""Its newest commit, of January 2024, which is after v2.0.0. Its go.sum pins what it is built with."""
_HOST: Final = "compute.googleapis.com"


def build_original(directory: Path, source: str) -> tuple[Path | None, str]:
    """Build the program from a clone of the repository. Return it, or the reason for which there is none."""
    missing = [program for program in ("go", "git") if shutil.which(program) is None]
    if missing:
        return None, f"{' and '.join(missing)} is not installed"
    clone, program = directory / "original-source", directory / "original"
    for command in (
        ["git", "clone", "--quiet", source, str(clone)],
        ["git", "-C", str(clone), "checkout", "--quiet", COMMIT],
        ["go", "build", "-C", str(clone), "-o", str(program), "."],
    ):
        environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            return None, f"{command[0]} {command[1]} failed: {done.stderr.strip().splitlines()[-1]}"
    return program, ""


class EmptyComputeApi:
    """An HTTP proxy during a `with` block that answers as a Compute API without instances."""

    def __init__(self, directory: Path) -> None:
        self._certificate, self._account = directory / "compute.pem", directory / "account.json"
        _write_certificate(self._certificate, self._account)
        self._server = _Proxy((LOOPBACK, 0), _Handler)
        self._server.tls.load_cert_chain(self._certificate)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead a program of Google's Go libraries here."""
        return {
            "HTTPS_PROXY": f"http://{LOOPBACK}:{self._server.server_port}",
            "NO_PROXY": LOOPBACK,
            "SSL_CERT_FILE": str(self._certificate),
            "GOOGLE_APPLICATION_CREDENTIALS": str(self._account),
        }


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", buffering=0)

    def do_GET(self) -> None:
        self._answer({"kind": "compute#instanceAggregatedList", "items": {}})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer({"access_token": "made-up", "token_type": "Bearer", "expires_in": 3600})

    def _answer(self, document: object) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


def _write_certificate(certificate: Path, account: Path) -> None:
    """Write a certificate of the Compute API's host with its key, and an account with the same key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _HOST)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(_HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    document = {
        "type": "service_account",
        "project_id": "emulated",
        "client_email": "bench@emulated.iam.gserviceaccount.com",
        "private_key_id": "bench",
        "private_key": private.decode(),
        "token_uri": f"https://{_HOST}/token",
    }
    account.write_text(json.dumps(document))
