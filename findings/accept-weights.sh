#!/usr/bin/env bash
# prometheus-client 0.26.0 does not use the weights of an Accept header when it chooses a format.
# RFC 9110, section 12.5.1: a weight orders the types that a client accepts, and q=0 means not acceptable.
# Seen: OpenMetrics is chosen with q=0.1 beside q=0.9, and with q=0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet prometheus-client==0.26.0
cd "$folder"
venv/bin/python - <<'PYTHON'
from prometheus_client.exposition import choose_encoder

for accept in (
    "text/plain;version=0.0.4;q=0.9,application/openmetrics-text;version=1.0.0;q=0.1",
    "text/plain;version=0.0.4,application/openmetrics-text;q=0",
):
    _, content_type = choose_encoder(accept)
    print(f"{accept}\n  -> {content_type}")
    assert content_type.startswith("application/openmetrics-text"), "the behaviour has changed"
PYTHON
