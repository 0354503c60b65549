"""Bearer tokens of a local issuer: real keys and real HTTP.

google-auth checks a token's dates by the real clock, so tokens are dated around it, with hours to spare. The
time at which kept tokens and certificates expire is a parameter.
"""

import asyncio
import gzip
import hashlib
import hmac
import json
import logging
import ssl
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from app.demo.issuer import base64url, segment
from app.errors import (
    CertificatesUnavailableError,
    ExporterError,
    NotAuthenticatedError,
    NotPermittedError,
)
from app.gcp.certificates import fetch_certificates
from app.gcp.oidc import Verifier
from tests.support.issuer import ABSENT, Issuer, IssuerServer

NOW = int(time.time())
HOUR = 3600
DAY = 24 * HOUR
SKEW = 10
AUDIENCE = "https://sie.example.com"
ACCOUNT = "sie-push@example-project.iam.gserviceaccount.com"

ISSUER = Issuer()
STRANGER = Issuer()
# No client of these tests uses TLS, and each usual context would read a file of authorities.
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server() -> Iterator[IssuerServer]:
    with IssuerServer(ISSUER) as server:
        yield server


@pytest.fixture
def clock() -> Clock:
    return Clock()


@asynccontextmanager
async def verifying(
    server: IssuerServer,
    clock: Clock,
    *,
    query: str = "",
    fetch_timeout_seconds: float = 5,
    skew_seconds: int = SKEW,
) -> AsyncIterator[Verifier]:
    async with httpx.AsyncClient(trust_env=False, verify=TLS) as client:
        verifier = Verifier(
            client,
            certs_url=server.url + query,
            audiences=[AUDIENCE, "second-audience"],
            accounts=[ACCOUNT],
            clock_skew_seconds=skew_seconds,
            fetch_timeout_seconds=fetch_timeout_seconds,
            clock=clock,
            monotonic=clock,
        )
        try:
            yield verifier
        finally:
            await verifier.aclose()


def verify(authorization: str | None, server: IssuerServer, *, skew_seconds: int = SKEW) -> str:
    async def scenario() -> str:
        async with verifying(server, Clock(), skew_seconds=skew_seconds) as verifier:
            return await verifier.verify(authorization)

    return asyncio.run(scenario())


async def is_accepted(verifier: Verifier, authorization: str) -> bool:
    try:
        return await verifier.verify(authorization) == ACCOUNT
    except NotAuthenticatedError:
        return False


def bearer(
    changed: Mapping[str, object] | None = None,
    *,
    issuer: Issuer = ISSUER,
    header: Mapping[str, object] | None = None,
    **claims: object,
) -> str:
    """A good token for a day, with these claims and header fields changed."""
    usual = {"audience": AUDIENCE, "email": ACCOUNT, "iat": NOW, "exp": NOW + DAY}
    return "Bearer " + issuer.token(header=header or {}, **{**usual, **(changed or {}), **claims})


def unsigned(header: object, payload: object, signature: bytes = b"signature") -> str:
    return f"Bearer {segment(header)}.{segment(payload)}.{base64url(signature)}"


def signed_with_the_certificate_as_a_secret() -> str:
    signed = f"{segment({'alg': 'HS256', 'kid': ISSUER.kid})}.{bearer().split('.')[1]}"
    certificate = ISSUER.certificates()[ISSUER.kid]
    return f"Bearer {signed}.{base64url(hmac.digest(certificate.encode(), signed.encode(), hashlib.sha256))}"


def with_another_payload() -> str:
    header, _, signature = bearer().split(".")
    return f"{header}.{bearer(sub='1').split('.')[1]}.{signature}"


def elliptic_certificate() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, SHA256())
    )
    return certificate.public_bytes(Encoding.PEM).decode()


def is_refreshing() -> bool:
    """Return True if another task than the scenario is running."""
    return len(asyncio.all_tasks()) > 1


@pytest.mark.parametrize(
    "authorization",
    [
        pytest.param(bearer(), id="as-google-sends-it"),
        pytest.param(bearer().replace("Bearer", "bearer"), id="lower-case-scheme"),
        pytest.param(bearer().replace("Bearer", "BEARER  "), id="upper-case-scheme-and-spaces"),
        pytest.param(bearer(iss="accounts.google.com"), id="issuer-without-scheme"),
        pytest.param(bearer(audience="second-audience"), id="second-audience"),
        pytest.param(bearer(sub=ABSENT, azp=ABSENT), id="without-claims-that-are-not-needed"),
        pytest.param(bearer(google={"compute_engine": []}), id="with-other-claims"),
    ],
)
def test_a_good_token_gives_the_caller(authorization: str, server: IssuerServer) -> None:
    assert verify(authorization, server) == ACCOUNT


