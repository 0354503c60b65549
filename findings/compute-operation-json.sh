#!/usr/bin/env bash
# google-cloud-compute 1.57.0, proto-plus 1.29.0: the JSON of an operation has the status 2104194.
# The API's JSON has "DONE". Operation.to_json writes a number that only this library knows, because proto-plus writes
# enums as numbers by default and the members' numbers are not the API's. The status of an instance, which is text in
# the same library, is written as the API has it. What was logged or stored so cannot be read by name.
# Seen: {"name": "operation", "status": 2104194}, and {"name": "instance", "status": "RUNNING"}.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet google-cloud-compute==1.57.0 proto-plus==1.29.0 protobuf==7.36.2
"$folder/venv/bin/python" - <<'PYTHON'
import json

from google.cloud.compute_v1 import Instance, Operation

seen = []
for kind, name, status in ((Operation, "operation", "DONE"), (Instance, "instance", "RUNNING")):
    received = json.dumps({"name": name, "status": status})
    written = kind.to_json(kind.from_json(received), indent=None, always_print_fields_with_no_presence=False)
    print(f"{received} -> {written}")
    seen.append(json.loads(written)["status"])
assert seen == [2104194, "RUNNING"], "the behaviour has changed"
PYTHON
