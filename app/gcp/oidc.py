"""Bearer token to caller: Pub/Sub's OIDC token, checked as Google says.

https://cloud.google.com/pubsub/docs/authenticate-push-subscriptions
"""

import base64
import binascii
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final

import httpx
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import NotAuthenticatedError, NotPermittedError
from app.gcp.certificates import FETCH_TIMEOUT_SECONDS, Keys, fetch_certificates

_ISSUERS: Final = frozenset({"https://accounts.google.com", "accounts.google.com"})
_MAX_HEADER_CHARACTERS: Final = 8192
_MAX_TOKENS: Final = 1000


_BEARER: Final = re.compile(r"bearer +(\S+) *", re.IGNORECASE)
_JWT: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")

# The last second of the year 9999: what is beyond is no date.
_Seconds = Annotated[int, Field(ge=0, le=253_402_300_799)]


class Verifier:
    """Tells who sends a request, by its Authorization header.

    Verified tokens are remembered until they expire, certificates for as long as their endpoint
    says, and for longer while it is down.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        certs_url: str,
        audiences: Collection[str],
        accounts: Collection[str],
        clock_skew_seconds: int,
        fetch_timeout_seconds: float = FETCH_TIMEOUT_SECONDS,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        fetch = partial(fetch_certificates, client, certs_url, timeout_seconds=fetch_timeout_seconds)
        self._keys = Keys(fetch, monotonic)
        self._audiences = frozenset(audiences)
        self._accounts = frozenset(accounts)
        self._skew_seconds = clock_skew_seconds
        self._clock = clock
        self._verified: dict[str, tuple[str, int]] = {}

    def cached(self, authorization: str) -> str | None:
        """The caller's e-mail address, if this header was verified before and has not expired."""
        verified = self._verified.get(authorization)
        if verified is None:
            return None
        email, until = verified
        return email if self._clock() < until else None

    async def verify(self, authorization: str | None) -> str:
        """The caller's e-mail address.

        Raises NotAuthenticatedError for what is no valid token of Google's for this audience,
        NotPermittedError for a valid one of somebody else's, CertificatesUnavailableError.
        """
        if authorization is None:
            raise NotAuthenticatedError("the request has no Authorization header")
        email = self.cached(authorization)
        if email is not None:
            return email
        token = _parse(authorization)
        claims = _claims(token, await self._keys.get(token.kid))
        until = claims.exp + self._skew_seconds
        self._authenticate(claims, until)
        self._permit(claims)
        while len(self._verified) >= _MAX_TOKENS:
            del self._verified[next(iter(self._verified))]
        self._verified[authorization] = (claims.email, until)
        return claims.email

    async def aclose(self) -> None:
        """Stop a fetch that is under way; the client stays its owner's."""
        await self._keys.aclose()

    def _authenticate(self, claims: "_Claims", until: int) -> None:
        now = self._clock()
        if claims.iss not in _ISSUERS:
            raise NotAuthenticatedError("the token's issuer is not Google")
        if claims.aud not in self._audiences:
            raise NotAuthenticatedError("the token's audience is not this service's")
        if now >= until:
            raise NotAuthenticatedError("the token has expired")
        if now < claims.iat - self._skew_seconds:
            raise NotAuthenticatedError("the token was issued in the future")

    def _permit(self, claims: "_Claims") -> None:
        if claims.email_verified is not True:
            raise NotPermittedError("the token's email is not verified")
        if claims.email not in self._accounts:
            raise NotPermittedError("the token's email is not an account that may push here")


class _Wire(BaseModel):
    # Inputs are hidden because a token must not be seen, in a traceback neither.
    model_config = ConfigDict(strict=True, frozen=True, hide_input_in_errors=True)


class _Header(_Wire):
    alg: str
    kid: str
    # Extensions that must be understood (RFC 7515, 4.1.11): none is.
    crit: None = None


class _Claims(_Wire):
    iss: str
    aud: str
    exp: _Seconds
    iat: _Seconds
    email: str
    # Whatever is there: anything but true is an address that nobody has verified, in an authentic token.
    email_verified: object


@dataclass(frozen=True, slots=True)
class _Token:
    kid: str
    signed: bytes
    signature: bytes
    payload: bytes


def _parse(authorization: str) -> _Token:
    if len(authorization) > _MAX_HEADER_CHARACTERS:
        raise NotAuthenticatedError(
            f"the Authorization header is longer than {_MAX_HEADER_CHARACTERS} characters"
        )
    bearer = _BEARER.fullmatch(authorization)
    if bearer is None:
        raise NotAuthenticatedError("the Authorization header is not a bearer token")
    jwt = _JWT.fullmatch(bearer[1])
    if jwt is None:
        raise NotAuthenticatedError("the bearer token is not a JWT")
    try:
        header, payload, signature = (base64.urlsafe_b64decode(part + "==") for part in jwt.groups())
    except binascii.Error as exc:
        raise NotAuthenticatedError("the bearer token is not a JWT: a part is not base64url") from exc
    kid = _kid(header)
    return _Token(kid, f"{jwt[1]}.{jwt[2]}".encode(), signature, payload)


def _kid(header: bytes) -> str:
    try:
        parsed = _Header.model_validate_json(header)
    except ValidationError as exc:
        raise NotAuthenticatedError(_misfit("header", exc)) from exc
    # Never the token's choice: with `none` it would need no key, with HS256 the public one.
    if parsed.alg != "RS256":
        raise NotAuthenticatedError("the token's alg is not RS256")
    return parsed.kid


def _claims(token: _Token, key: RSAPublicKey) -> _Claims:
    # By hand, because google.auth.jwt.decode judges exp and iat by a clock of its own.
    try:
        key.verify(token.signature, token.signed, PKCS1v15(), SHA256())
    except InvalidSignature as exc:
        raise NotAuthenticatedError("the token's signature is wrong") from exc
    try:
        return _Claims.model_validate_json(token.payload)
    except ValidationError as exc:
        raise NotAuthenticatedError(_misfit("payload", exc)) from exc


def _misfit(part: str, exc: ValidationError) -> str:
    error = exc.errors(include_url=False, include_context=False, include_input=False)[0]
    if not error["loc"]:
        return f"the token's {part} is not a JSON object"
    name = error["loc"][0]
    return f"the token has no {name}" if error["type"] == "missing" else f"the token's {name} is not valid"