NOT_TOKENS = [
    pytest.param(None, "no Authorization header", id="no-header"),
    pytest.param("", "not a bearer token", id="empty"),
    pytest.param("Basic dXNlcjpwYXNzd29yZA==", "not a bearer token", id="basic"),
    pytest.param("Bearer", "not a bearer token", id="scheme-alone"),
    pytest.param("Bearer ", "not a bearer token", id="no-token"),
    pytest.param(bearer().removeprefix("Bearer "), "not a bearer token", id="no-scheme"),
    pytest.param(bearer().replace("Bearer ", "Bearer"), "not a bearer token", id="no-space"),
    pytest.param(bearer() + " " + bearer(), "not a bearer token", id="two-tokens"),
    pytest.param(bearer() + "\n", "not a bearer token", id="newline"),
    pytest.param("Bearer token", "not a JWT", id="a-word"),
    pytest.param("Bearer ..", "not a JWT", id="empty-segments"),
    pytest.param("Bearer " + ".".join(bearer().split()[1].split(".")[:2]), "not a JWT", id="two-segments"),
    pytest.param(bearer() + ".AAAA", "not a JWT", id="four-segments"),
    pytest.param("Bearer " + bytes(range(256)).decode("latin-1"), "not a", id="all-bytes"),
    pytest.param("Bearer \x00\xff.\x00\xff.\x00\xff", "not a JWT", id="bytes-in-segments"),
    pytest.param("Bearer \ud800.\udfff.\ud800", "not a JWT", id="lone-surrogates"),
    pytest.param("Bearer ١٢.١٢.١٢", "not a JWT", id="digits-of-another-alphabet"),
    pytest.param(bearer() + "==", "not a JWT", id="padded"),
    pytest.param("Bearer aaaaa.aaaa.aaaa", "not base64url", id="impossible-base64"),
    pytest.param("Bearer " + "a" * 65536, "longer than 8192", id="64-kB"),
    pytest.param(bearer(padding="x" * 65536), "longer than 8192", id="64-kB-and-well-signed"),
    pytest.param("Bearer " + "." * 8000, "not a JWT", id="dots"),
    pytest.param("Bearer " + " " * 8000, "not a bearer token", id="spaces"),
    pytest.param("Bearer AAAA.AAAA.AAAA", "header is not a JSON object", id="header-of-zeros"),
    pytest.param(unsigned([], {}), "header is not a JSON object", id="header-a-list"),
    pytest.param(unsigned("RS256", {}), "header is not a JSON object", id="header-a-string"),
    pytest.param(unsigned(None, {}), "header is not a JSON object", id="header-null"),
    pytest.param(
        f"Bearer {base64url(b'[' * 5000)}.AAAA.AAAA", "header is not a JSON object", id="header-deep"
    ),
    pytest.param(unsigned({}, {}), "has no alg", id="header-empty"),
    pytest.param(unsigned({"alg": "none", "kid": ISSUER.kid}, {}, b""), "alg is not RS256", id="alg-none"),
    pytest.param(bearer(header={"alg": "none"}), "alg is not RS256", id="alg-none-but-signed"),
    pytest.param(bearer(header={"alg": "rs256"}), "alg is not RS256", id="alg-lower-case"),
    pytest.param(bearer(header={"alg": "ES256"}), "alg is not RS256", id="alg-es256"),
    pytest.param(bearer(header={"alg": "RS512"}), "alg is not RS256", id="alg-rs512"),
    pytest.param(bearer(header={"alg": "PS256"}), "alg is not RS256", id="alg-ps256"),
    pytest.param(bearer(header={"alg": ["RS256"]}), "alg is not valid", id="alg-a-list"),
    pytest.param(bearer(header={"alg": ABSENT}), "has no alg", id="alg-missing"),
    pytest.param(signed_with_the_certificate_as_a_secret(), "alg is not RS256", id="hs256-by-certificate"),
    pytest.param(bearer(header={"kid": ABSENT}), "has no kid", id="kid-missing"),
    pytest.param(bearer(header={"kid": None}), "kid is not valid", id="kid-null"),
    pytest.param(bearer(header={"kid": {}}), "kid is not valid", id="kid-an-object"),
    pytest.param(bearer(header={"kid": 7}), "kid is not valid", id="kid-a-number"),
    pytest.param(
        bearer(header={"crit": ["b64"], "b64": False}), "crit is not valid", id="critical-extension"
    ),
]

