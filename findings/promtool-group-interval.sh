#!/usr/bin/env bash
# promtool of Prometheus 3.15.1 (Go module v0.315.1): `test rules` does not use the `interval` of a group of rules.
# It evaluates every group at each `evaluation_interval` of the test file, and the page on unit tests does not say so.
# Prometheus evaluates a group at its own interval, and looks back five minutes for a sample. There, a series that is
# recorded every 30 minutes has no value for 25 of them, so an alert with `for: 20m` on it never fires.
# https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/
# Seen: SUCCESS for 30 samples in 30 minutes, for a value in the 29th minute, and for the firing alert.
# The first build takes some minutes, and Go keeps the modules in its own cache.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
export CGO_ENABLED=0 GOWORK=off
# `go install` refuses a module with replacements, so the build runs in the module's own folder.
module=$(go mod download -json github.com/prometheus/prometheus@v0.315.1 | sed -n 's/^\t"Dir": "\(.*\)",\?$/\1/p')
(cd "$module" && go build -mod=readonly -tags remove_all_sd -ldflags='-s -w' -o "$folder/promtool" ./cmd/promtool)
cat > rules.yaml <<'YAML'
groups:
  - name: slow
    interval: 30m
    rules:
      - record: jobs:sum
        expr: sum(jobs)
  - name: fast
    interval: 1m
    rules:
      - alert: JobsRunning
        expr: jobs:sum > 0
        for: 20m
YAML
cat > test.yaml <<'YAML'
rule_files: [rules.yaml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series: [{series: jobs, values: 1x60}]
    promql_expr_test:
      - {expr: "count_over_time(jobs:sum[30m])", eval_time: 59m, exp_samples: [{labels: "{}", value: 30}]}
      - {expr: "jobs:sum", eval_time: 29m, exp_samples: [{labels: "jobs:sum", value: 1}]}
    alert_rule_test:
      - {alertname: JobsRunning, eval_time: 29m, exp_alerts: [{}]}
YAML
./promtool check rules rules.yaml
if ! ./promtool test rules test.yaml; then
    echo "the behaviour has changed"
    exit 1
fi
