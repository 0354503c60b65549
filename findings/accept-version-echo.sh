#!/usr/bin/env bash
# prometheus-client 0.26.0 answers with the OpenMetrics version that the client asked for, even if it does not exist.
# Seen: "version=9.9.9" in the content type, and the same body as for version 1.0.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet prometheus-client==0.26.0
cd "$folder"
venv/bin/python - <<'PYTHON'
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.exposition import choose_encoder

registry = CollectorRegistry()
Gauge("jobs", "Jobs.", registry=registry).set(1)
encode, content_type = choose_encoder("application/openmetrics-text;version=9.9.9")
known, _ = choose_encoder("application/openmetrics-text;version=1.0.0")
print(content_type)
assert "version=9.9.9" in content_type, "the behaviour has changed"
assert encode(registry) == known(registry), "the behaviour has changed"
PYTHON