NOT_SIGNED_BY_GOOGLE = [
    pytest.param(bearer(issuer=STRANGER), "kid is not in", id="other-kid"),
    pytest.param(bearer(header={"kid": ""}), "kid is not in", id="kid-empty"),
    pytest.param(bearer(header={"kid": "../" + ISSUER.kid}), "kid is not in", id="kid-a-path"),
    pytest.param(
        bearer(issuer=STRANGER, header={"kid": ISSUER.kid}),
        "signature is wrong",
        id="other-key-with-the-same-kid",
    ),
    pytest.param(with_another_payload(), "signature is wrong", id="signature-of-another-payload"),
    pytest.param(bearer().rpartition(".")[0] + ".", "signature is wrong", id="signature-empty"),
    pytest.param(bearer().rpartition(".")[0] + ".AAAA", "signature is wrong", id="signature-short"),
    pytest.param(bearer() + "A" * 4000, "signature is wrong", id="signature-long"),
    pytest.param(
        f"{bearer().split('.')[0]}.{base64url(b'[' * 5000)}.AAAA", "signature is wrong", id="payload-deep"
    ),
    pytest.param(
        unsigned({"alg": "RS256", "kid": ISSUER.kid}, {"email": ACCOUNT}),
        "signature is wrong",
        id="not-signed",
    ),
    pytest.param(
        bearer(issuer=STRANGER, header={"kid": ISSUER.kid}, email="x"),
        "signature is wrong",
        id="and-other-email",
    ),
]

NEEDED = ["iss", "aud", "exp", "iat", "email", "email_verified"]
WRONG_TYPES: Mapping[str, object] = {
    "null": None,
    "list": [AUDIENCE, ACCOUNT],
    "object": {},
    "float": 1.5,
    "nan": float("nan"),
    "infinity": float("inf"),
}
NOT_A_DATE: Mapping[str, object] = {
    "string": str(NOW),
    "word": "tomorrow",
    "true": True,
    "negative": -1,
    "year-10000": 253_402_300_800,
    "huge": 10**400,
    "huge-float": 1e308,
}

BAD_CLAIMS = [
    *[pytest.param({name: ABSENT}, f"has no {name}", id=f"{name}-missing") for name in NEEDED],
    *[
        pytest.param({name: value}, f"{name} is not valid", id=f"{name}-{kind}")
        for name in NEEDED
        if name != "email_verified"
        for kind, value in WRONG_TYPES.items()
    ],
    *[
        pytest.param({name: value}, f"{name} is not valid", id=f"{name}-{kind}")
        for name in ("exp", "iat")
        for kind, value in NOT_A_DATE.items()
    ],
    pytest.param({"email": 7}, "email is not valid", id="email-number"),
    pytest.param({"email": "\ud800"}, "payload is not a JSON object", id="email-lone-surrogate"),
    pytest.param({"iss": "https://accounts.example.com"}, "issuer is not Google", id="other-issuer"),
    pytest.param({"iss": "https://accounts.google.com/"}, "issuer is not Google", id="issuer-with-slash"),
    pytest.param(
        {"aud": "https://other.example.com"}, "audience is not in pubsub.audience", id="other-audience"
    ),
    pytest.param({"aud": AUDIENCE + "/"}, "audience is not in pubsub.audience", id="audience-with-slash"),
    pytest.param({"aud": ""}, "audience is not in pubsub.audience", id="audience-empty"),
    pytest.param({"exp": NOW - SKEW}, "has expired", id="expired"),
    pytest.param({"iat": NOW - 2 * HOUR, "exp": NOW - HOUR}, "has expired", id="expired-long-ago"),
    pytest.param({"iat": NOW + DAY}, "issued in the future", id="issued-in-the-future"),
    pytest.param(
        {"aud": "other", "email": "other"},
        "audience is not in pubsub.audience",
        id="other-audience-and-email",
    ),
]


