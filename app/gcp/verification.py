"""The verification of push tokens, loaded with its libraries when the first token arrives."""

import asyncio
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from app.errors import CertificatesUnavailableError, StartError
from app.gcp.egress import check_environment

if TYPE_CHECKING:
    from httpx import AsyncClient

    from app.gcp.oidc import Verifier


class _Loaded(NamedTuple):
    client: "AsyncClient"
    verifier: "Verifier"


class Verification:
    """Finds a request's caller by its Authorization header, as `app.gcp.oidc.Verifier` does.

    The libraries for HTTP and for signatures take a tenth of the time of a start, and 14 MiB. They are
    loaded in another thread, so that the event loop goes on.
    """

    def __init__(
        self,
        *,
        certs_url: str,
        audiences: Collection[str],
        accounts: Collection[str],
        clock_skew_seconds: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises StartError if a variable of the environment has a value that is not usable."""
        check_environment(certs_url)
        self._load = partial(_load, certs_url, audiences, accounts, clock_skew_seconds, monotonic)
        self._loading: asyncio.Task[_Loaded] | None = None
        self._loaded: _Loaded | None = None

    def cached(self, authorization: str) -> str | None:
        """Return the caller's e-mail address if this header was verified before and has not expired."""
        return None if self._loaded is None else self._loaded.verifier.cached(authorization)

    async def verify(self, authorization: str | None) -> str:
        """Return the caller's e-mail address.

        Raises NotAuthenticatedError, NotPermittedError or CertificatesUnavailableError.
        """
        if self._loaded is None:
            if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
                self._loading = asyncio.create_task(asyncio.to_thread(self._load))
            try:
                # Shielded, because the caller that goes is not the only one that waits.
                self._loaded = await asyncio.shield(self._loading)
            except StartError as exc:  # a file that a variable names has gone since the start
                raise CertificatesUnavailableError(str(exc)) from exc
        return await self._loaded.verifier.verify(authorization)

    async def aclose(self) -> None:
        """Stop the fetch that is under way, and close the client."""
        if self._loading is not None:
            await asyncio.wait([self._loading])
            if self._loading.exception() is None:
                client, verifier = self._loading.result()
                await verifier.aclose()
                await client.aclose()


def _load(
    certs_url: str,
    audiences: Collection[str],
    accounts: Collection[str],
    clock_skew_seconds: int,
    monotonic: Callable[[], float],
) -> _Loaded:
    from app.gcp.client import make_client  # noqa: PLC0415 - see `Verification`
    from app.gcp.oidc import Verifier  # noqa: PLC0415

    client = make_client(certs_url)
    return _Loaded(
        client,
        Verifier(
            client,
            certs_url=certs_url,
            audiences=audiences,
            accounts=accounts,
            clock_skew_seconds=clock_skew_seconds,
            monotonic=monotonic,
        ),
    )
