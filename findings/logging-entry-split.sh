#!/usr/bin/env bash
# google-cloud-logging 3.17.0: an entry that it reads has no `split`, and its timestamp has no nanoseconds.
# Cloud Logging splits a large audit entry, and `split` says so. Here a piece looks like a whole entry in which the
# fields of the other pieces were never set. The timestamp, which identifies an entry together with its insertId, is
# not that of the API. The entry is the same with gRPC, which is the default; this script uses HTTP.
# https://cloud.google.com/logging/docs/reference/v2/rest/v2/LogEntry
# Seen: the entry has no field for `split`, and "00:00:00.123456Z" where the API has "00:00:00.123456789Z".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet google-cloud-logging==3.17.0 google-cloud-audit-log==0.6.3 \
    google-cloud-core==2.8.0 google-api-core==2.44.0 google-auth==2.63.0 requests==2.34.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import http.server
import json
import threading

from google.auth.credentials import AnonymousCredentials
from google.cloud.logging import Client

ENTRY = {
    "logName": "projects/shop/logs/cloudaudit.googleapis.com%2Factivity",
    "resource": {"type": "gce_instance", "labels": {"project_id": "shop", "instance_id": "1", "zone": "zone-a"}},
    "severity": "NOTICE",
    "timestamp": "2026-01-01T00:00:00.123456789Z",
    "insertId": "abc",
    "split": {"uid": "2026-01-01T00:00:00.123456789Z/abc", "index": 1, "totalSplits": 2},
    "protoPayload": {
        "@type": "type.googleapis.com/google.cloud.audit.AuditLog",
        "methodName": "v1.compute.instances.insert",
        "resourceName": "projects/shop/zones/zone-a/instances/node-1",
    },
}


class Logging(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps({"entries": [ENTRY]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Logging)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = Client(
    project="shop",
    credentials=AnonymousCredentials(),
    client_options={"api_endpoint": f"http://127.0.0.1:{server.server_port}"},
    _use_grpc=False,
)
[entry] = client.list_entries()
written = entry.to_api_repr()
server.shutdown()
fields = [name for name in dir(entry) if not name.startswith("_")]
print(f"received: {sorted(ENTRY)}\nfields: {fields}\nto_api_repr: {sorted(written)}, {written['timestamp']}")
assert entry.payload == ENTRY["protoPayload"], "the behaviour has changed"
assert not [name for name in [*fields, *written] if "split" in name.lower()], "the behaviour has changed"
assert written["timestamp"] == "2026-01-01T00:00:00.123456Z", "the behaviour has changed"
PYTHON
