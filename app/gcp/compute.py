"""The program of a child process that lists a project's instances; the server never imports it.

It writes to stdout page by page, in ASCII, one JSON value per line:

- An array is an instance: `[zone, name, id, is_node, cluster, cluster_location, node_pool, machine_type,
  spot, status, created_at, started_at]`. It always has twelve elements. `id` is text; times are seconds since
  the epoch; null means that Google gives no value. If `is_node` is false, it is a Spot VM outside GKE, with
  its zone, name and id only.
- `{"progress": {"pages", "instances", "seconds", "retrying"}}` comes after a page, at most once per second,
  and before each retry, with its reason in `retrying` (else null).
- `{"summary": {"began", "complete", "failed_scopes", "pages", "instances", "invalid", "seconds",
  "peak_rss_mib", "error"}}` is the last line. Without it, the listing was cut off. `began` is the listing's
  time: instances created later may be missing. If it is `complete`, every page was read, and instances that
  are missing from it can exist only in the `failed_scopes` (sorted, each `zones/Z`). `invalid` counts the
  instances left out because a name or a label cannot be stored and shown. `error` is null or
  `{"reason", "message"}`. Reasons are forbidden, api_disabled, rate_limited, unavailable, not_found,
  credentials, malformed (the answer is not a list of instances), partial (something other than a zone is
  missing), memory, other.

The exit code is 0 if the listing is complete, else 1. With `--pages`, it is 1 without an error if pages are
left.

https://cloud.google.com/compute/docs/reference/rest/v1/instances/aggregatedList
"""
# ruff: noqa: E402 - the code before the imports makes them cheaper

import argparse
import ctypes
import gc
import importlib.util
import json
import logging
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple, TypeAlias


def _skip_package_init() -> None:
    # The package's own __init__ imports the clients of all hundred services of Compute Engine, and only one
    # is needed. An empty package in its place still finds the submodules.
    spec = importlib.util.find_spec("google.cloud.compute_v1")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("google-cloud-compute is not installed")
    package = ModuleType(spec.name)
    package.__path__ = spec.submodule_search_locations
    sys.modules[spec.name] = package


_skip_package_init()

from google.api_core.exceptions import BadRequest, GoogleAPICallError, NotFound, RetryError, Unauthorized
from google.api_core.retry import Retry
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud.compute_v1.services.instances import InstancesClient
from google.cloud.compute_v1.services.instances.transports import InstancesRestTransport
from google.cloud.compute_v1.types import AggregatedListInstancesRequest, InstanceAggregatedList
from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]

from app.gcp.labels import CLUSTER, CLUSTER_LOCATION, GKE_NODE, NODE_POOL, PROVISIONING_MODEL, is_spot
from app.gcp.values import UNPRINTABLE, epoch_seconds, is_valid_text

if TYPE_CHECKING:
    from requests import PreparedRequest

_Page: TypeAlias = Any
"""An InstanceAggregatedList of protobuf, because proto-plus wraps each field at each access and is slow."""
_Instance: TypeAlias = Any

# Nodes and other Spot VMs, in one listing: no instance comes twice, and all are of the same time. The syntax
# is that of AIP-160, as documented for the parameter. The filter only saves traffic: see `_entry`.
_FILTER: Final = " OR ".join(
    (
        f"(labels.{CLUSTER}:*)",
        f"(labels.{GKE_NODE}:*)",
        "(scheduling.preemptible = true)",
        '(scheduling.provisioningModel = "SPOT")',
    )
)
# https://cloud.google.com/compute/docs/api/how-tos/performance#partial-response
_FIELDS: Final = (
    "kind,nextPageToken,unreachables,warning/code,items/*/warning/code,"
    "items/*/instances(name,id,machineType,status,creationTimestamp,lastStartTimestamp,labels,"
    "scheduling(preemptible,provisioningModel))"
)
# The request class has neither of them; the service has both.
_PARAMETERS: Final = {"returnPartialSuccess": "true", "fields": _FIELDS}

_MAX_RESULTS: Final = 500
_PROGRESS_SECONDS: Final = 1.0
_MAX_DETAIL: Final = 300
_NO_RESULTS: Final = "NO_RESULTS_ON_PAGE"

_LONG_URL: Final = re.compile(r"^[A-Z]+ \S+: |(?<=/instances)\?\S+")
_ZONE: Final = re.compile(r"(?:.*/)?zones/([^/]+)")

_TRANSIENT: Final = frozenset({"rate_limited", "unavailable", "malformed"})
_RATE_LIMITS: Final = frozenset({"rateLimitExceeded", "userRateLimitExceeded", "RATE_LIMIT_EXCEEDED"})
_DISABLED: Final = frozenset({"accessNotConfigured", "SERVICE_DISABLED"})

