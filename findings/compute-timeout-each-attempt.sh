#!/usr/bin/env bash
# google-cloud-compute 1.57.0: `timeout` limits an attempt, and not the call with its retries.
# The documentation says "timeout (float): The timeout for this request". With timeout=1, a call goes on for up to
# 600 seconds while the service answers 503: the default `retry` has a limit of its own, which stays as it is.
# Each attempt gets what is left of the timeout, and when less than a second is left, the whole timeout again.
# Seen: "timeout=1: after 5 seconds the call is under way, in request 14" (the number varies).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet google-cloud-compute==1.57.0 google-api-core==2.44.0 google-auth==2.63.0
"$folder/venv/bin/python" - <<'PYTHON'
import http.server
import threading
import time

from google.auth.credentials import AnonymousCredentials
from google.cloud.compute_v1 import InstancesClient
from google.cloud.compute_v1.services.instances.transports import InstancesRestTransport

arrivals = []
failed = threading.Event()


class Busy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        arrivals.append(time.monotonic())
        self.send_response(503)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def call():
    try:
        client.aggregated_list(project="shop", timeout=1)
    finally:
        failed.set()


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy)
threading.Thread(target=server.serve_forever, daemon=True).start()
host = f"http://127.0.0.1:{server.server_port}"
client = InstancesClient(
    transport=InstancesRestTransport(host=host, url_scheme="http", credentials=AnonymousCredentials())
)
threading.Thread(target=call, daemon=True).start()
ended = failed.wait(5)
print(f"timeout=1: after 5 seconds the call {'has ended' if ended else 'is under way'}, in request {len(arrivals)}")
assert not ended, "the behaviour has changed"
assert arrivals[-1] > arrivals[0] + 1, "the behaviour has changed"
PYTHON
