"""The caller of a push, by Pub/Sub's OIDC token.

https://cloud.google.com/pubsub/docs/authenticate-push-subscriptions
"""

import base64
import binascii
import re
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Annotated, Final, NamedTuple, TypeVar

import httpx
from google.auth import jwt
from google.auth.crypt import verify_signature
from google.auth.exceptions import GoogleAuthError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import NotAuthenticatedError, NotPermittedError
from app.gcp.certificates import FETCH_TIMEOUT_SECONDS, Keys, fetch_certificates

_ISSUERS: Final = frozenset({"https://accounts.google.com", "accounts.google.com"})
_MAX_HEADER_CHARACTERS: Final = 8192
_MAX_TOKENS: Final = 1000

_BEARER: Final = re.compile(r"bearer +(\S+) *", re.IGNORECASE)
_JWT: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")

# Up to the last second of the year 9999.
_Seconds = Annotated[int, Field(ge=0, le=253_402_300_799)]


class Verifier:
    """Finds a request's caller by its Authorization header.

    Verified tokens are kept until they expire, certificates for as long as their endpoint allows, and for
    longer while it is down.
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
        """Return the caller's e-mail address if this header was verified before and has not expired."""
        verified = self._verified.get(authorization)
        if verified is None:
            return None
        email, until = verified
        return email if self._clock() < until else None

    async def verify(self, authorization: str | None) -> str:
        """Return the caller's e-mail address.

        Raises NotAuthenticatedError if the header has no valid token of Google's for this audience,
        NotPermittedError if the token is another account's, CertificatesUnavailableError.
        """
        if authorization is None:
            raise NotAuthenticatedError("the request has no Authorization header")
        email = self.cached(authorization)
        if email is not None:
            return email
        token = _parse(authorization)
        claims = self._authenticate(token, await self._keys.get(token.kid))
        if claims.email_verified is not True:
            raise NotPermittedError("the token's email is not verified")
        if claims.email not in self._accounts:
            raise NotPermittedError("the token's account is not in pubsub.service_account_email")
        while len(self._verified) >= _MAX_TOKENS:
            del self._verified[next(iter(self._verified))]
        self._verified[authorization] = (claims.email, claims.exp + self._skew_seconds)
        return claims.email

    async def aclose(self) -> None:
        """Stop the fetch that is under way. The caller closes the client."""
        await self._keys.aclose()

    def _authenticate(self, token: "_Token", pem: str) -> "_Claims":
        # Before decode, because google-auth 2.63.0 reads the payload first: deep JSON is a RecursionError.
        if not verify_signature(token.text.rpartition(".")[0], token.signature, pem):
            raise NotAuthenticatedError("the token's signature is wrong")
        # With the dates' types: google-auth 2.63.0 accepts NaN, Infinity, booleans and fractions.
        claims = _read(_Claims, token.payload, "payload")
        accepted = None
        # Suppressed, because an exception raised from it would quote the token in its traceback.
        with suppress(GoogleAuthError):
            accepted = jwt.decode(
                token.text,
                {token.kid: pem},
                audience=self._audiences,
                clock_skew_in_seconds=self._skew_seconds,
            )
        # google-auth 2.63.0 accepts a token for one second more.
        if accepted is None or self._clock() >= claims.exp + self._skew_seconds:
            raise NotAuthenticatedError(self._objection(claims))
        if claims.iss not in _ISSUERS:
            raise NotAuthenticatedError("the token's issuer is not Google")
        return claims

    def _objection(self, claims: "_Claims") -> str:
        if claims.aud not in self._audiences:
            return "the token's audience is not in pubsub.audience"
        if claims.iat > self._clock():
            return "the token was issued in the future"
        return "the token has expired" if claims.exp < self._clock() else "google-auth refuses the token"


class _Wire(BaseModel):
    # Hidden, because a traceback must not show any of a token.
    model_config = ConfigDict(strict=True, frozen=True, hide_input_in_errors=True)


_W = TypeVar("_W", bound=_Wire)


class _Header(_Wire):
    alg: str
    kid: str
    # Extensions that a receiver must understand (RFC 7515, 4.1.11). This one understands none.
    crit: None = None


class _Claims(_Wire):
    iss: str
    aud: str
    exp: _Seconds
    iat: _Seconds
    email: str
    # Of any type, because every value except true means an address that nobody has verified.
    email_verified: object


class _Token(NamedTuple):
    text: str
    kid: str
    payload: bytes
    signature: bytes


def _parse(authorization: str) -> _Token:
    if len(authorization) > _MAX_HEADER_CHARACTERS:
        raise NotAuthenticatedError(
            f"the Authorization header is longer than {_MAX_HEADER_CHARACTERS} characters"
        )
    bearer = _BEARER.fullmatch(authorization)
    if bearer is None:
        raise NotAuthenticatedError("the Authorization header is not a bearer token")
    # google-auth 2.63.0 accepts padding too.
    parts = _JWT.fullmatch(bearer[1])
    if parts is None:
        raise NotAuthenticatedError("the bearer token is not a JWT")
    try:
        header, payload, signature = (base64.urlsafe_b64decode(part + "==") for part in parts.groups())
    except binascii.Error as exc:
        raise NotAuthenticatedError("the bearer token is not a JWT: a part is not base64url") from exc
    # The token must not choose: `none` needs no key, and HS256 would take the public key as its secret.
    parsed = _read(_Header, header, "header")
    if parsed.alg != "RS256":
        raise NotAuthenticatedError("the token's alg is not RS256")
    return _Token(bearer[1], parsed.kid, payload, signature)


def _read(wire: type[_W], json: bytes, part: str) -> _W:
    try:
        return wire.model_validate_json(json)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_context=False, include_input=False)[0]
        if not error["loc"]:
            raise NotAuthenticatedError(f"the token's {part} is not a JSON object") from exc
        name, missing = error["loc"][0], error["type"] == "missing"
        raise NotAuthenticatedError(
            f"the token has no {name}" if missing else f"the token's {name} is not valid"
        ) from exc
