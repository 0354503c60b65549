"""A local Compute API: aggregated lists of instances and operations over HTTP, with the errors of Google.

https://cloud.google.com/compute/docs/reference/rest/v1/instances/aggregatedList,
https://cloud.google.com/compute/docs/reference/rest/v1/globalOperations/aggregatedList
"""

import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.support.process import LOOPBACK

JsonObject: TypeAlias = dict[str, Any]

_REGIONS: Final = (
    *("africa-south1", "asia-east1", "asia-east2", "asia-northeast1", "asia-northeast2", "asia-northeast3"),
    *("asia-south1", "asia-south2", "asia-southeast1", "asia-southeast2", "asia-southeast3"),
    *("australia-southeast1", "australia-southeast2", "europe-central2", "europe-north1", "europe-north2"),
    *("europe-southwest1", "europe-west1", "europe-west10", "europe-west12", "europe-west2", "europe-west3"),
    *("europe-west4", "europe-west6", "europe-west8", "europe-west9", "me-central1", "me-central2"),
    *("me-west1", "northamerica-northeast1", "northamerica-northeast2", "northamerica-south1"),
    *("southamerica-east1", "southamerica-west1", "us-central1", "us-east1", "us-east4", "us-east5"),
    *("us-south1", "us-west1", "us-west2", "us-west3", "us-west4"),
)
SCOPES: Final = tuple(f"zones/{region}-{letter}" for region in _REGIONS for letter in "abc")
"""The scopes in every answer; most of them are empty."""

_ROOT: Final = "https://www.googleapis.com/compute/v1"
_PATH: Final = re.compile(r"/compute/v1/projects/([^/]+)/aggregated/(instances|operations)")
_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class FakeInstance:
    """An instance of the API. By default it is a running Spot VM outside GKE."""

    name: str
    id: str = "4158127351007949610"
    zone: str = "us-east1-b"
    labels: Mapping[str, str] = field(default_factory=dict)
    scheduling: Mapping[str, object] = field(
        default_factory=lambda: {"preemptible": True, "provisioningModel": "SPOT"}
    )
    machine_type: str = "e2-standard-8"
    status: str = "RUNNING"
    created: str | None = "2026-03-01T04:05:06.789-08:00"
    started: str | None = "2026-03-01T04:05:16.123-08:00"

    def rest(self, project: str) -> JsonObject:
        """Return its JSON, with as many fields as a real node has."""
        where = f"{_ROOT}/projects/{project}/zones/{self.zone}"
        region = self.zone.rpartition("-")[0]
        times = {"creationTimestamp": self.created, "lastStartTimestamp": self.started}
        return {
            "kind": "compute#instance",
            "id": self.id,
            **{name: at for name, at in times.items() if at is not None},
            "name": self.name,
            "description": "",
            "tags": {"items": [f"gke-{self.name[:20]}-node"], "fingerprint": "64R2DbCkcGg="},
            "machineType": f"{where}/machineTypes/{self.machine_type}",
            "status": self.status,
            "zone": where,
            "canIpForward": True,
            "networkInterfaces": [
                {
                    "kind": "compute#networkInterface",
                    "network": f"{_ROOT}/projects/{project}/global/networks/default",
                    "subnetwork": f"{_ROOT}/projects/{project}/regions/{region}/subnetworks/default",
                    "networkIP": "10.142.0.3",
                    "name": "nic0",
                    "accessConfigs": [
                        {
                            "kind": "compute#accessConfig",
                            "type": "ONE_TO_ONE_NAT",
                            "name": "external-nat",
                            "natIP": "203.0.113.7",
                            "networkTier": "PREMIUM",
                        }
                    ],
                    "aliasIpRanges": [{"ipCidrRange": "10.8.3.0/24", "subnetworkRangeName": "pods"}],
                    "fingerprint": "wbsB3SaM7JQ=",
                    "stackType": "IPV4_ONLY",
                }
            ],
            "disks": [
                {
                    "kind": "compute#attachedDisk",
                    "type": "PERSISTENT",
                    "mode": "READ_WRITE",
                    "source": f"{where}/disks/{self.name}",
                    "deviceName": "persistent-disk-0",
                    "index": 0,
                    "boot": True,
                    "autoDelete": True,
                    "licenses": [f"{_ROOT}/projects/cos-cloud/global/licenses/cos"],
                    "interface": "SCSI",
                    "guestOsFeatures": [{"type": "VIRTIO_SCSI_MULTIQUEUE"}, {"type": "UEFI_COMPATIBLE"}],
                    "diskSizeGb": "100",
                    "architecture": "X86_64",
                }
            ],
            "metadata": {
                "kind": "compute#metadata",
                "fingerprint": "yKr6py6Xll8=",
                "items": [{"key": "created-by", "value": f"{where}/instanceGroupManagers/gke-grp"}],
            },
            "serviceAccounts": [
                {
                    "email": f"gke-nodes@{project}.iam.gserviceaccount.com",
                    "scopes": ["https://www.googleapis.com/auth/cloud-platform"],
                }
            ],
            "selfLink": f"{where}/instances/{self.name}",
            "scheduling": {
                "onHostMaintenance": "TERMINATE",
                "automaticRestart": False,
                "instanceTerminationAction": "DELETE",
                **self.scheduling,
            },
            "cpuPlatform": "AMD Rome",
            "labels": dict(self.labels),
            "labelFingerprint": "42WmSpB8rSM=",
            "startRestricted": False,
            "deletionProtection": False,
            "shieldedInstanceConfig": {
                "enableSecureBoot": False,
                "enableVtpm": True,
                "enableIntegrityMonitoring": True,
            },
            "fingerprint": "ZQ2bKxPPWbY=",
        }


