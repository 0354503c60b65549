#!/usr/bin/env bash
# Datadog's OpenMetrics check 38.7.0 takes the time of creation for a second value of the counter.
# OpenMetrics lets a counter have a sample `_created` beside `_total`, and prometheus-client 0.26.0 writes it unless
# it is switched off. With `use_latest_spec`, the check sends both as the same monotonic count, with the same tags.
# Such a count adds each rise, and takes a fall for a restart: at each scrape the time since 1970 is counted again.
# In the text format, which is the check's default, the two are separate: jobs.count and the gauge jobs_created.
# Seen: "use_latest_spec=True: jobs.count 5.0, jobs.count 1795950000.0 (tags kind:night)".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# The check's package does not name the others as its dependencies.
"$folder/venv/bin/pip" install --quiet datadog-checks-base==38.7.0 prometheus-client==0.26.0 binary==1.0.2 \
    cachetools==7.2.0 jellyfish==1.2.1 lazy-loader==0.5 pydantic==2.13.5 python-dateutil==2.9.0.post0 \
    pyyaml==6.0.3 requests==2.34.2 requests-toolbelt==1.0.0 requests-unixsocket2==1.0.1 simplejson==4.1.2 \
    wrapt==2.3.0
cd "$folder"
venv/bin/python - <<'PYTHON'
from unittest.mock import patch

from datadog_checks.base import OpenMetricsBaseCheckV2
from datadog_checks.base.stubs import aggregator
from prometheus_client import CollectorRegistry, Counter, start_http_server

registry = CollectorRegistry()
with patch("time.time", lambda: 1795950000.0):
    Counter("jobs", "Jobs.", ["kind"], registry=registry).labels("night").inc(5)
server, _ = start_http_server(0, addr="127.0.0.1", registry=registry)
endpoint = f"http://127.0.0.1:{server.server_port}/metrics"

seen = {}
for latest in (False, True):
    instance = {"openmetrics_endpoint": endpoint, "metrics": ["jobs.*"], "use_latest_spec": latest}
    aggregator.reset()
    problem = OpenMetricsBaseCheckV2("openmetrics", {}, [instance | {"tag_by_endpoint": False}]).run()
    assert not problem, problem
    samples = [sample for name in aggregator.metric_names for sample in aggregator.metrics(name)]
    assert {tuple(sample.tags) for sample in samples} == {("kind:night",)}
    seen[latest] = [(sample.name, sample.value) for sample in samples]
    listed = ", ".join(f"{name} {value}" for name, value in seen[latest])
    print(f"use_latest_spec={latest}: {listed} (tags kind:night)")
server.shutdown()
assert seen[False] == [("jobs.count", 5.0), ("jobs_created", 1795950000.0)], "the behaviour has changed"
assert seen[True] == [("jobs.count", 5.0), ("jobs.count", 1795950000.0)], "the behaviour has changed"
PYTHON
