#!/usr/bin/env bash
# Datadog's OpenMetrics check 38.7.0 reports an old version as the current one, if `share_labels` shares it.
# The labels that build_info shares are those of the check's first scrape ("cached", as documented). But they also
# replace the labels that the scraped samples have themselves, on all metrics and on build_info as well. After an
# update of the program, the check reports the version before it until the Agent restarts.
# Seen: the text has version="2" and zone="b", and the tags are version:1 and zone:a.
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
import os

from datadog_checks.base import OpenMetricsBaseCheckV2
from datadog_checks.base.stubs import aggregator
from prometheus_client import CollectorRegistry, Gauge, generate_latest, start_http_server

os.environ["DDEV_SKIP_GENERIC_TAGS_CHECK"] = "1"  # the stub refuses the tag "version", and the Agent does not
registry = CollectorRegistry()
build = Gauge("build_info", "Build.", ["version", "zone"], registry=registry)
nodes = Gauge("nodes", "Nodes.", ["zone"], registry=registry)
server, _ = start_http_server(0, addr="127.0.0.1", registry=registry)
endpoint = f"http://127.0.0.1:{server.server_port}/metrics"
instance = {"openmetrics_endpoint": endpoint, "metrics": [".+"], "tag_by_endpoint": False}
check = OpenMetricsBaseCheckV2("openmetrics", {}, [instance | {"share_labels": {"build_info": True}}])
for version, zone in (("1", "a"), ("2", "b")):
    build.clear()
    nodes.clear()
    build.labels(version, zone).set(1)
    nodes.labels(zone).set(1)
    aggregator.reset()
    problem = check.run()
    assert not problem, problem
    tags = {name: sorted(aggregator.metrics(name)[0].tags) for name in ("build_info", "nodes")}
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    print(f"text: {', '.join(lines)}\ntags: {tags}")
server.shutdown()
assert tags == dict.fromkeys(("build_info", "nodes"), ["version:1", "zone:a"]), "the behaviour has changed"
PYTHON