@pytest.mark.parametrize(
    ("authorization", "detail"),
    [
        *NOT_TOKENS,
        *NOT_SIGNED_BY_GOOGLE,
        pytest.param("Bearer " + ISSUER.sign({"alg": "RS256", "kid": ISSUER.kid}, []), "payload", id="list"),
    ],
)
def test_a_token_that_is_not_authentic_is_refused_with_the_reason(
    authorization: str | None, detail: str, server: IssuerServer
) -> None:
    with pytest.raises(NotAuthenticatedError, match=detail):
        verify(authorization, server)


@pytest.mark.parametrize(("claims", "detail"), BAD_CLAIMS)
def test_each_claim_is_required_and_checked(
    claims: dict[str, object], detail: str, server: IssuerServer
) -> None:
    with pytest.raises(NotAuthenticatedError, match=detail):
        verify(bearer(claims), server)


@pytest.mark.parametrize(
    "claims",
    [
        pytest.param({"iat": NOW + DAY}, id="issued-ahead-by-the-skew"),
        pytest.param({"exp": NOW - DAY + HOUR}, id="expired-within-the-skew"),
    ],
)
def test_the_dates_may_be_off_by_the_skew(claims: dict[str, object], server: IssuerServer) -> None:
    assert verify(bearer(claims), server, skew_seconds=DAY) == ACCOUNT


@pytest.mark.parametrize(
    ("claims", "detail"),
    [
        pytest.param({"iat": NOW + DAY + HOUR}, "issued in the future", id="issued-in-the-future"),
        pytest.param({"exp": NOW - DAY}, "has expired", id="expired"),
    ],
)
def test_the_dates_may_be_off_by_no_more_than_the_skew(
    claims: dict[str, object], detail: str, server: IssuerServer
) -> None:
    with pytest.raises(NotAuthenticatedError, match=detail):
        verify(bearer(claims), server, skew_seconds=DAY)


def test_a_refusal_by_the_library_stands_without_an_explanation(server: IssuerServer, clock: Clock) -> None:
    # By the clock of this process, the token is still good.
    clock.now -= DAY

    async def scenario() -> None:
        async with verifying(server, clock) as verifier:
            with pytest.raises(NotAuthenticatedError, match="google-auth refuses the token"):
                await verifier.verify(bearer(iat=NOW - 2 * DAY, exp=NOW - HOUR))

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("claims", "detail"),
    [
        pytest.param(
            {"email": "other@example.iam.gserviceaccount.com"},
            "not in pubsub.service_account_email",
            id="other-email",
        ),
        pytest.param(
            {"email": ACCOUNT.upper()}, "not in pubsub.service_account_email", id="email-in-upper-case"
        ),
        pytest.param({"email": ""}, "not in pubsub.service_account_email", id="email-empty"),
        *[
            pytest.param({"email_verified": value}, "not verified", id=f"email_verified-{kind}")
            for kind, value in {"false": False, "text": "true", "one": 1, "zero": 0, **WRONG_TYPES}.items()
        ],
    ],
)
def test_a_good_token_of_another_account_is_not_permitted(
    claims: dict[str, object], detail: str, server: IssuerServer
) -> None:
    with pytest.raises(NotPermittedError, match=detail):
        verify(bearer(claims), server)


@pytest.mark.parametrize(("authorization", "detail"), NOT_TOKENS)
def test_a_header_without_a_token_causes_no_traffic(
    authorization: str | None, detail: str, server: IssuerServer
) -> None:
    with pytest.raises(NotAuthenticatedError):
        verify(authorization, server)

    assert server.fetches == 0


@pytest.mark.parametrize(
    "authorization",
    [
        bearer(header={"alg": "S3CRET"}),
        bearer(header={"kid": "S3CRET"}),
        bearer(header={"kid": ["S3CRET"]}),
        bearer(aud="S3CRET"),
        bearer(exp="S3CRET"),
        bearer(email="S3CRET"),
        "Bearer S3CRET",
        unsigned("S3CRET", {}),
    ],
    ids=["alg", "kid", "kid-a-list", "aud", "exp", "email", "no-jwt", "header"],
)
def test_no_error_and_no_traceback_shows_any_of_the_token(authorization: str, server: IssuerServer) -> None:
    with pytest.raises(ExporterError) as caught:
        verify(authorization, server)

    assert "S3CRET" not in "".join(traceback.format_exception(caught.value))
    error: BaseException | None = caught.value
    while error is not None:
        assert "S3CRET" not in f"{error!s} {error!r}"
        error = error.__context__


