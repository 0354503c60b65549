"""The demo's issuer and its server of certificates, with what only tests need."""

import json
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Final

from app.demo import issuer

ABSENT: Final = object()
"""As the value of a claim or of a header field, it leaves that out."""


class Issuer(issuer.Issuer):
    """Signs tokens like those that Pub/Sub sends with a push, and others."""

    def remove_older(self) -> None:
        """Remove the certificates of all keys but the newest."""
        self._certificates = {self.kid: self._certificates[self.kid]}

    def sign(self, header: object, claims: object) -> str:
        """Return a token with any header and claims, without those that are ABSENT."""
        return super().sign(_present(header), _present(claims))


def _present(fields: object) -> object:
    if not isinstance(fields, dict):
        return fields
    return {name: value for name, value in fields.items() if value is not ABSENT}


class IssuerServer(issuer.IssuerServer):
    """Serves the certificates of an issuer on loopback for a `with` block.

    Its attributes may be changed at any time, and apply to the next answers.
    """

    def __init__(self, by: issuer.Issuer) -> None:
        self.status = HTTPStatus.OK
        self.headers = issuer.HEADERS
        self.body: bytes | None = None
        """If set, it is served instead of the certificates."""
        self.fetches = 0
        """The number of requests so far, answered or held."""
        self._fetched = threading.Condition()
        self._open = threading.Event()
        self._open.set()
        super().__init__(by)

    def __exit__(self, *exc_info: object) -> None:
        self.release()
        super().__exit__(*exc_info)

    def hold(self) -> None:
        """Hold all answers until `release`."""
        self._open.clear()

    def release(self) -> None:
        """Send the held answers and all further ones."""
        self._open.set()

    def wait_for_fetches(self, count: int, *, timeout_seconds: float = 10) -> None:
        """Block until there were `count` requests in all. Raises TimeoutError."""
        with self._fetched:
            if not self._fetched.wait_for(lambda: self.fetches >= count, timeout_seconds):
                raise TimeoutError(f"{self.fetches} of {count} fetches arrived")

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Count a request, and answer it when answers are not held."""
        with self._fetched:
            self.fetches += 1
            self._fetched.notify_all()
        self._open.wait()
        body = json.dumps(self._issuer.certificates()).encode() if self.body is None else self.body
        issuer.respond(request, self.status, self.headers, body)
