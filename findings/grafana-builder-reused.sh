#!/usr/bin/env bash
# grafana-foundation-sdk 1769699379!11.6.0: build() of a builder returns the builder's own object, each time the same.
# The usual way to share settings, a builder with the common options that each panel finishes, makes one panel: the
# dashboard has it twice, with the last title and query, at the last position. Nothing is raised.
# Seen: "panels: Pending, Pending; both are one object; x=12, 12".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "grafana-foundation-sdk==1769699379!11.6.0"
"$folder/venv/bin/python" - <<'PYTHON'
from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries

common = timeseries.Panel().unit("short").min(0)
board = (
    dashboard.Dashboard("Example")
    .with_panel(common.title("Interruptions").with_target(prometheus.Dataquery().expr("interruptions")))
    .with_panel(common.title("Pending").with_target(prometheus.Dataquery().expr("pending")))
    .build()
)
first, second = board.panels
same = "are one object" if first is second else "are different objects"
print(f"panels: {first.title}, {second.title}; both {same}; x={first.grid_pos.x}, {second.grid_pos.x}")
assert first is second, "the behaviour has changed"
assert (first.title, len(first.targets)) == ("Pending", 2), "the behaviour has changed"
PYTHON
