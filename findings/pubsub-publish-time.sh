#!/usr/bin/env bash
# proto-plus 1.29.0: the time of a message of google-cloud-pubsub 2.44.0, taken to another zone, is written wrongly.
# publish_time is a datetime with nanoseconds. Its rfc3339() writes the hours and minutes of the zone that it is in,
# and "Z", which is UTC. Its copy, and each result of an operation, has lost the nanoseconds, and == ignores them.
# Seen: in +01:00, rfc3339() is "2026-01-01T01:00:00.123456Z" for 00:00:00 UTC; isoformat() is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet google-cloud-pubsub==2.44.0 proto-plus==1.29.0 protobuf==7.36.2
"$folder/venv/bin/python" - <<'PYTHON'
import copy
from datetime import timedelta, timezone

from google.pubsub_v1.types import PubsubMessage

first, second = (
    PubsubMessage.from_json(f'{{"publishTime": "2026-01-01T00:00:00.{fraction}Z"}}').publish_time
    for fraction in ("123456789", "123456001")
)
moved = first.astimezone(timezone(timedelta(hours=1)))
print(f"in UTC: {first.rfc3339()}; in +01:00: {moved.rfc3339()}, and {moved.isoformat()} by isoformat()")
print(f"{first.rfc3339()} == {second.rfc3339()}: {first == second}; its copy: {copy.copy(first).rfc3339()}")
assert moved.rfc3339() == "2026-01-01T01:00:00.123456Z", "the behaviour has changed"
assert moved.isoformat() == "2026-01-01T01:00:00.123456+01:00", "the behaviour has changed"
assert first == second and first.nanosecond != second.nanosecond, "the behaviour has changed"
assert copy.copy(first).nanosecond == 123456000, "the behaviour has changed"
PYTHON
