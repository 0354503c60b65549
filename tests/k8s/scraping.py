"""Checks of the scrapes by Prometheus Operator and by Google's managed Prometheus."""

import re
from collections.abc import Iterator
from typing import Final

from app.settings import Settings
from tests.k8s.rendered import APPLICATION, Manifests, Object, selects

_UNITS: Final = {"s": 1, "m": 60}


def monitors(manifests: Manifests) -> Iterator[str]:
    """Exactly one kind of monitor scrapes, and the manifests have rules for it."""
    kinds = [one["kind"] for one in manifests.objects]
    worlds = (("ServiceMonitor", "PrometheusRule"), ("PodMonitoring", "Rules"))
    if [tuple(map(kinds.count, world)) for world in worlds] not in ([(1, 1), (0, 0)], [(0, 0), (1, 1)]):
        yield "there should be one ServiceMonitor and PrometheusRule, or one PodMonitoring and Rules"


def by_service(manifests: Manifests) -> Iterator[str]:
    """A ServiceMonitor selects the headless Service and its port, and names the target by its pod."""
    settings, _ = manifests.settings()
    for monitor in manifests.all("ServiceMonitor"):
        specified = monitor["spec"]
        found = [
            one
            for one in manifests.all("Service")
            if selects(specified["selector"], one["metadata"]["labels"])
        ]
        if [one["metadata"]["name"] for one in found] != [manifests.workload["serviceName"]]:
            yield "the ServiceMonitor does not select the headless Service alone"
        for endpoint in specified["endpoints"]:
            ports = [
                port for one in found for port in one["spec"]["ports"] if port["name"] == endpoint["port"]
            ]
            if [manifests.port(port["targetPort"]) for port in ports] != [settings.metrics_port]:
                yield "the ServiceMonitor's port does not lead to prometheus.port"
            yield from _scrape(endpoint, settings)
            yield from _labels(endpoint)
        if {one["metadata"]["labels"].get(specified.get("jobLabel", "")) for one in found} != {APPLICATION}:
            yield "the label job is not the application's name"


def _labels(endpoint: Object) -> Iterator[str]:
    by_pod = {
        "action": "replace",
        "sourceLabels": ["__meta_kubernetes_pod_name"],
        "targetLabel": "instance",
    }
    relabelings = endpoint.get("relabelings", [])
    if by_pod not in relabelings:
        yield "the label instance is not the pod's name"
    if not endpoint.get("honorLabels") or {"action": "labeldrop", "regex": "endpoint"} not in relabelings:
        yield "the operator's label endpoint hides the exporter's"


def by_pod(manifests: Manifests) -> Iterator[str]:
    """A PodMonitoring selects the pod and its port. `instance` is always the pod's name and port."""
    settings, _ = manifests.settings()
    for monitor in manifests.all("PodMonitoring"):
        specified = monitor["spec"]
        if not selects(specified["selector"], manifests.pod_labels):
            yield "the PodMonitoring does not select the pod"
        if monitor["metadata"]["name"] != APPLICATION:
            yield "the label job is not the application's name"
        if "node" in specified["targetLabels"]["metadata"]:
            yield "a pod that moves to another node begins new series"
        for endpoint in specified["endpoints"]:
            # The port must be a name. A number makes a target of each selected pod.
            names = {port["name"]: port["containerPort"] for port in manifests.container["ports"]}
            if names.get(endpoint["port"]) != settings.metrics_port:
                yield "the PodMonitoring's port does not lead to prometheus.port"
            yield from _scrape(endpoint, settings)


def _scrape(endpoint: Object, settings: Settings) -> Iterator[str]:
    interval = _seconds(endpoint["interval"])
    if endpoint["path"] != settings.prometheus.path:
        yield "the path that is scraped is not prometheus.path"
    if settings.prometheus.hold_seconds < 2 * interval:
        yield "prometheus.hold_seconds is below two scrape intervals"
    if settings.prometheus.linger_seconds < 2 * interval:
        yield "prometheus.linger_seconds is below two scrape intervals"
    if _seconds(endpoint.get("scrapeTimeout") or endpoint["timeout"]) > interval:
        yield "a scrape may take longer than the interval"


def _seconds(duration: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([sm])", duration).groups()  # type: ignore[union-attr]
    return int(number) * _UNITS[unit]
