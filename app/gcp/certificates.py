"""Google's certificates for signed tokens: fetched, kept while fresh, longer while their endpoint is down.

https://developers.google.com/identity/openid-connect/openid-connect#discovery
"""

import asyncio
import base64
import errno
import logging
import os
import re
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate
from pydantic import BaseModel, ConfigDict, TypeAdapter

from app.errors import CertificatesUnavailableError, NotAuthenticatedError

_MAX_CERTIFICATES_BYTES: Final = 1 << 20
FETCH_TIMEOUT_SECONDS: Final = 5.0
_MAX_FETCHES: Final = 5
_FETCHES_PERIOD_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = 60.0
_DEFAULT_FRESH_SECONDS: Final = 3600.0
_MIN_FRESH_SECONDS: Final = 60.0
_MAX_FRESH_SECONDS: Final = 86400.0
_MAX_AGE: Final = re.compile(r"(?:^|[,\s])max-age=\"?([0-9]{1,10})", re.IGNORECASE)
_AGE: Final = re.compile(r"[0-9]{1,10}")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Certificates:
    """The answer of the certificates endpoint."""

    keys: Mapping[str, str]
    """RSA public keys in PEM, by key id; never empty."""
    fresh_seconds: float


async def fetch_certificates(
    client: httpx.AsyncClient, url: str, *, timeout_seconds: float = FETCH_TIMEOUT_SECONDS
) -> Certificates:
    """Fetch Google's signing certificates. Raises CertificatesUnavailableError, which names the host."""
    # Not the whole URL, which may have a password.
    host = urlsplit(url).netloc.rpartition("@")[2]
    try:
        # httpx' own timeouts are for each read; this one is for the whole answer.
        async with (
            asyncio.timeout(timeout_seconds),
            client.stream(
                "GET", url, headers={"accept-encoding": "identity"}, follow_redirects=False
            ) as response,
        ):
            if response.status_code != HTTPStatus.OK:
                raise CertificatesUnavailableError(
                    f"the certificates endpoint {host} answered {response.status_code}"
                )
            body = bytearray()
            # Raw, because a small compressed answer can be huge when it is decompressed.
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > _MAX_CERTIFICATES_BYTES:
                    raise CertificatesUnavailableError(
                        f"the certificates endpoint {host} answered with more than"
                        f" {_MAX_CERTIFICATES_BYTES} bytes"
                    )
            return Certificates(_parse_keys(bytes(body), host), _fresh_seconds(response.headers))
    except TimeoutError as exc:
        raise CertificatesUnavailableError(
            f"the certificates endpoint {host} did not answer within {timeout_seconds:g} s"
        ) from exc
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise CertificatesUnavailableError(
            f"the certificates endpoint {host} cannot be reached: {_cause(exc)}"
        ) from exc


class Keys:
    """The keys last fetched; at most one fetch at a time, and five per minute."""

    def __init__(self, fetch: Callable[[], Awaitable[Certificates]], monotonic: Callable[[], float]) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._keys: Mapping[str, str] = {}
        self._stale_at = 0.0
        self._begun: deque[float] = deque(maxlen=_MAX_FETCHES)
        self._not_before = float("-inf")
        self._failing = False
        self._refreshing: asyncio.Task[None] | None = None

    async def get(self, kid: str) -> str:
        """Return the PEM key of this id: immediately if it is known, else after a fetch.

        Raises NotAuthenticatedError if no key has this id, CertificatesUnavailableError if there are no keys.
        """
        key = self._keys.get(kid)
        if key is None:
            refreshing = self._refresh()
            if refreshing is not None:
                # asyncio.wait, because a cancelled request must not cancel the fetch that others wait for.
                await asyncio.wait({refreshing})
            key = self._keys.get(kid)
        elif self._monotonic() >= self._stale_at:
            self._refresh()
        if key is not None:
            return key
        if not self._keys:
            raise CertificatesUnavailableError("Google's certificates cannot be fetched now")
        raise NotAuthenticatedError("the token's kid is not in Google's certificates")

    async def aclose(self) -> None:
        """Cancel the fetch that is under way; the requests that wait for it continue without it."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait({self._refreshing})

    def _refresh(self) -> asyncio.Task[None] | None:
        """Return the fetch that is under way, else a new one; None if a new one would exceed the limit."""
        if self._refreshing is None or self._refreshing.done():
            now = self._monotonic()
            if len(self._begun) == _MAX_FETCHES and now - self._begun[0] < _FETCHES_PERIOD_SECONDS:
                return None
            if now < self._not_before:
                return None
            self._begun.append(now)
            self._refreshing = asyncio.create_task(self._replace())
        return self._refreshing

    async def _replace(self) -> None:
        try:
            certificates = await self._fetch()
        except CertificatesUnavailableError as exc:
            _log.warning("the OIDC certificates could not be fetched", extra={"error": str(exc)})
            self._stale_at = max(self._stale_at, self._monotonic() + _RETRY_SECONDS)
            # After the second failure in a row, spread the fetches: the pushes of one second could use up a
            # minute's limit.
            if self._failing:
                self._not_before = self._monotonic() + _FETCHES_PERIOD_SECONDS / _MAX_FETCHES
            self._failing = True
        else:
            self._failing = False
            self._keys = certificates.keys
            self._stale_at = self._monotonic() + certificates.fresh_seconds


class _Jwk(BaseModel):
    """A JSON Web Key: https://www.rfc-editor.org/rfc/rfc7518#section-6.3."""

    model_config = ConfigDict(strict=True)

    kty: str
    kid: str = ""
    n: str = ""
    e: str = ""


