#!/usr/bin/env bash
# google-cloud-compute 1.57.0: a request that times out is not retried, and raises an error of another library.
# The default `retry` of the call retries google.api_core's DeadlineExceeded (as clients with gRPC raise it) and
# ServiceUnavailable. Here a timeout raises the ReadTimeout of requests, which is neither, and no GoogleAPICallError.
# Seen: "timed out after 1 request: requests.exceptions.ReadTimeout, GoogleAPICallError: False".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet google-cloud-compute==1.57.0 google-api-core==2.44.0 google-auth==2.63.0 \
    requests==2.34.2
"$folder/venv/bin/python" - <<'PYTHON'
import socket
import threading

import requests
from google.api_core.exceptions import DeadlineExceeded, GoogleAPICallError
from google.auth.credentials import AnonymousCredentials
from google.cloud.compute_v1 import InstancesClient
from google.cloud.compute_v1.services.instances.transports import InstancesRestTransport

arrivals = []


def accept():
    while True:
        arrivals.append(server.accept()[0])  # and never answer


server = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=accept, daemon=True).start()
transport = InstancesRestTransport(
    host=f"http://127.0.0.1:{server.getsockname()[1]}", url_scheme="http", credentials=AnonymousCredentials()
)
client = InstancesClient(transport=transport)
retry = transport._wrapped_methods[transport.aggregated_list]._retry
assert retry._predicate(DeadlineExceeded("")), "the behaviour has changed"
try:
    client.aggregated_list(project="shop", timeout=1)
except requests.exceptions.ReadTimeout as exc:
    known = isinstance(exc, GoogleAPICallError)
    name = f"{type(exc).__module__}.{type(exc).__name__}"
    print(f"timed out after {len(arrivals)} request: {name}, GoogleAPICallError: {known}")
    assert (len(arrivals), known) == (1, False), "the behaviour has changed"
else:
    raise SystemExit("the behaviour has changed")
PYTHON