@dataclass(frozen=True, slots=True)
class FakeOperation:
    """An operation of the API. By default it is a preemption of a Spot VM."""

    name: str
    instance: str
    target_id: str = "4158127351007949610"
    zone: str = "us-east1-b"
    type: str = "compute.instances.preempted"
    status: str = "DONE"
    inserted: str | None = "2026-03-02T03:40:55.308-08:00"

    def rest(self, project: str) -> JsonObject:
        """Return its JSON, with the fields of a real one."""
        where = f"{_ROOT}/projects/{project}/zones/{self.zone}"
        times = dict.fromkeys(("insertTime", "startTime", "endTime"), self.inserted)
        return {
            "kind": "compute#operation",
            "id": "1868912456207461530",
            "name": self.name,
            "zone": where,
            "operationType": self.type,
            "targetLink": f"{where}/instances/{self.instance}",
            "targetId": self.target_id,
            "status": self.status,
            "statusMessage": "Instance was preempted.",
            "user": "system",
            "progress": 100,
            **{name: at for name, at in times.items() if at is not None},
            "selfLink": f"{where}/operations/{self.name}",
        }


def node_labels(cluster: str, location: str = "us-east1", pool: str = "spot-pool") -> dict[str, str]:
    """Return the labels of a Spot node of a GKE cluster."""
    return {
        "goog-gke-node": "",
        "goog-k8s-cluster-name": cluster,
        "goog-k8s-cluster-location": location,
        "goog-k8s-node-pool-name": pool,
        "goog-gke-node-pool-provisioning-model": "spot",
    }


