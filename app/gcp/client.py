"""The HTTP client of the certificates endpoint."""

import httpx

from app.gcp.egress import environment_trust, proxy_for


def make_client(url: str) -> httpx.AsyncClient:
    """Return a client for calls to this URL, through the environment's proxy unless the URL is on loopback.

    Raises StartError if a variable of the environment has a value that is not usable.
    """
    # httpx would read the environment itself, and raise unexpected errors for values that it does not know.
    proxy = proxy_for(url)
    if proxy is None and not url.startswith("https:"):
        return httpx.AsyncClient(trust_env=False)
    context = environment_trust() or httpx.create_ssl_context(trust_env=False)
    if proxy is None:
        return httpx.AsyncClient(trust_env=False, verify=context)
    secured = context if proxy.startswith("https:") else None
    return httpx.AsyncClient(trust_env=False, verify=context, proxy=httpx.Proxy(proxy, ssl_context=secured))
