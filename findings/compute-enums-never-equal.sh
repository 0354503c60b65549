#!/usr/bin/env bash
# google-cloud-compute 1.57.0: a field of an instance never equals a member of the enum that its documentation names.
# It says "Check the ProvisioningModel enum for the list of possible values". But the fields are text and the members
# are integers: the comparison is false without an error, and to set a field to a member fails.
# In the same package, Operation.status is a member of its enum.
# Seen: "SPOT == ProvisioningModel.SPOT: False", "RUNNING == Status.RUNNING: False", and a TypeError.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet google-cloud-compute==1.57.0 proto-plus==1.29.0 protobuf==7.36.2
"$folder/venv/bin/python" - <<'PYTHON'
from google.cloud.compute_v1 import Instance, Operation, Scheduling

instance = Instance.from_json('{"status": "RUNNING", "scheduling": {"provisioningModel": "SPOT"}}')
pairs = [
    (instance.scheduling.provisioning_model, Scheduling.ProvisioningModel.SPOT),
    (instance.status, Instance.Status.RUNNING),
]
for text, member in pairs:
    print(f"{text} == {type(member).__name__}.{member.name}: {text == member} ({text!r} and {member!r})")
assert [(text == member, text == member.name) for text, member in pairs] == [(False, True)] * 2, (
    "the behaviour has changed"
)
operation = Operation.from_json('{"status": "DONE"}')
print(f"Operation.status == Status.DONE: {operation.status == Operation.Status.DONE}")
assert operation.status == Operation.Status.DONE, "the behaviour has changed"
try:
    Scheduling(provisioning_model=Scheduling.ProvisioningModel.SPOT)
except TypeError as exc:
    print(f"to set it: TypeError: {exc}")
else:
    raise SystemExit("the behaviour has changed")
PYTHON