@dataclass(frozen=True, slots=True)
class ManyInstances:
    """A number of Spot nodes, created when they are read: `node-0`, `node-1`, …, ids from 1, zone by zone.

    `first`: the number in the first name, instead of 0.
    """

    count: int
    cluster: str = "tills"
    zones: Sequence[str] = ("us-east1-b", "us-east1-c", "us-east1-d")
    first: int = 0

    def __len__(self) -> int:
        return self.count

    def zone(self, index: int) -> str:
        return self.zones[index * len(self.zones) // self.count]


@dataclass(frozen=True, slots=True)
class ManyOperations:
    """A number of preemptions, created when they are read: of `gone-0`, `gone-1`, …, ids from 1.

    `first`: the number in the first name, instead of 0.
    """

    count: int
    inserted: str = "2026-03-02T03:40:55.308-08:00"
    zone: str = "us-east1-b"
    first: int = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> FakeOperation:
        number = self.first + index
        return FakeOperation(
            f"systemevent-{number}",
            f"gone-{number}",
            target_id=str(number + 1),
            zone=self.zone,
            inserted=self.inserted,
        )


Fleet: TypeAlias = Sequence[FakeInstance] | ManyInstances
Operations: TypeAlias = Sequence[FakeOperation] | ManyOperations


class Answer(NamedTuple):
    """An answer instead of a page."""

    status: int
    body: bytes
    content_type: str = "application/json; charset=UTF-8"


@dataclass(frozen=True, slots=True)
class Drop:
    """The number of bytes of the answer after which the connection ends."""

    after_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """An answer that waits for the event. If the server stops before it, there is no answer."""

    until: threading.Event = field(default_factory=threading.Event)


Failure: TypeAlias = Answer | Drop | Hold


def error(code: int, reason: str, message: str, *, domain: str = "global", status: str = "") -> Answer:
    """Return an error in the form of Google."""
    errors = [{"message": message, "domain": domain, "reason": reason}]
    told: JsonObject = {"code": code, "message": message, "errors": errors}
    return Answer(code, json.dumps({"error": told | ({"status": status} if status else {})}).encode())


FORBIDDEN: Final = error(403, "forbidden", "Required 'compute.instances.list' permission for 'projects/shop'")
ACCESS_NOT_CONFIGURED: Final = error(
    403,
    "accessNotConfigured",
    "Compute Engine API has not been used in project 42 before or it is disabled.",
    domain="usageLimits",
    status="PERMISSION_DENIED",
)
RATE_LIMIT_EXCEEDED: Final = error(
    403, "rateLimitExceeded", "Quota exceeded for quota metric 'Read requests'.", domain="usageLimits"
)
TOO_MANY_REQUESTS: Final = error(429, "rateLimitExceeded", "Too many requests.", domain="usageLimits")
BACKEND_ERROR: Final = error(503, "backendError", "Backend Error", status="UNAVAILABLE")
INTERNAL_ERROR: Final = error(500, "internalError", "Internal error.", status="INTERNAL")
UNAUTHORIZED: Final = error(401, "authError", "Invalid Credentials", status="UNAUTHENTICATED")
NOT_FOUND: Final = error(404, "notFound", "The resource 'projects/shop' was not found")
BAD_GATEWAY: Final = Answer(502, b"<html>Bad Gateway</html>", "text/html")
GARBAGE: Final = Answer(200, b"<html>Sign in to the guest network</html>", "text/html")
EMPTY_OBJECT: Final = Answer(200, b"{}")


class Request(NamedTuple):
    """A received request."""

    project: str
    page: int
    query: Mapping[str, str]
    headers: Mapping[str, str]


class ComputeApi:
    """The API during a `with` block.

    A page reads `page_size` instances, or maxResults if that is less, and has those that pass the filter.
    So with a filter some pages have few or no instances, as at Google. The first page has number 1.
    """

    def __init__(self, *, page_size: int = 500) -> None:
        self.projects: dict[str, Fleet] = {}
        self.operations: dict[str, Operations] = {}
        """By project; a project without them has none."""
        self.page_size = page_size
        self.ignores_filters = False
        self.refuses_filters = False
        self.unreachables: dict[str, list[str]] = {}
        """Zones that cannot be read, by project. Without returnPartialSuccess, the listing fails."""
        self.scope_warnings: dict[str, str] = {}
        """Codes by scope, on every page."""
        self.warning: str | None = None
        """The code of the whole answer."""
        self.requests: list[Request] = []
        """The requests for instances."""
        self.operation_requests: list[Request] = []
        self._failures: defaultdict[tuple[str, str | None, int], list[Failure]] = defaultdict(list)
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_SECONDS,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._server.server_port}"

    def fail(
        self,
        failure: Failure,
        *,
        page: int = 1,
        times: int = 1,
        project: str | None = None,
        of: str = "instances",
    ) -> None:
        """Answer the next requests for a page with this instead, for a project or for all."""
        with self._lock:
            self._failures[of, project, page] += [failure] * times

    def recover(self) -> None:
        """Remove the failures that have not happened yet."""
        with self._lock:
            self._failures.clear()

    def answer(self, target: str, headers: Mapping[str, str]) -> tuple[Answer, Drop | None]:
        """Return the answer to a GET, and the byte at which it breaks off. It may wait."""
        url = urlsplit(target)
        path = _PATH.fullmatch(url.path)
        if path is None:
            return error(404, "notFound", "Not Found"), None
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        project, start = unquote(path[1]), int(query.get("pageToken", "0"))
        size = min(self.page_size, int(query.get("maxResults", "500")))
        page = start // size + 1
        with self._lock:
            of = path[2]
            requests = self.requests if of == "instances" else self.operation_requests
            requests.append(Request(project, page, query, headers))
            failure = self._next_failure(of, project, page)
        if isinstance(failure, Answer):
            return failure, None
        if isinstance(failure, Hold):
            while not failure.until.wait(_POLL_SECONDS):
                if self._closing.is_set():
                    failure = Drop()
                    break
        page_answer = self._page(of, project, start, start + size, query)
        return page_answer, failure if isinstance(failure, Drop) else None

    def _next_failure(self, of: str, project: str, page: int) -> Failure | None:
        for key in ((of, project, page), (of, None, page)):
            if self._failures[key]:
                return self._failures[key].pop(0)
        return None

    def _page(self, of: str, project: str, start: int, stop: int, query: Mapping[str, str]) -> Answer:
        fleet = self.projects.get(project)
        if fleet is None:
            return error(404, "notFound", f"The resource 'projects/{project}' was not found")
        entries = fleet if of == "instances" else self.operations.get(project, ())
        unreachables = self.unreachables.get(project, [])
        if unreachables and query.get("returnPartialSuccess") != "true":
            return BACKEND_ERROR
        if self.refuses_filters and "filter" in query:
            return error(400, "invalid", "Invalid value for field 'filter'.")
        try:
            keeps = _parse_filter("" if self.ignores_filters else query.get("filter", ""))
            mask = _Mask.parse(query.get("fields", ""))
        except ValueError as exc:
            return error(400, "invalid", f"Invalid value for field {exc}.")
        by_scope: defaultdict[str, list[str]] = defaultdict(list)
        for zone, rendered in _rendered(
            of, project, entries, range(start, min(stop, len(entries))), keeps, mask
        ):
            by_scope[f"zones/{zone}"].append(rendered)
        items = [
            self._scope(of, scope, by_scope.get(scope, []), mask)
            for scope in dict.fromkeys((*SCOPES, *by_scope))
        ]
        head = {
            "kind": f"compute#{of.removesuffix('s')}AggregatedList",
            "id": f"projects/{project}/aggregated/{of}",
            **({"unreachables": unreachables} if unreachables else {}),
            **({"warning": {"code": self.warning, "message": "Some."}} if self.warning else {}),
            **({"nextPageToken": str(stop)} if stop < len(entries) else {}),
            "selfLink": f"{_ROOT}/projects/{project}/aggregated/{of}",
        }
        body = json.dumps(mask.applied(head))
        return Answer(200, f'{body[:-1]}, "items": {{{", ".join(filter(None, items))}}}}}'.encode())

    def _scope(self, of: str, scope: str, entries: list[str], mask: "_Mask") -> str:
        code = self.scope_warnings.get(scope, None if entries else "NO_RESULTS_ON_PAGE")
        told: JsonObject = {}
        if code:
            message = f"There are no results for scope '{scope}' on this page."
            told = {"code": code, "message": message, "data": [{"key": "scope", "value": scope}]}
        rest = mask.at("items", scope).applied({"warning": told} if told else {})
        parts = [json.dumps(rest)[1:-1]] if rest else []
        if entries:
            parts.append(f'"{of}": [{", ".join(entries)}]')
        return f"{json.dumps(scope)}: {{{', '.join(parts)}}}" if parts else ""


