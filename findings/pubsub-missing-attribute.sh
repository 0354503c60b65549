#!/usr/bin/env bash
# google-cloud-pubsub 2.44.0: the attributes of a received message are a mapping of protobuf. To look up a key
# that is missing with [] raises nothing: it returns "" and adds the key, so a later `in` is true.
# Seen: "[] returned ''; the keys are then ['known', 'missing']".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet google-cloud-pubsub==2.44.0
"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version
from queue import Queue

from google.cloud.pubsub_v1.subscriber.message import Message
from google.pubsub_v1.types import PubsubMessage

received = PubsubMessage(data=b"text", attributes={"known": "1"})
message = Message(PubsubMessage.pb(received), "ack-id", 0, Queue())
value = message.attributes["missing"]
keys = sorted(message.attributes)
print(f"google-cloud-pubsub {version('google-cloud-pubsub')}: [] returned {value!r}; the keys are then {keys}")
assert (value, keys) == ("", ["known", "missing"]), "the behaviour has changed"
PYTHON
