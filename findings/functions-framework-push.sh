#!/usr/bin/env bash
# functions-framework 3.10.2: the CloudEvent that it makes of a Pub/Sub push has no subscription.
# The type of the event defines `subscription` and the message's ordering key. The conversion drops both, and the
# delivery attempt, so the pushes of two subscriptions of a topic become equal events.
# https://github.com/googleapis/google-cloudevents/blob/main/proto/google/events/cloud/pubsub/v1/data.proto
# A message with attributes and without data, which Pub/Sub allows, is refused with 400, so Pub/Sub sends it again.
# Seen: "equal events: True", and data with the key "message" alone; "without data: 400".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet functions-framework==3.10.2 cloudevents==1.12.0 flask==3.1.3 werkzeug==3.1.9
cd "$folder"
cat > main.py <<'PYTHON'
import functions_framework

events = []


@functions_framework.cloud_event
def receive(event):
    events.append((event.get_attributes(), event.data))
PYTHON
venv/bin/python - <<'PYTHON'
import sys

from functions_framework import create_app

client = create_app("receive", "main.py", "cloudevent").test_client()
events = sys.modules["main"].events


def push(subscription, **message):
    message |= {"messageId": "1", "publishTime": "2026-01-01T00:00:00Z", "attributes": {"kind": "night"}}
    envelope = {"message": message, "subscription": f"projects/shop/subscriptions/{subscription}"}
    return client.post("/", json=envelope | {"deliveryAttempt": 5}).status_code


statuses = [push("first", data="e30=", orderingKey="till"), push("second", data="e30=", orderingKey="till")]
[(attributes, data), other] = events
print(f"with data: {statuses}\n{attributes}\n{data}\nequal events: {(attributes, data) == other}")
assert (statuses, (attributes, data)) == ([200, 200], other), "the behaviour has changed"
assert list(data) == ["message"], "the behaviour has changed"
assert not {"orderingKey", "deliveryAttempt"} & data["message"].keys(), "the behaviour has changed"
without = push("first")
print(f"without data: {without}")
assert (without, len(events)) == (400, 2), "the behaviour has changed"
PYTHON
