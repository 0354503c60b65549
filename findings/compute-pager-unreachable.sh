#!/usr/bin/env bash
# google-cloud-compute 1.57.0: after a loop over a list with an unreachable zone, the list looks complete.
# A page says which scopes could not be listed (`unreachables`, `warning`). A loop over the pager returns the items of
# all pages without these. The pager's own attributes are those of the page that was read last: `unreachables` has the
# zone of the first page before the loop, and is empty after it. A loop over `pager.pages` shows all of them.
# Seen: node-1 and node-2; unreachables and warning are zones/b and UNREACHABLE before the loop, and empty after it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet google-cloud-compute==1.57.0 google-api-core==2.44.0 google-auth==2.63.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import http.server
import json
import threading

from google.auth.credentials import AnonymousCredentials
from google.cloud.compute_v1 import InstancesClient
from google.cloud.compute_v1.services.instances.transports import InstancesRestTransport

FIRST = {
    "items": {"zones/a": {"instances": [{"name": "node-1"}]}},
    "unreachables": ["zones/b"],
    "warning": {"code": "UNREACHABLE"},
    "nextPageToken": "second",
}
SECOND = {"items": {"zones/c": {"instances": [{"name": "node-2"}]}}}


class Compute(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(SECOND if "pageToken=second" in self.path else FIRST).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Compute)
threading.Thread(target=server.serve_forever, daemon=True).start()
host = f"http://127.0.0.1:{server.server_port}"
client = InstancesClient(
    transport=InstancesRestTransport(host=host, url_scheme="http", credentials=AnonymousCredentials())
)
pager = client.aggregated_list(project="shop")
before = list(pager.unreachables), pager.warning.code
names = [instance.name for _, listed in pager for instance in listed.instances]
after = list(pager.unreachables), pager.warning.code
by_page = [list(page.unreachables) for page in client.aggregated_list(project="shop").pages]
server.shutdown()
print(f"instances: {names}\nunreachables and warning before the loop: {before}, after it: {after}")
print(f"unreachables by page: {by_page}")
assert names == ["node-1", "node-2"], "the behaviour has changed"
assert (before, after) == ((["zones/b"], "UNREACHABLE"), ([], "")), "the behaviour has changed"
assert by_page == [["zones/b"], []], "the behaviour has changed"
PYTHON