class _Mask:
    """The fields of an answer that a request selects.

    https://cloud.google.com/compute/docs/api/how-tos/performance#partial-response
    """

    def __init__(self, fields: "Mapping[str, _Mask] | None" = None) -> None:
        self._fields = fields

    @classmethod
    @lru_cache
    def parse(cls, text: str) -> "_Mask":
        if not text:
            return cls()
        tokens = re.findall(r"[\w*]+|[/(),]", text)
        if "".join(tokens) != text:
            raise ValueError(f"'fields': {text!r}")
        try:
            mask = cls._list(tokens)
        except IndexError:
            raise ValueError(f"'fields': {text!r}") from None
        if tokens:
            raise ValueError(f"'fields': {text!r}")
        return mask

    @classmethod
    def _list(cls, tokens: list[str]) -> "_Mask":
        fields: dict[str, _Mask] = {}
        while True:
            name, mask = cls._path(tokens)
            fields[name] = fields[name].joined(mask) if name in fields else mask
            if not tokens or tokens[0] == ")":
                return cls(fields)
            if tokens.pop(0) != ",":
                raise IndexError

    @classmethod
    def _path(cls, tokens: list[str]) -> "tuple[str, _Mask]":
        name = tokens.pop(0)
        if tokens[:1] == ["/"]:
            del tokens[0]
            child, mask = cls._path(tokens)
            return name, cls({child: mask})
        if tokens[:1] == ["("]:
            del tokens[0]
            mask = cls._list(tokens)
            del tokens[0]
            return name, mask
        return name, cls()

    def joined(self, other: "_Mask") -> "_Mask":
        if self._fields is None or other._fields is None:
            return _Mask()
        names = dict.fromkeys((*self._fields, *other._fields))
        nothing = _Mask({})
        return _Mask(
            {name: self._fields.get(name, nothing).joined(other._fields.get(name, nothing)) for name in names}
        )

    def at(self, *path: str) -> "_Mask":
        mask = self
        for name in path:
            if mask._fields is None:
                return mask
            mask = mask._fields.get(name) or mask._fields.get("*") or _Mask({})
        return mask

    def applied(self, value: Any) -> Any:  # noqa: ANN401 - JSON
        if self._fields is None:
            return value
        if isinstance(value, list):
            return [self.applied(item) for item in value]
        if not isinstance(value, dict):
            return value
        named = self._fields if "*" not in self._fields else value
        return {name: self.at(name).applied(item) for name, item in value.items() if name in named}


