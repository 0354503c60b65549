"""Interruptions without end, each a new one of one of many instances: as bodies, and as a script for wrk.

wrk's Lua must be cheap: the envelope's base64 is cut where its numbers stand, each aligned to three bytes;
those alone are encoded for each request, three digits at a time.
"""

import base64
import json
from pathlib import Path
from typing import Final

PROJECT, ZONE, POOL = "example-project", "europe-west1-b", "gke-shop-spot-pool-3c1f7a52"
_INSTANCE: Final = "IIIIII"
_SERIAL: Final = "SSSSSSSSSSSS"

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
        "timestamp": "2026-01-01T00:00:00.000000001Z",
        "logName": f"projects/{PROJECT}/logs/cloudaudit.googleapis.com%2Fsystem_event",
        "operation": {
            "producer": "compute.instances.preempted",
            "id": f"systemevent-{_SERIAL}",
            "first": True,
            "last": True,
        },
        "receiveTimestamp": "2026-01-01T00:00:00.512Z",
    }
)
_ENVELOPE: Final = json.dumps(
    {
        "message": {
            "attributes": {"logging.googleapis.com/timestamp": "2026-01-01T00:00:00.000000001Z"},
            "data": "DATA",
            "messageId": "ID",
            "message_id": "ID",
            "publishTime": "2026-01-01T00:00:00.123Z",
            "publish_time": "2026-01-01T00:00:00.123Z",
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


def name_of(number: int) -> str:
    """The name of the numbered instance; its id is the number in six digits."""
    return f"{POOL}-{number:06d}"


def write_script(path: Path, *, token: str, instances: int, first: int) -> None:
    """Write the script for one thread; its events are numbered from `first`, and go round the instances."""
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
    """The body of the numbered event, as the script makes it."""
    entry = _ENTRY.replace(_INSTANCE, f"{number % instances:06d}").replace(_SERIAL, f"{number:012d}")
    data = base64.b64encode(entry.encode()).decode()
    return _ENVELOPE.replace("ID", str(number)).replace("DATA", data).encode()


def _parts() -> list[str]:
    """The envelope, cut at "instance" and "serial" (digits inside the base64) and "id" (digits outside)."""
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
    """The text with spaces before the keys of its numbers, so that each number is at a multiple of three."""
    position = 0
    while (at := _next_number(text[position:])) is not None:
        start = position + at[0]
        key = text.rfind(', "', 0, start)
        padding = " " * (-start % 3)
        text = text[: key + 1] + padding + text[key + 1 :]
        position = start + len(padding) + len(at[1])
    return text
