"""The snippets of docs/scraping.md name the real target, the real series and the real labels."""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.metrics import Metrics
from tests.simulation.truth import LABELS
from tests.support.docs import DOCS, ROOT, blocks
from tests.support.requirement import require

PAGE: Final = DOCS / "scraping.md"
SNIPPETS: Final = {block.mark: block for block in blocks(PAGE)}
BASE: Final = ROOT / "k8s/base"
NOT_OF_A_COLLECTOR: Final = ("In general", "After a restart, a move, an outage and a kill", "Label conflicts")


def load(path: Path) -> Any:  # noqa: ANN401  # YAML
    return yaml.safe_load(path.read_text())


def parsed(mark: str) -> Any:  # noqa: ANN401  # YAML
    return yaml.safe_load(SNIPPETS[mark].code)


def address() -> str:
    """Return the address of the metrics of the first pod of the shipped manifests."""
    workload, namespace = load(BASE / "stateful-set.yaml"), load(BASE / "namespace.yaml")
    name, service = workload["metadata"]["name"], workload["spec"]["serviceName"]
    port = load(BASE / "config.yaml")["prometheus"]["port"]
    return f"{name}-0.{service}.{namespace['metadata']['name']}.svc:{port}"


def url() -> str:
    return f"http://{address()}{load(BASE / 'config.yaml')['prometheus']['path']}"


def exported() -> tuple[set[str], set[str]]:
    """Return the names of the families without those of the process, and the names of the labels."""
    text = Metrics(reasons=["internal"]).render("text/plain")[0].decode()
    families = [
        family
        for family in text_string_to_metric_families(text)
        if not family.name.startswith(("process_", "python_"))
    ]
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    return {family.name for family in families}, labels | {*LABELS}


def test_prometheus_scrapes_the_first_pod_twice_in_the_hold() -> None:
    [scrape] = parsed("prometheus")["scrape_configs"]
    metrics = load(BASE / "config.yaml")["prometheus"]

    assert [one["targets"] for one in scrape["static_configs"]] == [[address()]]
    assert scrape["honor_labels"] is True
    # The default of Prometheus.
    assert scrape.get("metrics_path", "/metrics") == metrics["path"]
    interval = int(scrape["scrape_interval"].removesuffix("s"))
    assert metrics["hold_seconds"] == 2 * interval < metrics["linger_seconds"] < 3 * interval


@pytest.mark.parametrize("of", ["prometheus", "opentelemetry"])
def test_promtool_accepts_the_scrape_configuration(of: str, tmp_path: Path) -> None:
    promtool = require("promtool", shutil.which("promtool"))
    snippet = parsed(of)
    path = tmp_path / "prometheus.yml"
    path.write_text(
        json.dumps(snippet["receivers"]["prometheus"]["config"] if "receivers" in snippet else snippet)
    )
    done = subprocess.run([promtool, "check", "config", path], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_victoriametrics_scrapes_as_prometheus() -> None:
    assert parsed("victoriametrics") == parsed("prometheus")


def test_prometheus_operator_scrapes_as_in_the_component() -> None:
    shipped = load(ROOT / "k8s/components/prometheus-operator/servicemonitor.yaml")["spec"]

    assert parsed("prometheus-operator") == {"endpoints": shipped["endpoints"]}


def test_managed_prometheus_scrapes_as_in_the_component() -> None:
    shipped = load(ROOT / "k8s/components/managed-prometheus/podmonitoring.yaml")["spec"]

    assert parsed("managed-prometheus") == {key: shipped[key] for key in ("endpoints", "targetLabels")}


def test_opentelemetry_scrapes_as_prometheus_and_its_pipeline_has_all_components() -> None:
    config = parsed("opentelemetry")
    [pipeline] = config["service"]["pipelines"].values()

    assert config["receivers"] == {"prometheus": {"config": parsed("prometheus")}}
    assert pipeline == {part: list(config[part]) for part in ("receivers", "processors", "exporters")}
    # Without an `initial_value`.
    assert config["processors"] == {"cumulativetodelta": None}


def test_datadog_takes_every_series_of_the_exporter_and_renames_real_labels() -> None:
    [instance] = parsed("datadog")["instances"]
    names, labels = exported()

    assert instance["openmetrics_endpoint"] == url()
    for name in names:
        assert any(re.fullmatch(pattern, name) for pattern in instance["metrics"]), name
    assert instance["rename_labels"].keys() <= labels
    assert labels.isdisjoint(instance["rename_labels"].values())


def test_telegraf_scrapes_the_same_target() -> None:
    inputs = tomllib.loads(SNIPPETS["telegraf"].code)["inputs"]["prometheus"]

    assert inputs == [{"interval": "30s", "urls": [url()], "metric_version": 2, "url_tag": ""}]


def test_each_collector_s_part_sets_the_hold_first_and_has_a_snippet() -> None:
    parts = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    of_collectors = [part for part in parts if not part.startswith(NOT_OF_A_COLLECTOR)]

    assert len(of_collectors) >= 6
    for part in of_collectors:
        title, text = part.split("\n", 1)
        assert text.lstrip().startswith("Set `prometheus.hold_seconds`"), title
        assert "```" in text, title