_Keeps: TypeAlias = Callable[[JsonObject], bool]

_TERM: Final = re.compile(
    r'\(?(?:labels\.(?P<label>[\w-]+):\*|(?P<path>[\w.]+) = (?P<value>true|false|"[^"]*"))\)?'
)


def _parse_filter(text: str) -> _Keeps:
    """Return a filter. It has terms joined by OR, each `(labels.NAME:*)` or `(path = value)`."""
    if not text:
        return lambda _: True
    terms = [_parse_term(term) for term in text.split(" OR ")]
    return lambda instance: any(term(instance) for term in terms)


def _parse_term(text: str) -> _Keeps:
    term = _TERM.fullmatch(text)
    if term is None:
        raise ValueError(f"'filter': '{text}'. Invalid list filter expression")
    label, path = term["label"], (term["path"] or "").split(".")
    if label:
        return lambda instance: label in instance["labels"]
    value = json.loads(term["value"])

    def equals(instance: JsonObject) -> bool:
        found: Any = instance
        for name in path:
            found = found.get(name, {})
        return bool(found == value)

    return equals


def _rendered(
    of: str, project: str, entries: Fleet | Operations, indexes: range, keeps: _Keeps, mask: _Mask
) -> Iterator[tuple[str, str]]:
    """Yield the zone and the JSON of the entries at the indexes that pass the filter."""
    asked = mask.at("items", "zones/-", of)
    for index in indexes:
        if isinstance(entries, ManyInstances):
            zone = entries.zone(index)
            template, number = _template(project, entries.cluster, zone, asked), entries.first + index
            yield zone, template.replace("@name@", f"node-{number}").replace("@id@", str(number + 1))
        elif keeps(rest := entries[index].rest(project)):
            yield entries[index].zone, json.dumps(asked.applied(rest))


@lru_cache
def _template(project: str, cluster: str, zone: str, asked: _Mask) -> str:
    instance = FakeInstance("@name@", id="@id@", zone=zone, labels=node_labels(cluster))
    return json.dumps(asked.applied(instance.rest(project)))


class _Server(ThreadingHTTPServer):
    def __init__(self, api: ComputeApi) -> None:
        super().__init__((LOOPBACK, 0), _Handler)
        self.api = api
        # Idle connections must not keep it from ending.
        self.daemon_threads = True
        self.block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing, because clients are killed on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    wbufsize = -1  # header and body in one write

    def do_GET(self) -> None:
        answer, drop = self.server.api.answer(self.path, dict(self.headers))
        body = answer.body
        if drop is not None:
            self.close_connection = True
            body = body[: drop.after_bytes]
            if not body:
                return
        with suppress(ConnectionError):
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Log nothing; `ComputeApi.requests` has the requests."""