_MESSAGES: Final[Mapping[str, str]] = {
    "forbidden": "listing the instances of project {project} is forbidden: it needs the permission "
    "compute.instances.list (role roles/compute.viewer, or a custom one): {detail}",
    "api_disabled": "the Compute Engine API is not enabled in project {project}: "
    "enable compute.googleapis.com there: {detail}",
    "rate_limited": "the Compute Engine API keeps limiting the rate of project {project}: {detail}",
    "unavailable": "the Compute Engine API does not answer for project {project}: {detail}",
    "not_found": "there is no project {project}, or it cannot be seen: {detail}",
    "credentials": "no usable Google Cloud credentials for project {project}: {detail}",
    "malformed": "the answer for project {project} is not a list of instances: {detail}",
    "partial": "the listing of project {project} is incomplete; missing: {detail}",
    "memory": "listing project {project} needs more memory than its limit",
    "other": "listing project {project} failed: {detail}",
}

# The libraries quote the values of these variables in their errors. Messages show the names instead.
_QUOTED: Final = (
    "GOOGLE_APPLICATION_CREDENTIALS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GOOGLE_CLOUD_UNIVERSE_DOMAIN",
)

_log = logging.getLogger(__name__)
_encode = json.JSONEncoder(separators=(",", ":")).encode


def main() -> int:
    """List by the arguments and return the exit code."""
    options = parsed(sys.argv[1:])
    if options.parent:
        _end_with(options.parent)
    os.nice(options.nice)
    _limit_memory(options.memory_mib)
    gc.freeze()
    # sys.stdout has no buffer under PYTHONUNBUFFERED, and a write without a buffer can be partial.
    stream = open(sys.stdout.fileno(), "wb", closefd=False)  # noqa: SIM115 - open until the process ends
    try:
        return list_instances(options, stream)
    except BrokenPipeError:
        # The reader has closed the pipe.
        return 1


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options that the command line gives; exit with a usage message if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m app.gcp.compute", description="List a project's instances."
    )
    parser.add_argument("--project", required=True)
    parser.add_argument(
        "--endpoint", default="", help="another Compute API; without credentials if it begins with http://"
    )
    parser.add_argument("--pages", type=int, default=0, help="the number of pages to read; 0: all")
    parser.add_argument("--parent", type=int, default=0, help="a process id: end when this process ends")
    parser.add_argument("--memory-mib", type=int, default=256, help="limit of its data; 0: no limit")
    parser.add_argument("--nice", type=int, default=10, help="added to the niceness")
    parser.add_argument("--page-seconds", type=float, default=90, help="timeout of a page with its retries")
    parser.add_argument("--answer-seconds", type=float, default=30, help="timeout of a request")
    parser.add_argument(
        "--backoff", type=float, default=1, help="maximum delay before the first retry, in seconds"
    )
    return parser.parse_args(arguments)


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends for any reason.

    In fact, when the thread that started it ends. A server's thread must live as long as the server.
    """
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit("the parent has ended")


def _limit_memory(mib: int) -> None:
    # Private writable memory, as for an out-of-memory kill. RLIMIT_AS would also count mapped libraries and
    # reserved addresses, which differ between machines.
    if mib:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = mib * 2**20 if hard == resource.RLIM_INFINITY else min(mib * 2**20, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def list_instances(
    options: argparse.Namespace, stream: BinaryIO, clock: Callable[[], float] = time.monotonic
) -> int:
    """Write the listing's lines to the stream and return the exit code.

    `clock` returns seconds. Raises BrokenPipeError if the reader has closed the stream.
    """
    listing = _Listing(stream, clock)
    failure: _Failure | None = None
    try:
        listing.read(_pages(options, listing.retrying), limit=options.pages)
    except BrokenPipeError:
        raise
    except Exception as exc:  # noqa: BLE001 - the edge of the process: the summary has the reason
        failure = _failure(exc, options.project)
    if failure is None and listing.unlistable:
        failure = _failed("partial", options.project, ", ".join(sorted(listing.unlistable)))
    return listing.end(failure)


class _Failure(NamedTuple):
    reason: str
    message: str


class _NotAListError(Exception):
    """A successful answer that is not a list: a proxy's page, an empty object."""


