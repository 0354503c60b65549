"""Load from wrk: an endless series of distinct interruptions of many instances.

The same pushes are available as bodies and as a Lua script for wrk. The script must be cheap, or it would
limit the benchmark. So the base64 of the log entry is cut around its numbers, which are aligned to three
bytes, and each request encodes only the numbers, three digits at a time.
"""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

PROJECT, ZONE, POOL = "example-project", "europe-west1-b", "gke-shop-spot-pool-3c1f7a52"
ANY_SUBSCRIPTION: Final[Mapping[str, str]] = {
    "instance_creation_subscription_name": "",
    "instance_interruption_subscription_name": "",
}
"""Settings that accept this load: its envelopes name a subscription that is not the configured one."""
_INSTANCE: Final = "IIIIII"
_SERIAL: Final = "SSSSSSSSSSSS"
_SECOND: Final = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
"""The time of all events. If it were older than the retention, each pruning would read all of them."""

_ENTRY: Final = json.dumps(
    {
        "severity": "INFO",
        "protoPayload": {
            "@type": "type.googleapis.com/google.cloud.audit.AuditLog",
            "status": {},
            "authenticationInfo": {"principalEmail": "system@google.com"},
            "requestMetadata": {"requestAttributes": {}, "destinationAttributes": {}},
            "serviceName": "compute.googleapis.com",
            "methodName": "compute.instances.preempted",
            "resourceName": f"projects/{PROJECT}/zones/{ZONE}/instances/{POOL}-{_INSTANCE}",
            "request": {"@type": "type.googleapis.com/compute.instances.preempted"},
        },
        "insertId": "benchmark",
        "resource": {
            "type": "gce_instance",
            "labels": {"zone": ZONE, "instance_id": _INSTANCE, "project_id": PROJECT},
        },
        "timestamp": f"{_SECOND}.000000001Z",
        "logName": f"projects/{PROJECT}/logs/cloudaudit.googleapis.com%2Fsystem_event",
        "operation": {
            "producer": "compute.instances.preempted",
            "id": f"systemevent-{_SERIAL}",
            "first": True,
            "last": True,
        },
        "receiveTimestamp": f"{_SECOND}.512Z",
    }
)
_ENVELOPE: Final = json.dumps(
    {
        "message": {
            "attributes": {"logging.googleapis.com/timestamp": f"{_SECOND}.000000001Z"},
            "data": "DATA",
            "messageId": "ID",
            "message_id": "ID",
            "publishTime": f"{_SECOND}.123Z",
            "publish_time": f"{_SECOND}.123Z",
        },
        "subscription": "projects/example-project/subscriptions/sie-interruption-subscription",
    }
)

_LUA: Final = """
local parts = {parts}
local triples = {{}}
local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
local function char(n) return alphabet:sub(n + 1, n + 1) end
for n = 0, 999 do
  local a, b, c = string.format("%03d", n):byte(1, 3)
  local v = a * 65536 + b * 256 + c
  triples[n] = char(math.floor(v / 262144)) .. char(math.floor(v / 4096) % 64)
    .. char(math.floor(v / 64) % 64) .. char(v % 64)
end
local function encoded(n, groups)
  local text = ""
  for _ = 1, groups do
    text = triples[n % 1000] .. text
    n = math.floor(n / 1000)
  end
  return text
end
local n = {first}
function request()
  n = n + 1
  local body = {{}}
  for i, part in ipairs(parts) do
    if part == "instance" then body[i] = encoded(n % {instances}, 2)
    elseif part == "serial" then body[i] = encoded(n, 4)
    elseif part == "id" then body[i] = string.format("%d", n)
    else body[i] = part end
  end
  return wrk.format("POST", "{path}", {headers}, table.concat(body))
end
function done(summary, latency)
  local refused = summary.errors.status
  io.write(string.format("RESULT %.1f %d %d %.3f %.3f\\n",
    summary.requests / summary.duration * 1e6, summary.requests - refused,
    refused + summary.errors.read + summary.errors.write + summary.errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
"""


class WrkResult(NamedTuple):
    """The figures that wrk prints after a run."""

    requests_per_second: float
    answered_200: int
    errors: int
    p50_ms: float
    p99_ms: float


def exit_without_wrk() -> None:
    """End the program with a message if wrk is not installed."""
    if shutil.which("wrk") is None:
        sys.exit("this benchmark needs wrk: apt-get install wrk")


def run_wrk(url: str, script: Path, seconds: int, connections: int = 32) -> WrkResult:
    """Run wrk with the script against the URL."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in output.splitlines() if line.startswith("RESULT "))
    requests, answered_200, errors, p50, p99 = line.split()[1:]
    return WrkResult(float(requests), int(answered_200), int(errors), float(p50), float(p99))


def instance_name(number: int) -> str:
    """Return the name of the numbered instance; its id is the number in six digits."""
    return f"{POOL}-{number:06d}"


def write_script(path: Path, *, token: str, instances: int, first: int) -> None:
    """Write the script for one thread. Its events are numbered from `first` and use the instances in turn."""
    headers = f'{{["Authorization"] = "Bearer {token}", ["Content-Type"] = "application/json"}}'
    path.write_text(
        _LUA.format(
            parts="{" + ", ".join(json.dumps(part) for part in _parts()) + "}",
            instances=instances,
            first=first,
            path="/events/interruption",
            headers=headers,
        )
    )


def body(number: int, instances: int) -> bytes:
    """Return the body of the numbered event, the same as in the script."""
    entry = _ENTRY.replace(_INSTANCE, f"{number % instances:06d}").replace(_SERIAL, f"{number:012d}")
    data = base64.b64encode(entry.encode()).decode()
    return _ENVELOPE.replace("ID", str(number)).replace("DATA", data).encode()


def _parts() -> list[str]:
    """Cut the envelope at "instance" and "serial" (digits inside the base64) and "id" (digits outside)."""
    before, after = _ENVELOPE.split("DATA")
    parts = [before, *_data_parts()]
    for index, piece in enumerate(after.split("ID")):
        parts += [piece] if index == 0 else ["id", piece]
    return parts


def _data_parts() -> list[str]:
    parts: list[str] = []
    text = _aligned(_ENTRY)
    while (at := _next_number(text)) is not None:
        start, mark, kind = at
        parts += [base64.b64encode(text[:start].encode()).decode(), kind]
        text = text[start + len(mark) :]
    return [*parts, base64.b64encode(text.encode()).decode()]


def _next_number(text: str) -> tuple[int, str, str] | None:
    found = [
        (text.find(mark), mark, kind)
        for mark, kind in ((_INSTANCE, "instance"), (_SERIAL, "serial"))
        if mark in text
    ]
    return min(found, default=None)


def _aligned(text: str) -> str:
    """Insert spaces before the numbers' keys, so that each number starts at a multiple of three."""
    position = 0
    while (at := _next_number(text[position:])) is not None:
        start = position + at[0]
        key = text.rfind(', "', 0, start)
        padding = " " * (-start % 3)
        text = text[: key + 1] + padding + text[key + 1 :]
        position = start + len(padding) + len(at[1])
    return text
