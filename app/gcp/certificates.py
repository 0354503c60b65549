"""Google's certificates for signed tokens: fetched, kept while fresh, and longer while nobody answers.

https://developers.google.com/identity/openid-connect/openid-connect#discovery
"""

import asyncio
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.x509 import load_pem_x509_certificate
from pydantic import ConfigDict, TypeAdapter

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
    """What the certificates' endpoint answered."""

    keys: Mapping[str, RSAPublicKey]
    """By key id; never empty."""
    fresh_seconds: float


async def fetch_certificates(
    client: httpx.AsyncClient, url: str, *, timeout_seconds: float = FETCH_TIMEOUT_SECONDS
) -> Certificates:
    """Google's signing certificates of this moment; CertificatesUnavailableError tells why not."""
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
                    f"the certificates' endpoint answered {response.status_code}"
                )
            body = bytearray()
            # Raw, for a small answer that unpacks to a huge one never is small enough.
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > _MAX_CERTIFICATES_BYTES:
                    raise CertificatesUnavailableError(
                        f"the certificates' endpoint answered with more than {_MAX_CERTIFICATES_BYTES} bytes"
                    )
            return Certificates(_parse_certificates(bytes(body)), _fresh_seconds(response.headers))
    except TimeoutError as exc:
        raise CertificatesUnavailableError(
            f"the certificates' endpoint did not answer within {timeout_seconds:g} s"
        ) from exc
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise CertificatesUnavailableError(
            f"the certificates' endpoint cannot be reached: {type(exc).__name__}"
        ) from exc


class Keys:
    """The keys last fetched; at most one fetch at a time, and five a minute."""

    def __init__(self, fetch: Callable[[], Awaitable[Certificates]], monotonic: Callable[[], float]) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._keys: Mapping[str, RSAPublicKey] = {}
        self._stale_at = 0.0
        self._begun: deque[float] = deque(maxlen=_MAX_FETCHES)
        self._not_before = float("-inf")
        self._failing = False
        self._refreshing: asyncio.Task[None] | None = None

    async def get(self, kid: str) -> RSAPublicKey:
        """The key of this id: at once if it is known, else after asking the endpoint."""
        key = self._keys.get(kid)
        if key is None:
            refreshing = self._refresh()
            if refreshing is not None:
                # Not awaited itself: a request that is cancelled must not take the others' fetch along.
                await asyncio.wait({refreshing})
            key = self._keys.get(kid)
        elif self._monotonic() >= self._stale_at:
            self._refresh()
        if key is not None:
            return key
        if not self._keys:
            raise CertificatesUnavailableError("the certificates that sign tokens cannot be fetched now")
        raise NotAuthenticatedError("the token's kid is none of Google's certificates")

    async def aclose(self) -> None:
        """Cancel the fetch that is under way; who waits for it goes on without."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait({self._refreshing})

    def _refresh(self) -> asyncio.Task[None] | None:
        """The fetch under way, else a new one; None where that would be one too many."""
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
            _log.warning("the OIDC certificates could not be fetched", extra={"kind": str(exc)})
            self._stale_at = max(self._stale_at, self._monotonic() + _RETRY_SECONDS)
            # After a second one in a row, spread: else the pushes of one second use up a minute's fetches.
            if self._failing:
                self._not_before = self._monotonic() + _FETCHES_PERIOD_SECONDS / _MAX_FETCHES
            self._failing = True
        else:
            self._failing = False
            self._keys = certificates.keys
            self._stale_at = self._monotonic() + certificates.fresh_seconds


_PEM_BY_KID: Final = TypeAdapter(dict[str, str], config=ConfigDict(strict=True))


def _parse_certificates(body: bytes) -> Mapping[str, RSAPublicKey]:
    try:
        public = {
            kid: load_pem_x509_certificate(pem.encode()).public_key()
            for kid, pem in _PEM_BY_KID.validate_json(body).items()
        }
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise CertificatesUnavailableError("the certificates' endpoint answered with something else") from exc
    keys = {kid: key for kid, key in public.items() if isinstance(key, RSAPublicKey)}
    if not keys:
        raise CertificatesUnavailableError("the certificates' endpoint answered without an RSA certificate")
    return keys


def _fresh_seconds(headers: httpx.Headers) -> float:
    """How long an answer may be used: https://www.rfc-editor.org/rfc/rfc9111#section-4.2 and our bounds."""
    max_age = _MAX_AGE.search(headers.get("cache-control", ""))
    if max_age is None:
        return _DEFAULT_FRESH_SECONDS
    age = _AGE.match(headers.get("age", ""))
    fresh_seconds = float(max_age[1]) - (float(age[0]) if age else 0.0)
    return min(max(fresh_seconds, _MIN_FRESH_SECONDS), _MAX_FRESH_SECONDS)
