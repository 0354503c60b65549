#!/usr/bin/env bash
# google-api-core 2.44.0 (with google-cloud-pubsub 2.44.0): making a client detaches the logger "google" from the
# root logger. Warnings of Google's libraries then no longer reach the handlers of the application: Python writes
# their bare text to standard error.
# Seen: "before: propagate True, the handler got 1 record; after: propagate False, 0 records".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet google-cloud-pubsub==2.44.0 google-api-core==2.44.0
"$folder/venv/bin/python" - <<'PYTHON'
import logging
from importlib.metadata import version

from google.auth.credentials import AnonymousCredentials
from google.cloud.pubsub_v1 import SubscriberClient

records = []
handler = logging.Handler()
handler.emit = records.append
logging.basicConfig(handlers=[handler], level=logging.WARNING)
google = logging.getLogger("google")


def warn():
    records.clear()
    logging.getLogger("google.cloud.pubsub_v1.example").warning("a warning")
    return google.propagate, len(records)


before = warn()
SubscriberClient(credentials=AnonymousCredentials())
after = warn()
print(
    f"google-api-core {version('google-api-core')}: before: propagate {before[0]}, the handler got {before[1]} record;"
    f" after: propagate {after[0]}, {after[1]} records"
)
assert (before, after) == ((True, 1), (False, 0)), "the behaviour has changed"
PYTHON