@pytest.fixture(scope="module")
def verify_warm() -> Iterator[Callable[[str], str]]:
    """Return a function that verifies in one loop, with certificates that are already fetched."""
    with IssuerServer(ISSUER) as server, asyncio.Runner() as runner:
        verifying_here = verifying(server, Clock())
        verifier = runner.run(verifying_here.__aenter__())
        runner.run(verifier.verify(bearer()))
        yield lambda authorization: runner.run(verifier.verify(authorization))
        runner.run(verifying_here.__aexit__(None, None, None))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_text_is_not_authentic(verify_warm: Callable[[str], str], text: str) -> None:
    for authorization in (
        text,
        f"Bearer {text}",
        f"Bearer {base64url(text.encode('utf-8', 'replace'))}.e30.AAAA",
    ):
        with pytest.raises(NotAuthenticatedError):
            verify_warm(authorization)


@settings(deadline=None)
@given(JSON | st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit"]), JSON | st.just("RS256")))
def test_any_json_as_a_header_is_not_authentic(verify_warm: Callable[[str], str], header: object) -> None:
    with pytest.raises(NotAuthenticatedError):
        verify_warm("Bearer " + ISSUER.sign(header, {}))


@settings(deadline=None)
@given(JSON | st.dictionaries(st.sampled_from(NEEDED), JSON | st.just(NOW) | st.just(AUDIENCE)))
def test_any_json_as_claims_is_not_authentic(verify_warm: Callable[[str], str], claims: object) -> None:
    with pytest.raises(NotAuthenticatedError):
        verify_warm("Bearer " + ISSUER.sign({"alg": "RS256", "kid": ISSUER.kid}, claims))


def test_a_token_of_a_new_key_is_accepted_immediately(clock: Clock) -> None:
    issuer = Issuer()

    async def scenario(server: IssuerServer) -> None:
        async with verifying(server, clock) as verifier:
            assert await is_accepted(verifier, bearer(issuer=issuer))
            issuer.rotate()
            assert await is_accepted(verifier, bearer(issuer=issuer))

    with IssuerServer(issuer) as server:
        asyncio.run(scenario(server))

    assert server.fetches == 2


def test_a_token_of_a_withdrawn_key_is_refused(clock: Clock) -> None:
    issuer = Issuer()

    async def scenario(server: IssuerServer) -> None:
        async with verifying(server, clock) as verifier:
            old = [bearer(issuer=issuer, sub="1"), bearer(issuer=issuer, sub="2")]
            assert await is_accepted(verifier, old[0])
            issuer.rotate()
            issuer.remove_older()
            assert await is_accepted(verifier, bearer(issuer=issuer))
            assert not await is_accepted(verifier, old[1])

    with IssuerServer(issuer) as server:
        asyncio.run(scenario(server))


def test_unknown_keys_cause_at_most_five_fetches_per_minute(server: IssuerServer, clock: Clock) -> None:
    async def scenario() -> list[int]:
        fetches = []
        async with verifying(server, clock) as verifier:
            for seconds in (0, 1, 59, 60, 60.5, 119, 121):
                clock.now = NOW + seconds
                for kid in range(20):
                    with pytest.raises(NotAuthenticatedError):
                        await verifier.verify(bearer(header={"kid": f"{seconds}-{kid}"}))
                fetches.append(server.fetches)
        return fetches

    assert asyncio.run(scenario()) == [5, 5, 5, 10, 10, 10, 15]


def test_failed_fetches_are_limited_too(server: IssuerServer, clock: Clock) -> None:
    server.status = HTTPStatus.SERVICE_UNAVAILABLE

    async def scenario() -> None:
        async with verifying(server, clock) as verifier:
            fetches = []
            for _ in range(70):
                with pytest.raises(CertificatesUnavailableError):
                    await verifier.verify(bearer())
                fetches.append(server.fetches)
                clock.now += 1
            assert [fetches.index(count) for count in range(2, 7)] == [1, 13, 25, 37, 60]

            server.status = HTTPStatus.OK
            clock.now += 12
            assert await is_accepted(verifier, bearer())

    asyncio.run(scenario())


def test_a_good_token_is_accepted_after_junk_has_used_up_the_fetches(
    server: IssuerServer, clock: Clock
) -> None:
    async def scenario() -> None:
        async with verifying(server, clock) as verifier:
            for kid in range(20):
                assert not await is_accepted(verifier, bearer(header={"kid": str(kid)}))
            assert await is_accepted(verifier, bearer())

    asyncio.run(scenario())


@pytest.mark.parametrize("kid", [ISSUER.kid, "unknown"], ids=["known", "unknown"])
def test_many_requests_share_one_fetch(kid: str, server: IssuerServer, clock: Clock) -> None:
    server.hold()

    async def scenario() -> list[bool]:
        async with verifying(server, clock) as verifier:
            tokens = [bearer(header={"kid": kid}, sub=str(number)) for number in range(50)]
            requests = [asyncio.create_task(is_accepted(verifier, token)) for token in tokens]
            await asyncio.to_thread(server.wait_for_fetches, 1)
            server.release()
            return await asyncio.gather(*requests)

    assert asyncio.run(scenario()) == [kid == ISSUER.kid] * 50
    assert server.fetches == 1


def test_a_fetch_continues_when_the_request_that_began_it_is_cancelled(
    server: IssuerServer, clock: Clock
) -> None:
    server.hold()

    async def scenario() -> None:
        async with verifying(server, clock) as verifier:
            first, *others = [asyncio.create_task(is_accepted(verifier, bearer())) for _ in range(3)]
            await asyncio.to_thread(server.wait_for_fetches, 1)
            first.cancel()
            await asyncio.wait({first})
            server.release()
            assert first.cancelled()
            assert await asyncio.gather(*others) == [True, True]

    asyncio.run(scenario())
    assert server.fetches == 1


def answer(
    body: bytes | None = None, status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Callable[[IssuerServer], None]:
    def set_answer(server: IssuerServer) -> None:
        server.status = status
        server.body = body
        server.headers = headers or {}

    return set_answer


def redirect(server: IssuerServer) -> None:
    server.status = HTTPStatus.FOUND
    server.headers = {"Location": server.url}


CERTIFICATES = json.dumps(ISSUER.certificates()).encode()
BAD_ANSWERS = [
    pytest.param(answer(status=HTTPStatus.INTERNAL_SERVER_ERROR), "answered 500", id="down"),
    pytest.param(answer(status=HTTPStatus.NOT_FOUND), "answered 404", id="not-found"),
    pytest.param(answer(status=HTTPStatus.ACCEPTED), "answered 202", id="another-2xx"),
    pytest.param(redirect, "answered 302", id="redirect"),
    pytest.param(answer(b""), "neither with PEM", id="empty"),
    pytest.param(answer(b"<html>rubbish"), "neither with PEM", id="not-json"),
    pytest.param(answer(b"\xff" * 99), "neither with PEM", id="not-utf-8"),
    pytest.param(answer(b"[]"), "neither with PEM", id="a-list"),
    pytest.param(answer(b'{"keys": []}'), "without an RSA key", id="an-empty-jwks"),
    pytest.param(answer(b'{"kid": "rubbish"}'), "neither with PEM", id="not-pem"),
    pytest.param(
        answer(b'{"kid": "-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----"}'),
        "neither with PEM",
        id="no-certificate-in-the-pem",
    ),
    pytest.param(answer(CERTIFICATES[:-1] + b', "kid": "rubbish"}'), "neither with PEM", id="one-of-two-bad"),
    pytest.param(answer(b"{}"), "without an RSA key", id="no-certificates"),
    pytest.param(
        answer(json.dumps({"kid": elliptic_certificate()}).encode()), "without an RSA", id="another-algorithm"
    ),
    pytest.param(answer(CERTIFICATES + b" " * (1 << 20)), "more than 1048576 bytes", id="huge"),
    pytest.param(
        answer(gzip.compress(CERTIFICATES), headers={"Content-Encoding": "gzip"}),
        "neither with PEM",
        id="packed",
    ),
    pytest.param(answer(headers={"Content-Length": "9999"}), "RemoteProtocolError", id="cut-off"),
]


@pytest.mark.parametrize(("answer_badly", "kind"), BAD_ANSWERS)
def test_a_bad_answer_is_a_failed_fetch_with_a_warning(
    answer_badly: Callable[[IssuerServer], None],
    kind: str,
    server: IssuerServer,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer_badly(server)

    async def scenario() -> None:
        async with verifying(server, clock, query="?key=S3CRET") as verifier:
            with pytest.raises(CertificatesUnavailableError, match="cannot be fetched"):
                await verifier.verify(bearer())

    with caplog.at_level(logging.WARNING, logger="app.gcp.certificates"):
        asyncio.run(scenario())

    [record] = [record for record in caplog.records if record.name == "app.gcp.certificates"]
    assert record.levelno == logging.WARNING
    assert kind in vars(record)["error"]
    assert "S3CRET" not in str(vars(record))
    assert server.fetches == 1


@pytest.mark.parametrize(("answer_badly", "kind"), BAD_ANSWERS)
def test_the_old_certificates_are_used_while_the_endpoint_answers_badly(
    answer_badly: Callable[[IssuerServer], None], kind: str, server: IssuerServer, clock: Clock
) -> None:
    async def scenario() -> None:
        async with verifying(server, clock) as verifier:
            assert await is_accepted(verifier, bearer())
            answer_badly(server)
            clock.now += HOUR
            assert await is_accepted(verifier, bearer(sub="later"))
            assert not await is_accepted(verifier, bearer(header={"kid": "waits for the same fetch"}))
            assert await is_accepted(verifier, bearer(sub="again"))

    asyncio.run(scenario())
    assert server.fetches == 2


def test_a_slow_fetch_ends_at_the_timeout(
    server: IssuerServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    server.hold()

    async def scenario() -> None:
        async with verifying(server, clock, fetch_timeout_seconds=0.05) as verifier:
            with pytest.raises(CertificatesUnavailableError):
                await verifier.verify(bearer())

    asyncio.run(scenario())
    assert "did not answer within 0.05 s" in vars(caplog.records[-1])["error"]


def test_certificates_of_a_stopped_endpoint_are_unavailable(clock: Clock) -> None:
    with IssuerServer(ISSUER) as gone:
        pass

    with pytest.raises(CertificatesUnavailableError):
        verify(bearer(), gone)


def test_stale_certificates_are_refreshed_without_delaying_a_request(
    server: IssuerServer, clock: Clock
) -> None:
    async def scenario() -> None:
        async with verifying(server, clock) as verifier:
            assert await is_accepted(verifier, bearer())
            clock.now += HOUR
            server.hold()
            for number in range(3):
                assert await is_accepted(verifier, bearer(sub=str(number)))
            await asyncio.to_thread(server.wait_for_fetches, 2)
            assert is_refreshing()

    asyncio.run(scenario())
    assert server.fetches == 2


def test_a_failed_refresh_is_retried_after_a_minute(server: IssuerServer, clock: Clock) -> None:
    async def scenario() -> None:
        async with verifying(server, clock) as verifier:
            assert await is_accepted(verifier, bearer())
            clock.now += HOUR
            server.status = HTTPStatus.INTERNAL_SERVER_ERROR
            assert not await is_accepted(verifier, bearer(header={"kid": "unknown"}))

            for seconds, refreshes in ((0, False), (59, False), (60, True)):
                clock.now = NOW + HOUR + seconds
                assert await is_accepted(verifier, bearer(sub=str(seconds)))
                assert is_refreshing() is refreshes

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("headers", "fresh_seconds"),
    [
        pytest.param({"Cache-Control": "public, max-age=21155"}, 21155, id="max-age"),
        pytest.param({"Cache-Control": "public, max-age=21155", "Age": "1155"}, 20000, id="less-age"),
        pytest.param({"Cache-Control": "MAX-AGE=21155,public", "Age": " 1155 "}, 20000, id="spelt-otherwise"),
        pytest.param({"Cache-Control": "x-max-age=100, max-age=200"}, 200, id="not-another-directive"),
        pytest.param({"Cache-Control": "max-age=21155", "Age": "rubbish"}, 21155, id="age-rubbish"),
        pytest.param({"Cache-Control": "max-age=rubbish"}, 3600, id="max-age-rubbish"),
        pytest.param({"Cache-Control": "no-transform"}, 3600, id="no-max-age"),
        pytest.param({}, 3600, id="no-cache-control"),
        pytest.param({"Cache-Control": "max-age=0"}, 60, id="floor"),
        pytest.param({"Cache-Control": "max-age=100", "Age": "9999"}, 60, id="older-than-its-max-age"),
        pytest.param({"Cache-Control": "max-age=" + "9" * 5000}, 86400, id="ceiling"),
    ],
)
def test_certificates_are_fresh_for_their_max_age_minus_their_age(
    headers: dict[str, str], fresh_seconds: float, server: IssuerServer, clock: Clock
) -> None:
    server.headers = headers

    async def scenario() -> None:
        async with verifying(server, clock) as verifier:
            for seconds, refreshes in ((0, False), (fresh_seconds - 1, False), (fresh_seconds, True)):
                clock.now = NOW + seconds
                assert await is_accepted(verifier, bearer(exp=NOW + 2 * DAY, sub=str(seconds)))
                assert is_refreshing() is refreshes

    asyncio.run(scenario())


def test_certificates_of_other_algorithms_are_left_out(server: IssuerServer) -> None:
    server.body = json.dumps({"elliptic": elliptic_certificate(), **ISSUER.certificates()}).encode()

    assert verify(bearer(), server) == ACCOUNT
    with pytest.raises(NotAuthenticatedError):
        verify(bearer(header={"kid": "elliptic"}), server)


def test_closing_ends_the_fetch_and_the_requests_that_wait_for_it(
    server: IssuerServer, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    server.hold()

    async def scenario() -> None:
        async with verifying(server, clock) as verifier:
            request = asyncio.create_task(verifier.verify(bearer()))
            await asyncio.to_thread(server.wait_for_fetches, 1)
            await verifier.aclose()
            with pytest.raises(CertificatesUnavailableError):
                await request
            assert not is_refreshing()

    asyncio.run(scenario())
    assert not caplog.records


def test_a_verified_token_is_cached_until_it_expires(server: IssuerServer, clock: Clock) -> None:
    authorization = bearer()

    async def scenario() -> None:
        async with verifying(server, clock) as verifier:
            assert verifier.cached(authorization) is None
            assert await is_accepted(verifier, authorization)

            clock.now = NOW + DAY + SKEW - 0.001
            assert verifier.cached(authorization) == ACCOUNT
            assert await is_accepted(verifier, authorization)

            clock.now = NOW + DAY + SKEW
            assert verifier.cached(authorization) is None
            with pytest.raises(NotAuthenticatedError, match="expired"):
                await verifier.verify(authorization)

    asyncio.run(scenario())


def test_cached_tokens_need_no_certificates(server: IssuerServer, clock: Clock) -> None:
    async def scenario() -> None:
        async with verifying(server, clock) as verifier:
            assert await is_accepted(verifier, bearer())
            clock.now += HOUR
            assert await is_accepted(verifier, bearer())
            assert not is_refreshing()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "authorization",
    [
        bearer(issuer=STRANGER),
        bearer(issuer=STRANGER, header={"kid": ISSUER.kid}),
        bearer(audience="other"),
        bearer(email="other"),
        bearer(email_verified=False),
        bearer(exp=NOW - HOUR),
        bearer(iat=NOW + DAY),
    ],
    ids=[
        "other-kid",
        "other-key",
        "other-audience",
        "other-email",
        "email-not-verified",
        "expired",
        "issued-in-the-future",
    ],
)
def test_a_refused_token_is_not_cached(authorization: str, server: IssuerServer, clock: Clock) -> None:
    async def scenario() -> None:
        async with verifying(server, clock) as verifier:
            for _ in range(2):
                with pytest.raises(ExporterError):
                    await verifier.verify(authorization)
                assert verifier.cached(authorization) is None

    asyncio.run(scenario())


def test_the_oldest_of_too_many_tokens_is_dropped(server: IssuerServer, clock: Clock) -> None:
    tokens = [bearer(sub=str(number)) for number in range(1002)]

    async def scenario() -> list[bool]:
        async with verifying(server, clock) as verifier:
            for token in tokens:
                await verifier.verify(token)
            return [verifier.cached(token) is not None for token in tokens]

    assert asyncio.run(scenario()) == [False] * 2 + [True] * 1000


def test_certificates_can_be_fetched_without_a_verifier(server: IssuerServer) -> None:
    server.headers = {"Cache-Control": "max-age=500", "Age": "100"}

    async def scenario() -> None:
        async with httpx.AsyncClient(trust_env=False, verify=TLS) as client:
            certificates = await fetch_certificates(client, server.url)
            assert list(certificates.keys) == [ISSUER.kid]
            assert certificates.fresh_seconds == 400

            with pytest.raises(CertificatesUnavailableError, match="cannot be reached: UnsupportedProtocol"):
                await fetch_certificates(client, "certs")

    asyncio.run(scenario())
