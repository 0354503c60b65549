"""The pages of an aggregated list of the Compute Engine API.

https://cloud.google.com/compute/docs/reference/rest/v1/instances/aggregatedList,
https://cloud.google.com/compute/docs/reference/rest/v1/globalOperations/aggregatedList
"""

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from google.api_core.exceptions import BadRequest
from google.api_core.retry import Retry
from google.auth.credentials import AnonymousCredentials

from app.gcp.compute.failures import NotAListError, Subject, detail_of, is_transient

if TYPE_CHECKING:
    from requests import PreparedRequest

Page: TypeAlias = Any
"""An answer of protobuf, because proto-plus wraps each field at each access and is slow."""

_MAX_RESULTS: Final = 500
_log = logging.getLogger(__name__)


class Transport:
    """The base of a transport of the library, with query parameters that its request class does not have."""

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401 - the library's arguments
        super().__init__(**arguments)
        self.parameters: dict[str, str] = {}
        self._session: Any
        self._session.auth = self._add_parameters

    def _add_parameters(self, request: "PreparedRequest") -> "PreparedRequest":
        request.prepare_url(request.url or "", self.parameters)
        return request


@dataclass(frozen=True)
class Source:
    """An aggregated list that can be read."""

    subject: Subject
    client: Callable[..., Any]
    transport: Callable[..., Transport]
    request: Callable[..., Any]
    answer: Any
    """The class of an answer."""
    kind: str
    """The `kind` of an answer."""
    filter: str
    fields: str
    entries_of: Callable[[str, Any], Sequence["tuple[object, ...] | None"]]
    """Return the entries of a scope's zone in a page; None for one that cannot be stored and shown."""

    def transport_to(self, endpoint: str) -> Transport:
        """Return a transport to an endpoint; "" for Google's. It uses no credentials over plain HTTP."""
        if endpoint.startswith("http://"):
            transport = self.transport(
                host=endpoint.rstrip("/"), url_scheme="http", credentials=AnonymousCredentials()
            )
        else:
            transport = self.transport(host=endpoint.rstrip("/")) if endpoint else self.transport()
        # The request class has neither of them; the service has both.
        transport.parameters = {"returnPartialSuccess": "true", "fields": self.fields}
        return transport


def read_pages(
    source: Source, options: argparse.Namespace, on_retry: Callable[[Exception], None]
) -> Iterator[Page]:
    """Yield every page; a retry repeats a page, not the reading."""
    transport = source.transport_to(options.endpoint)
    client = source.client(transport=transport)
    retry = Retry(
        predicate=is_transient,
        initial=options.backoff,
        maximum=15 * options.backoff,
        timeout=options.page_seconds,
        on_error=on_retry,
    )
    fetch = retry(partial(_fetch, source, client, options.answer_seconds))
    request = source.request(project=options.project, max_results=_MAX_RESULTS, filter=source.filter)
    # Filter and fields only save traffic. A server that refuses them can still be listed without them.
    optional_parameters: list[Callable[[], None]] = [
        transport.parameters.clear,
        partial(delattr, request, "filter"),
    ]
    while True:
        try:
            page = fetch(request)
        except BadRequest as exc:
            # Only before the first page: page tokens belong to a query.
            if request.page_token or not optional_parameters:
                raise
            _log.warning("Compute Engine refused the query; trying a simpler one: %s", detail_of(exc))
            optional_parameters.pop()()
            continue
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _fetch(source: Source, client: Any, timeout: float, request: Any) -> Page:  # noqa: ANN401 - a source's
    """Return the page of this request: the pager's first page, so that a retry includes its check."""
    pager = client.aggregated_list(request=request, retry=None, timeout=timeout)
    page = source.answer.pb(next(pager.pages))
    # An empty object would be read as the last page, without entries.
    if page.kind != source.kind and not page.items:
        raise NotAListError("no kind and no items")
    if page.next_page_token and page.next_page_token == request.page_token:
        raise NotAListError("the next page is this page")
    return page
