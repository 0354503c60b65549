"""The environment's variables for outgoing calls: each is used, removed, or named in one line."""

import os
from pathlib import Path

import httpx
import pytest

from app.errors import StartError
from app.gcp.client import make_client
from app.gcp.egress import child_environment, proxy_for

GOOGLE = "https://www.googleapis.com/oauth2/v1/certs"
PROXY = "http://proxy.example:3128"
SECRET = "hunter2"  # noqa: S105 - must not be shown


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("value", [PROXY, PROXY.removeprefix("http://")], ids=["url", "host-and-port"])
def test_a_proxy_is_used_for_remote_hosts(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    assert proxy_for(GOOGLE) == PROXY


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:81/",
        "http://127.9.9.9/",
        "http://[::1]:81/",
        "http://LocalHost/",
        "http://a.localhost",
    ],
)
def test_loopback_is_never_proxied(monkeypatch: pytest.MonkeyPatch, name: str, url: str) -> None:
    monkeypatch.setenv(name, PROXY)

    assert proxy_for(url) is None
    assert proxy_for("http://example.com/") == PROXY


@pytest.mark.parametrize(
    ("exempt", "url", "direct"),
    [
        pytest.param("googleapis.com", GOOGLE, True, id="domain"),
        pytest.param(" .googleapis.com ,x", GOOGLE, True, id="domain-with-dot"),
        pytest.param("*.googleapis.com", GOOGLE, True, id="domain-with-asterisk"),
        pytest.param("apis.com", GOOGLE, False, id="part-of-a-label"),
        pytest.param("a,*", GOOGLE, True, id="all"),
        pytest.param("10.0.0.0/8,fd00::/8", "https://[fd00::7]/", True, id="network-6"),
        pytest.param("10.0.0.0/8,fd00::/8", "https://10.1.2.3/", True, id="network-4"),
        pytest.param("10.0.0.0/8,fd00::/8,[::,://,a:b:c,99999", GOOGLE, False, id="nonsense"),
    ],
)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_exempt_hosts_are_called_directly(
    monkeypatch: pytest.MonkeyPatch, name: str, exempt: str, url: str, *, direct: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", PROXY)
    monkeypatch.setenv(name, exempt)

    assert proxy_for(url) == (None if direct else PROXY)
    make_client(url)


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize(
    "value",
    [
        f"socks5://u:{SECRET}@p:1",
        f"http://u:{SECRET}@p:port",
        f"http://:{SECRET}@",
        f"http://[{SECRET}",
        "http://",
    ],
)
def test_an_unusable_proxy_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    for make in (make_client, child_environment):
        with pytest.raises(StartError, match=rf"\A{name}: should be the URL of a proxy[^\n]*\Z") as raised:
            make(GOOGLE)
        assert SECRET not in str(raised.value)
        make("http://127.0.0.1:81/")


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_missing_certificate_authorities_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv(name, str(tmp_path / SECRET))

    with pytest.raises(StartError, match=rf"\A{name}: ") as raised:
        make_client(GOOGLE)
    assert SECRET not in str(raised.value)
    make_client("http://127.0.0.1:81/")


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_missing_bundle_of_the_listing_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv(name, str(tmp_path / SECRET))

    with pytest.raises(StartError, match=rf"\A{name}: the file cannot be read") as raised:
        child_environment(GOOGLE)
    assert SECRET not in str(raised.value)
    child_environment("http://127.0.0.1:81")


def test_the_listing_reaches_loopback_and_the_metadata_server_directly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_PROXY", "shop.example")

    exempt = child_environment(GOOGLE)["no_proxy"].split(",")

    assert {"shop.example", "localhost", "127.0.0.0/8", "::1", "metadata.google.internal"} <= set(exempt)


def test_a_client_does_not_read_the_environment_by_itself() -> None:
    assert isinstance(make_client(GOOGLE), httpx.AsyncClient)
    assert not make_client(GOOGLE).trust_env
