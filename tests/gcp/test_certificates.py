"""The two forms of the certificates endpoint's answer, and the errors that name its host."""

import asyncio
import json
from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import load_pem_x509_certificate

from app.demo.issuer import base64url
from app.errors import CertificatesUnavailableError
from app.gcp.certificates import Certificates, fetch_certificates
from app.gcp.client import make_client
from tests.support.issuer import Issuer, IssuerServer
from tests.support.process import LOOPBACK, free_port

ISSUER = Issuer()
PUBLIC = load_pem_x509_certificate(ISSUER.certificates()[ISSUER.kid].encode()).public_key()


@pytest.fixture
def server() -> Iterator[IssuerServer]:
    with IssuerServer(ISSUER) as server:
        yield server


def fetched(url: str) -> Certificates:
    async def fetch() -> Certificates:
        async with make_client(url) as client:
            return await fetch_certificates(client, url)

    return asyncio.run(fetch())


def jwk(**changed: object) -> dict[str, object]:
    assert isinstance(PUBLIC, RSAPublicKey)
    numbers = PUBLIC.public_numbers()
    n, e = (base64url(number.to_bytes((number.bit_length() + 7) // 8)) for number in (numbers.n, numbers.e))
    return {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "one", "n": n, "e": e} | changed


def test_a_json_web_key_set_gives_the_same_keys_as_certificates(server: IssuerServer) -> None:
    elliptic = {"kty": "EC", "crv": "P-256", "kid": "two", "x": "AA", "y": "AA"}
    server.body = json.dumps({"keys": [elliptic, jwk()]}).encode()

    pem = PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    assert fetched(server.url).keys == {"one": pem}


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(jwk(n="+/=="), id="not-base64url"),
        pytest.param(jwk(n="é"), id="not-ascii"),
        pytest.param(jwk(n=""), id="no-modulus"),
        pytest.param(jwk(e="AQ"), id="exponent-1"),
        pytest.param(jwk(n=7), id="a-number"),
    ],
)
def test_a_key_set_with_an_impossible_key_is_refused(server: IssuerServer, key: dict[str, object]) -> None:
    server.body = json.dumps({"keys": [jwk(kid="good"), key]}).encode()

    with pytest.raises(CertificatesUnavailableError, match="nor with a JSON Web Key Set"):
        fetched(server.url)


def test_an_endpoint_that_cannot_be_reached_is_named_without_its_secrets() -> None:
    port = free_port()

    with pytest.raises(CertificatesUnavailableError) as raised:
        fetched(f"http://user:hunter2@{LOOPBACK}:{port}/certs?key=hunter2")

    assert str(raised.value) == (
        f"the certificates endpoint {LOOPBACK}:{port} cannot be reached: connection refused"
    )
