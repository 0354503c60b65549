"""A real Prometheus with the configuration of the rendered ServiceMonitor."""

import json
from pathlib import Path
from typing import Final

import pytest

from tests.k8s.rendered import APPLICATION, NGINX, Manifests, Object
from tests.k8s.running import Installation
from tests.support.process import LOOPBACK
from tests.support.prometheus import Prometheus, Target

pytestmark = pytest.mark.usefixtures("quick_programs")

_POD: Final = f"{APPLICATION}-0"


class OperatedPrometheus(Prometheus):
    """A Prometheus with the configuration that Prometheus Operator would write, with a shorter interval.

    https://prometheus-operator.dev/docs/api-reference/api/#monitoring.coreos.com/v1.ServiceMonitor
    """

    def __init__(self, directory: Path, manifests: Manifests, port: int) -> None:
        self._manifests = manifests
        super().__init__(directory, [Target(f"{LOOPBACK}:{port}")], scrape_interval=0.5)

    def _write_config(self) -> None:
        spec = self._manifests.one("ServiceMonitor")["spec"]
        service = self._manifests.find("Service", f"{APPLICATION}-metrics")
        assert service is not None
        scrapes = [
            {
                "job_name": "serviceMonitor",
                "honor_labels": endpoint.get("honorLabels", False),
                "metrics_path": endpoint["path"],
                "relabel_configs": [relabeling(one) for one in endpoint["relabelings"]],
                "static_configs": [{"targets": [target.address], "labels": found(spec, service, endpoint)}],
            }
            for endpoint in spec["endpoints"]
            for target in self._targets
        ]
        interval = f"{round(self._interval * 1000)}ms"
        self._config.write_text(
            json.dumps({"global": {"scrape_interval": interval}, "scrape_configs": scrapes})
        )


def found(spec: Object, service: Object, endpoint: Object) -> dict[str, str]:
    """Return the labels of the target before the relabelings of the ServiceMonitor."""
    return {
        "__meta_kubernetes_pod_name": _POD,
        "namespace": service["metadata"]["namespace"],
        "service": service["metadata"]["name"],
        "pod": _POD,
        "container": "exporter",
        "job": service["metadata"]["labels"][spec["jobLabel"]],
        "endpoint": endpoint["port"],
    }


def relabeling(rule: Object) -> Object:
    """Return a relabeling with the field names of Prometheus."""
    names = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    return {names.get(key, key): value for key, value in rule.items()}


@pytest.mark.parametrize("installation", [NGINX], indirect=True)
def test_the_target_has_the_name_of_its_pod_and_the_series_keep_their_labels(
    installation: Installation, tmp_path: Path
) -> None:
    with OperatedPrometheus(tmp_path, installation.manifests, installation.ports[1]) as prometheus:
        prometheus.wait_for_scrapes()
        up = prometheus.query("up")
        pushes = prometheus.query("spot_interruption_exporter_push_messages_total")
        builds = prometheus.query("spot_interruption_exporter_build_info")

    assert [(one.labels["job"], one.labels["instance"], one.value) for one in up] == [(APPLICATION, _POD, 1)]
    assert {one.labels["endpoint"] for one in pushes} == {"creation", "interruption"}
    assert not any(label.startswith("exported_") for one in (*pushes, *builds) for label in one.labels)
    assert all("endpoint" not in one.labels for one in builds)