class _Listing:
    """The instances of a project that were read so far, written as they are read."""

    def __init__(self, stream: BinaryIO, clock: Callable[[], float]) -> None:
        self.unlistable: set[str] = set()
        self._stream = stream
        self._clock = clock
        self._began = time.time()
        self._started = self._reported = clock()
        self._pages = self._instances = self._invalid = 0
        self._failed: set[str] = set()
        self._complete = False

    def read(self, pages: Iterator[_Page], *, limit: int) -> None:
        for page in pages:
            lines = list(self._lines(page))
            self._pages += 1
            self._instances += len(lines)
            self._write(lines)
            if self._clock() - self._reported >= _PROGRESS_SECONDS:
                self._report(None)
            if self._pages == limit and page.next_page_token:
                return
        self._complete = True

    def retrying(self, error: Exception) -> None:
        self._report(_reason(error))

    def end(self, failure: _Failure | None) -> int:
        complete = self._complete and failure is None
        summary = {
            "began": self._began,
            "complete": complete,
            "failed_scopes": sorted(self._failed),
            "pages": self._pages,
            "instances": self._instances,
            "invalid": self._invalid,
            "seconds": self._seconds(),
            "peak_rss_mib": _peak_rss_mib(),
            "error": failure and failure._asdict(),
        }
        self._write([_encode({"summary": summary})])
        return 0 if complete else 1

    def _lines(self, page: _Page) -> Iterator[str]:
        for missing in page.unreachables:
            self._fail(missing)
        if page.warning.code not in {"", _NO_RESULTS} and not page.unreachables:
            self._fail(page.warning.code)
        for scope, listed in page.items.items():
            if listed.warning.code not in {"", _NO_RESULTS}:
                self._fail(scope)
            zone = scope.rpartition("/")[2]
            for instance in listed.instances:
                entry = _entry(instance, zone)
                if entry is None:
                    continue
                if entry.is_valid():
                    yield _encode(entry)
                else:
                    self._invalid += 1

    def _fail(self, scope: str) -> None:
        zone = _ZONE.fullmatch(scope)
        if zone:
            self._failed.add(f"zones/{zone[1]}")
        else:
            self.unlistable.add(scope)

    def _report(self, retrying: str | None) -> None:
        self._reported = self._clock()
        progress = {
            "pages": self._pages,
            "instances": self._instances,
            "seconds": self._seconds(),
            "retrying": retrying,
        }
        self._write([_encode({"progress": progress})])

    def _write(self, lines: list[str]) -> None:
        self._stream.write("".join(f"{line}\n" for line in lines).encode())
        self._stream.flush()

    def _seconds(self) -> float:
        return round(self._clock() - self._started, 3)


class _Entry(NamedTuple):
    """An instance's line; a tuple, because JSON encodes it as an array."""

    zone: str
    name: str
    id: str
    is_node: bool
    cluster: str | None = None
    cluster_location: str | None = None
    node_pool: str | None = None
    machine_type: str | None = None
    spot: bool = True
    status: str | None = None
    created_at: float | None = None
    started_at: float | None = None

    def is_valid(self) -> bool:
        """Return True if the instance can be stored and shown."""
        identified = self.zone and self.name and self.id
        return bool(identified) and is_valid_text(*(value for value in self if isinstance(value, str)))


def _entry(instance: _Instance, zone: str) -> _Entry | None:
    """Return an instance's line; None if it is neither a node nor a Spot VM.

    The filter is not enough, because a server may ignore it. As in the audit log, an old node has the label
    `goog-gke-node` and no cluster's name.
    """
    labels, scheduling = instance.labels, instance.scheduling
    identity = (zone, instance.name, str(instance.id or ""))
    cluster = labels.get(CLUSTER)
    spot = bool(
        is_spot(
            preemptible=scheduling.preemptible,
            provisioning_model=scheduling.provisioning_model,
            label=labels.get(PROVISIONING_MODEL),
        )
    )
    if not cluster and GKE_NODE not in labels:
        return _Entry(*identity, is_node=False) if spot else None
    return _Entry(
        *identity,
        is_node=True,
        cluster=cluster or None,
        cluster_location=labels.get(CLUSTER_LOCATION) or None,
        node_pool=labels.get(NODE_POOL) or None,
        machine_type=instance.machine_type.rpartition("/")[2] or None,
        spot=spot,
        status=instance.status or None,
        created_at=epoch_seconds(instance.creation_timestamp),
        started_at=epoch_seconds(instance.last_start_timestamp),
    )


