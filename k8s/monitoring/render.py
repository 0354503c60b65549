#!/usr/bin/env python3
"""Write rules.yaml in the forms of Prometheus Operator and of Google's managed Prometheus.

With `--check` the program writes nothing, and exits with 1 if a file is not up to date. The options
`--cluster-label`, `--runbook` and `--victoriametrics` adapt the rules and the dashboard; they need a folder
for the results.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import Final

RUNBOOK: Final = "https://git.example.com/spot-interruption-exporter/docs/runbook.md"
"""The page that has a section for each alert.

Every link to the runbook begins with it. Change it here to the address of your copy, then run this program.
A test compares the exporter's own links (DOCS_URL in app/__init__.py) with it, and checks that the default of
Terraform's variable `runbook` is a page of this repository.
"""

K8S: Final = Path(__file__).resolve().parent.parent
PLAIN: Final = Path("monitoring/rules.yaml")
DASHBOARD: Final = Path("monitoring/dashboard.json")
OPERATOR: Final = Path("components/prometheus-operator/prometheusrule.yaml")
# Rules of this kind see only the data of their own namespace in their own cluster.
# https://cloud.google.com/stackdriver/docs/managed-prometheus/rules-managed
MANAGED: Final = Path("components/managed-prometheus/rules.yaml")
FORMS: Final = {
    OPERATOR: ("monitoring.coreos.com/v1", "PrometheusRule"),
    MANAGED: ("monitoring.googleapis.com/v1", "Rules"),
}
# The operator of VictoriaMetrics reads the rules from here. Prometheus Operator refuses MetricsQL.
# https://docs.victoriametrics.com/operator/resources/vmrule/
VICTORIAMETRICS_FORMS: Final = {
    Path("monitoring/vmrule.yaml"): ("operator.victoriametrics.com/v1beta1", "VMRule"),
}
CLUSTER_LABEL: Final = "kubernetes_cluster"


def render(
    rules: str, dashboard: str, cluster_label: str, runbook: str, *, victoriametrics: bool
) -> Iterator[tuple[Path, str]]:
    """Yield the path of each file below the k8s folder, and its text."""
    rules, dashboard = (_adapted(text, cluster_label, runbook) for text in (rules, dashboard))
    if victoriametrics:
        rules, dashboard = (_in_metricsql(text) for text in (rules, dashboard))
    yield PLAIN, rules
    yield DASHBOARD, dashboard
    forms = VICTORIAMETRICS_FORMS if victoriametrics else FORMS
    for path, (api_version, kind) in forms.items():
        yield path, _resource(api_version, kind, rules[rules.index("groups:\n") :])


def _adapted(text: str, cluster_label: str, runbook: str) -> str:
    text = re.sub(rf"\b{CLUSTER_LABEL}\b", cluster_label, text)
    return re.sub(r'(runbook_url: |"url": ")[^\s"#]+#', lambda link: f"{link[1]}{runbook}#", text)


def _in_metricsql(text: str) -> str:
    # `increase` of MetricsQL counts a low counter from 0 if it returns after a gap of more than five minutes.
    # https://docs.victoriametrics.com/victoriametrics/metricsql/#increase_prometheus
    return re.sub(r"\bincrease\(", "increase_prometheus(", text)


def _resource(api_version: str, kind: str, groups: str) -> str:
    return f"""\
# Written by monitoring/render.py from monitoring/rules.yaml. Change that file, then run render.py.
apiVersion: {api_version}
kind: {kind}
metadata:
  name: spot-interruption-exporter
  labels:
    app.kubernetes.io/name: spot-interruption-exporter
spec:
{indent(groups, "  ")}"""


def _label_name(text: str) -> str:
    if not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", text) or text.startswith("__"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a label name")
    return text


def _page(text: str) -> str:
    # The URL is written into YAML, JSON, and Prometheus' templates.
    if not re.fullmatch(r"https?://[^\s\"'\\#{}]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an http(s) URL without a fragment")
    return text


def main() -> int:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is stale")
    parser.add_argument("--cluster-label", type=_label_name, default=CLUSTER_LABEL, metavar="NAME")
    parser.add_argument("--runbook", type=_page, default=RUNBOOK, metavar="URL", help="default: %(default)s")
    parser.add_argument(
        "--victoriametrics", action="store_true", help="write the rules and the dashboard in MetricsQL"
    )
    parser.add_argument(
        "--output", type=Path, default=K8S, metavar="DIR", help="default: this repository's k8s"
    )
    arguments = parser.parse_args()
    adapted = (arguments.cluster_label, arguments.runbook) != (CLUSTER_LABEL, RUNBOOK)
    if (adapted or arguments.victoriametrics) and arguments.output.resolve() == K8S:
        parser.error(
            "--cluster-label, --runbook and --victoriametrics need an --output: "
            "the files in k8s have the defaults"
        )

    rules, dashboard = ((K8S / path).read_text() for path in (PLAIN, DASHBOARD))
    rendered = render(
        rules,
        dashboard,
        arguments.cluster_label,
        arguments.runbook,
        victoriametrics=arguments.victoriametrics,
    )
    wanted = {arguments.output / path: text for path, text in rendered}
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        sys.stdout.write(f"{path} {'is stale' if arguments.check else 'written'}\n")
        if not arguments.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted[path])
    return int(arguments.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
