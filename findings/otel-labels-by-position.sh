#!/usr/bin/env bash
# opentelemetry-exporter-prometheus 0.66b2 can write a value of one attribute under the label of another.
# Two libraries (scopes) of one program may have instruments of the same name, and different attributes.
# The exporter puts both into one family with the labels of the first, and adds the values of the second in their
# own order. prometheus-client 0.26.0 pairs values with labels by position, and does not compare their number.
# The specification keeps the two apart by the label otel_scope_name, which the second loses here.
# https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/
# Seen: the counter of the scope "queue" has host="night",kind="queue" and no scope, in place of kind="night".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet opentelemetry-exporter-prometheus==0.66b2 opentelemetry-sdk==1.45.2 \
    prometheus-client==0.26.0
"$folder/venv/bin/python" - <<'PYTHON'
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest

registry = CollectorRegistry()
reader = PrometheusMetricReader(disable_target_info=True, registry=registry)
provider = MeterProvider(metric_readers=[reader])
provider.get_meter("web").create_counter("jobs").add(1, {"host": "a", "kind": "day"})
provider.get_meter("queue").create_counter("jobs").add(7, {"kind": "night"})
samples = [sample for family in registry.collect() for sample in family.samples]
print(generate_latest(registry).decode())
assert [(sample.labels["host"], sample.labels["kind"], sample.value) for sample in samples] == [
    ("a", "day", 1),
    ("night", "queue", 7),
], "the behaviour has changed"
PYTHON
