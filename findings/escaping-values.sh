#!/usr/bin/env bash
# prometheus-client 0.26.0 escapes metric names that need no escaping, if a scraper negotiates escaping=values.
# The scheme is for names outside of [a-zA-Z_:][a-zA-Z0-9_:]*, which this name is not.
# https://prometheus.io/docs/instrumenting/escaping_schemes/
# Seen: the sample "U__jobs__done" below "# TYPE jobs_done gauge": two names for one family.
# A rule that selects jobs_done finds nothing.
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
Gauge("jobs_done", "Jobs.", registry=registry).set(1)
for escaping in ("underscores", "values"):
    encode, _ = choose_encoder(f"application/openmetrics-text;version=1.0.0;escaping={escaping}")
    _, kind, sample, _ = encode(registry).decode().splitlines()
    print(f"escaping={escaping}: {kind}, {sample}")
assert (kind, sample) == ("# TYPE jobs_done gauge", "U__jobs__done 1.0"), "the behaviour has changed"
PYTHON
