#!/usr/bin/env bash
# prometheus-client 0.26.0: a family of a custom collector drops labels if a sample has too few values for them.
# A metric of the same library refuses that: Gauge.labels() raises "Incorrect label count".
# GaugeMetricFamily.add_metric pairs names and values, as far as there are both, and drops the rest of either.
# Different rows can become the same series, and the library's own parser reads them without an error.
# Seen: two samples nodes{cluster="shop"}, and nodes{cluster="shop",pool="spot"} without the third value.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet prometheus-client==0.26.0
"$folder/venv/bin/python" - <<'PYTHON'
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families


class Nodes:
    def collect(self):
        family = GaugeMetricFamily("nodes", "Nodes.", labels=["cluster", "pool"])
        family.add_metric(["shop"], 1)
        family.add_metric(["shop"], 2)
        family.add_metric(["shop", "spot", "zone-a"], 3)
        yield family


registry = CollectorRegistry()
registry.register(Nodes())
text = generate_latest(registry).decode()
print(text)
read = [sample.labels for family in text_string_to_metric_families(text) for sample in family.samples]
shop = {"cluster": "shop"}
assert read == [shop, shop, shop | {"pool": "spot"}], "the behaviour has changed"
try:
    Gauge("nodes", "Nodes.", ["cluster", "pool"], registry=None).labels("shop")
except ValueError as exc:
    print(f"Gauge.labels: ValueError: {exc}")
else:
    raise SystemExit("the behaviour has changed")
PYTHON
