"""The proxy and the certificate authorities of outgoing calls, by the environment's variables.

The libraries read the same variables, but each differently, and some raise unexpected errors for values that
they do not know. https://curl.se/docs/manpage.html#ENVIRONMENT
"""

import ipaddress
import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

from app.errors import StartError

_NEVER_PROXIED: Final = ("localhost", "127.0.0.0/8", "::1")
"""Loopback. Everything here is in the syntax of NO_PROXY."""
_METADATA: Final = ("metadata.google.internal", "169.254.169.254")
"""Google's metadata server answers only the machine itself."""
_CA_BUNDLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PROXY_SCHEMES: Final = ("http", "https")
_QUOTED: Final = (
    "GOOGLE_APPLICATION_CREDENTIALS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GOOGLE_CLOUD_UNIVERSE_DOMAIN",
)
"""The variables whose values Google's libraries quote in their errors."""


def proxy_for(url: str) -> str | None:
    """Return the URL of the proxy for calls to this URL. None: call it directly.

    Raises StartError if the variable that names the proxy has a value that is not usable.
    """
    target = urlsplit(url)
    proxies = getproxies_environment()
    exempt = (*_NEVER_PROXIED, *_METADATA, *proxies.get("no", "").split(","))
    if _matches(target.hostname or "", exempt):
        return None
    for kind in (target.scheme, "all"):
        if proxies.get(kind):
            return _usable(proxies[kind], _variable(f"{kind}_proxy", proxies[kind]))
    return None


def environment_trust() -> ssl.SSLContext | None:
    """Return a context that trusts SSL_CERT_FILE or SSL_CERT_DIR. None: neither is set.

    Raises StartError if the variable names a file or a folder that does not exist.
    """
    if file := os.environ.get("SSL_CERT_FILE"):
        return _load("SSL_CERT_FILE", file)
    if folders := os.environ.get("SSL_CERT_DIR"):
        if not any(Path(folder).is_dir() for folder in folders.split(os.pathsep)):
            raise StartError("SSL_CERT_DIR: does not name a folder; correct the variable or remove it")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(capath=folders)
        return context
    return None


def check_environment(url: str) -> None:
    """Raise StartError if a variable that is used for calls to this URL has a value that is not usable."""
    if proxy_for(url) is not None or url.startswith("https:"):
        environment_trust()


def child_environment(url: str) -> Mapping[str, str]:
    """Return the environment for a child process that calls this URL with requests and google-auth.

    Raises StartError as `proxy_for`, and if a variable names a bundle of certificates that cannot be read.
    """
    proxy_for(url)
    for name in _CA_BUNDLES:
        value = os.environ.get(name)
        if value and url.startswith("https:") and not Path(value).is_dir():
            _load(name, value)
    named = getproxies_environment().get("no", "")
    # requests knows the asterisk only if nothing else is named.
    exempt = (
        "*"
        if _exempts_all(named.split(","))
        else ",".join(filter(None, [named, *_NEVER_PROXIED, *_METADATA]))
    )
    return os.environ | {"NO_PROXY": exempt, "no_proxy": exempt}


def without_values(message: str) -> str:
    """Return a library's message with the names of variables in place of the values that it quotes."""
    for name in _QUOTED:
        if value := os.environ.get(name):
            message = message.replace(value, f"${name}")
    return message


def _matches(host: str, exempt: Sequence[str]) -> bool:
    host = host.lower().rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        names = (entry.strip().lower().removeprefix("*").lstrip(".") for entry in exempt)
        return any(f".{host}".endswith(f".{name}") for name in names if name) or _exempts_all(exempt)
    return _exempts_all(exempt) or any(address in network for network in map(_network, exempt) if network)


def _exempts_all(exempt: Sequence[str]) -> bool:
    return any(entry.strip() == "*" for entry in exempt)


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry.strip().strip("[]"), strict=False)
    except ValueError:
        return None


def _variable(name: str, value: str) -> str:
    # urllib accepts the name in any case.
    return next((key for key in os.environ if key.lower() == name and os.environ[key] == value), name)


def _usable(value: str, variable: str) -> str:
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        # Without the value, which may have a password.
        raise StartError(f"{variable}: should be the URL of a proxy: http://host:port or https://host:port")
    return url


def _load(variable: str, file: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=file)
    except (OSError, ValueError) as exc:
        fault = "is not a file of PEM certificates" if isinstance(exc, ssl.SSLError) else "cannot be read"
        raise StartError(f"{variable}: the file {fault}; correct the variable or remove it") from None
    return context
