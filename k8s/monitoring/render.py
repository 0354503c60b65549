#!/usr/bin/env python3
"""Writes rules.yaml in the forms of the Prometheus operator and of Google's managed Prometheus.

With `--check` nothing is written, and the exit code is 1 if a written file is not what would be. For another
`prometheus.cluster_label`, name it, and a folder for the results.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent
from typing import Final

K8S: Final = Path(__file__).resolve().parent.parent
PLAIN: Final = Path("monitoring/rules.yaml")
OPERATOR: Final = Path("components/prometheus-operator/prometheusrule.yaml")
# Its rules see the data of their own namespace in their own cluster, and no other.
# https://cloud.google.com/stackdriver/docs/managed-prometheus/rules-managed
MANAGED: Final = Path("components/managed-prometheus/rules.yaml")
FORMS: Final = {
    OPERATOR: ("monitoring.coreos.com/v1", "PrometheusRule"),
    MANAGED: ("monitoring.googleapis.com/v1", "Rules"),
}
CLUSTER_LABEL: Final = "kubernetes_cluster"


def render(source: str, cluster_label: str) -> Iterator[tuple[Path, str]]:
    """Each form's path below the k8s folder, and its text."""
    rules = re.sub(rf"\b{CLUSTER_LABEL}\b", cluster_label, source)
    yield PLAIN, rules
    for path, (api_version, kind) in FORMS.items():
        yield path, _resource(api_version, kind, rules[rules.index("groups:\n") :])


def _resource(api_version: str, kind: str, groups: str) -> str:
    return f"""\
# Written by monitoring/render.py from monitoring/rules.yaml: change that, and write this anew.
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
        raise argparse.ArgumentTypeError(f"{text!r} is no label name")
    return text


def main() -> int:
    """Write the forms, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is stale")
    parser.add_argument("--cluster-label", type=_label_name, default=CLUSTER_LABEL, metavar="NAME")
    parser.add_argument(
        "--output", type=Path, default=K8S, metavar="DIR", help="default: this repository's k8s"
    )
    arguments = parser.parse_args()
    if arguments.cluster_label != CLUSTER_LABEL and arguments.output.resolve() == K8S:
        parser.error("another --cluster-label needs an --output: the source names the default")

    rendered = render((K8S / PLAIN).read_text(), arguments.cluster_label)
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
