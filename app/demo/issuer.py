"""A local OIDC issuer: real RS256 tokens and their certificates."""

import base64
import contextlib
import json
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

HEADERS: Final[Mapping[str, str]] = MappingProxyType({"Cache-Control": "public, max-age=3600"})
"""The header fields of an answer with certificates."""
_PATH: Final = "/oauth2/v1/certs"
_TOKEN_SECONDS: Final = 3600
_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})


class Issuer:
    """Signs tokens like those that Pub/Sub sends with a push."""

    def __init__(self) -> None:
        self._certificates: dict[str, str] = {}
        self.rotate()

    def rotate(self) -> None:
        """Sign with a new key from now on. The certificates of the older keys stay."""
        self._key = generate_private_key(public_exponent=65537, key_size=2048)
        self.kid = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()).digest.hex()
        self._certificates = {**self._certificates, self.kid: _certificate(self._key)}

    def certificates(self) -> dict[str, str]:
        """Return the PEM certificates by key id."""
        return dict(self._certificates)

    def token(
        self, *, audience: object, email: object, header: Mapping[str, object] = _NOTHING, **claims: object
    ) -> str:
        """Return a token that is valid for an hour, with these claims and header fields changed."""
        now = int(time.time())
        usual_header = {"alg": "RS256", "kid": self.kid, "typ": "JWT"}
        usual_claims = {
            "iss": "https://accounts.google.com",
            "aud": audience,
            "azp": "100000000000000000001",
            "sub": "100000000000000000001",
            "email": email,
            "email_verified": True,
            "iat": now,
            "exp": now + _TOKEN_SECONDS,
        }
        return self.sign({**usual_header, **header}, {**usual_claims, **claims})

    def sign(self, header: object, claims: object) -> str:
        """Return a token with any header and claims, signed with the current key."""
        signed = f"{segment(header)}.{segment(claims)}"
        signature = self._key.sign(signed.encode(), PKCS1v15(), SHA256())
        return f"{signed}.{base64url(signature)}"


def segment(value: object) -> str:
    """Return a value as the header or the payload of a JWT."""
    return base64url(json.dumps(value, separators=(",", ":")).encode())


def base64url(data: bytes) -> str:
    """Return base64 in the alphabet for URLs and without padding, as in a JWT."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class IssuerServer:
    """Serves the certificates of an issuer on loopback for a `with` block."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """The URL of the certificates."""
        return f"http://127.0.0.1:{self._server.server_port}{_PATH}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a request for the certificates."""
        respond(request, HTTPStatus.OK, HEADERS, json.dumps(self._issuer.certificates()).encode())

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        site = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                # A client may close its connection before the answer.
                with contextlib.suppress(ConnectionError):
                    if self.path.partition("?")[0] == _PATH:
                        site.answer(self)
                    else:
                        self.send_error(HTTPStatus.NOT_FOUND)

            def log_message(self, *_: object) -> None:
                """Log nothing, because the terminal is for the lines of the demo."""

        return Handler


def respond(
    request: BaseHTTPRequestHandler, status: HTTPStatus, headers: Mapping[str, str], body: bytes
) -> None:
    """Send a response."""
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


class _Server(ThreadingHTTPServer):
    # Closing it waits for the handlers, so that their sockets are closed too.
    daemon_threads = False


def _certificate(key: RSAPrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "local issuer")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365))
        .sign(key, SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode()