class _Jwks(BaseModel):
    keys: list[_Jwk]


_DOCUMENT: Final[TypeAdapter[dict[str, str] | _Jwks]] = TypeAdapter(
    dict[str, str] | _Jwks, config=ConfigDict(strict=True)
)


def _parse_keys(body: bytes, host: str) -> Mapping[str, str]:
    """Return the RSA keys in PEM by id, from Google's PEM certificates or a JSON Web Key Set."""
    try:
        document = _DOCUMENT.validate_json(body)
        if isinstance(document, _Jwks):
            keys = {jwk.kid: _rsa_key(jwk) for jwk in document.keys if jwk.kty == "RSA" and jwk.kid}
        else:
            public = {
                kid: load_pem_x509_certificate(pem.encode()).public_key() for kid, pem in document.items()
            }
            keys = {kid: key for kid, key in public.items() if isinstance(key, RSAPublicKey)}
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise CertificatesUnavailableError(
            f"the certificates endpoint {host} answered neither with PEM certificates by key id"
            " (as https://www.googleapis.com/oauth2/v1/certs) nor with a JSON Web Key Set"
        ) from exc
    if not keys:
        raise CertificatesUnavailableError(f"the certificates endpoint {host} answered without an RSA key")
    return {kid: _pem(key) for kid, key in keys.items()}


def _pem(key: RSAPublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _rsa_key(jwk: _Jwk) -> RSAPublicKey:
    return RSAPublicNumbers(_number(jwk.e), _number(jwk.n)).public_key()


def _number(text: str) -> int:
    padding = "=" * (-len(text) % 4)
    return int.from_bytes(base64.b64decode(text + padding, altchars=b"-_", validate=True))


def _cause(exc: BaseException) -> str:
    """Return the operating system's or OpenSSL's reason below httpx' exception, else the exception's type."""
    name = type(exc).__name__
    below: BaseException | None = exc
    while below is not None:
        if isinstance(below, ssl.SSLCertVerificationError):
            return f"the certificate is not trusted: {below.verify_message}"
        if isinstance(below, OSError) and below.strerror:
            # asyncio puts an address in the text. A resolver's numbers are not the system's.
            if below.errno is not None and below.errno in errno.errorcode:
                return os.strerror(below.errno).lower()
            return below.strerror.lower()
        below = below.__cause__ or below.__context__
    return name


def _fresh_seconds(headers: httpx.Headers) -> float:
    """Return the seconds for which an answer may be used, within our bounds.

    https://www.rfc-editor.org/rfc/rfc9111#section-4.2
    """
    max_age = _MAX_AGE.search(headers.get("cache-control", ""))
    if max_age is None:
        return _DEFAULT_FRESH_SECONDS
    age = _AGE.match(headers.get("age", ""))
    fresh_seconds = float(max_age[1]) - (float(age[0]) if age else 0.0)
    return min(max(fresh_seconds, _MIN_FRESH_SECONDS), _MAX_FRESH_SECONDS)