def _pages(options: argparse.Namespace, on_retry: Callable[[Exception], None]) -> Iterator[_Page]:
    """Yield every page; a retry repeats a page, not the listing."""
    transport = _transport(options.endpoint)
    client = InstancesClient(transport=transport)
    retry = Retry(
        predicate=_is_transient,
        initial=options.backoff,
        maximum=15 * options.backoff,
        timeout=options.page_seconds,
        on_error=on_retry,
    )
    fetch = retry(partial(_fetch, client, options.answer_seconds))
    request = AggregatedListInstancesRequest(
        project=options.project, max_results=_MAX_RESULTS, filter=_FILTER
    )
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
            _log.warning("the query was refused, trying a simpler one: %s", _detail(exc))
            optional_parameters.pop()()
            continue
        yield page
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def _fetch(client: InstancesClient, timeout: float, request: AggregatedListInstancesRequest) -> _Page:
    """Return the page of this request: the pager's first page, so that a retry includes its check."""
    pager = client.aggregated_list(request=request, retry=None, timeout=timeout)
    page = InstanceAggregatedList.pb(next(pager.pages))
    # An empty object would be read as a page without instances, and so as the end of the fleet.
    if page.kind != "compute#instanceAggregatedList" and not page.items:
        raise _NotAListError("no kind and no items")
    if page.next_page_token and page.next_page_token == request.page_token:
        raise _NotAListError("the next page is this page")
    return page


class _Transport(InstancesRestTransport):
    """The library's transport, with query parameters that its request class does not have."""

    def __init__(self, **arguments: Any) -> None:  # noqa: ANN401 - the base class's arguments
        super().__init__(**arguments)
        self.parameters = dict(_PARAMETERS)
        self._session.auth = self._add_parameters

    def _add_parameters(self, request: "PreparedRequest") -> "PreparedRequest":
        request.prepare_url(request.url or "", self.parameters)
        return request


def _transport(endpoint: str) -> _Transport:
    if endpoint.startswith("http://"):
        return _Transport(host=endpoint.rstrip("/"), url_scheme="http", credentials=AnonymousCredentials())
    return _Transport(host=endpoint.rstrip("/")) if endpoint else _Transport()


def _is_transient(error: Exception) -> bool:
    if isinstance(error, GoogleAuthError):
        return isinstance(error, TransportError) or error.retryable
    return _reason(error) in _TRANSIENT


def _reason(error: BaseException) -> str:
    if isinstance(error, RetryError) and error.cause:
        error = error.cause
    for kinds, reason in _REASONS:
        if isinstance(error, kinds):
            return reason
    return _refusal(error) if isinstance(error, GoogleAPICallError) else "other"


# Every exception of requests is an OSError; google-auth's own OSError is about credentials.
_REASONS: Final[tuple[tuple[tuple[type[BaseException], ...], str], ...]] = (
    ((GoogleAuthError, Unauthorized), "credentials"),
    ((NotFound,), "not_found"),
    ((OSError,), "unavailable"),
    ((ParseError, UnicodeError, _NotAListError), "malformed"),
    ((MemoryError,), "memory"),
)


def _refusal(error: GoogleAPICallError) -> str:
    # A 403 can be a missing permission, a disabled API, or a rate limit.
    code = int(error.code or 0)
    slugs = {str(item.get("reason")) for item in error.errors if isinstance(item, dict)} | {str(error.reason)}
    if code == 429 or slugs & _RATE_LIMITS:  # noqa: PLR2004 - an HTTP status
        return "rate_limited"
    if slugs & _DISABLED:
        return "api_disabled"
    if code == 403:  # noqa: PLR2004
        return "forbidden"
    return "unavailable" if code >= 500 or code == 408 else "other"  # noqa: PLR2004


def _failure(error: Exception, project: str) -> _Failure:
    reason = _reason(error)
    if reason == "other":
        _log.error("the listing failed unexpectedly", exc_info=error)
    return _failed(reason, project, _detail(error))


def _failed(reason: str, project: str, detail: str) -> _Failure:
    return _Failure(reason, _MESSAGES[reason].format(project=project, detail=detail))


def _detail(error: BaseException) -> str:
    cause = error.cause if isinstance(error, RetryError) and error.cause else error
    text = cause.message if isinstance(cause, GoogleAPICallError) else f"{type(cause).__name__}: {cause}"
    # The libraries' messages have a URL in them that is longer than the rest.
    text = _LONG_URL.sub("", str(text))
    for name in _QUOTED:
        if value := os.environ.get(name):
            text = text.replace(value, f"${name}")
    return UNPRINTABLE.sub(" ", text)[:_MAX_DETAIL]


def _peak_rss_mib() -> float:
    # Not the maximum of getrusage, which includes the parent's memory at the fork.
    status = Path("/proc/self/status").read_text()
    peak = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return round(int(peak[1]) / 1024, 1) if peak else 0.0


if __name__ == "__main__":
    raise SystemExit(main())
