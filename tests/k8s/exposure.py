"""Checks of the exposure: namespace, Services, ingress, and the settings of the load balancers."""

import json
from collections.abc import Iterator
from typing import Final

from tests.k8s.rendered import APPLICATION, HEALTH, Manifests, Object, selects

_ACK_DEADLINE_SECONDS: Final = 30
_SIZES: Final = {"k": 2**10, "m": 2**20, "g": 2**30}


def namespaces(manifests: Manifests) -> Iterator[str]:
    """All objects are in the namespace of the manifests."""
    made = manifests.one("Namespace")["metadata"]["name"]
    for one in manifests.objects:
        name = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] != "Namespace" and one["metadata"].get("namespace") != made:
            yield f"{name} is not in the namespace {made}"
        if "from-site" in json.dumps(one):
            yield f"{name} lacks a value of the site"


def selectors(manifests: Manifests) -> Iterator[str]:
    """All selectors select the pod."""
    labels = manifests.pod_labels
    if not selects(manifests.workload["selector"], labels):
        yield "the StatefulSet does not select its own pod"
    for service in manifests.all("Service"):
        if not selects({"matchLabels": service["spec"]["selector"]}, labels):
            yield f"the Service {service['metadata']['name']} does not select the pod"
    for policy in manifests.all("NetworkPolicy"):
        if not selects(policy["spec"]["podSelector"], labels):
            yield f"the NetworkPolicy {policy['metadata']['name']} does not select the pod"


def services(manifests: Manifests) -> Iterator[str]:
    """All Services are internal: one for pushes, if there are any, and a headless one for metrics.

    The headless one has even a pod that stops.
    """
    for service in manifests.all("Service"):
        if service["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"the Service {service['metadata']['name']} is open without the ingress"
    push = manifests.find("Service", APPLICATION)
    if manifests.pulls:
        if push is not None:
            yield "there is a Service for pushes, but the exporter pulls"
    elif push is None or _targets(manifests, push) != {manifests.port("http")}:
        yield "the Service of pushes does not lead to the port http"
    governing = manifests.find("Service", manifests.workload["serviceName"])
    if governing is None or governing["spec"].get("clusterIP") != "None":
        yield "the StatefulSet's Service is missing, or not headless"
    elif not governing["spec"].get("publishNotReadyAddresses"):
        yield "the scraped Service drops a pod that stops"
    elif _targets(manifests, governing) != {manifests.port("metrics")}:
        yield "the scraped Service does not lead to the port metrics"


def _targets(manifests: Manifests, service: Object) -> set[int | None]:
    return {manifests.port(port.get("targetPort", port["port"])) for port in service["spec"]["ports"]}


def closed(manifests: Manifests) -> Iterator[str]:
    """Without pushes, nothing leads from the internet to the exporter; with pushes, an ingress does."""
    doors = ("Ingress", "ManagedCertificate", "BackendConfig", "FrontendConfig")
    found = [one["kind"] for one in manifests.objects if one["kind"] in doors]
    if manifests.pulls:
        yield from (f"there is a kind {kind}, but the exporter pulls" for kind in found)
    elif "Ingress" not in found:
        yield "pubsub.delivery is push, but there is no Ingress"


def ingress(manifests: Manifests) -> Iterator[str]:
    """Only pushes are routed, by TLS, on the host that is the audience of their tokens."""
    if not manifests.all("Ingress"):
        return
    settings, _ = manifests.settings()
    specified = manifests.one("Ingress")["spec"]
    if "defaultBackend" in specified:
        yield "the ingress has a default backend, which allows all paths"
    for path, rule in manifests.backends():
        backend = rule["backend"]["service"]
        service = manifests.find("Service", backend["name"])
        served = [] if service is None else service["spec"]["ports"]
        reached = [
            one for one in served if backend["port"] in ({"name": one["name"]}, {"number": one["port"]})
        ]
        if not reached or manifests.port(reached[0]["targetPort"]) != settings.server.port:
            yield f"{path} does not lead to server.port"
        if not (path.startswith("/events/") and rule["pathType"] in {"Prefix", "Exact"}):
            yield f"{path} allows more than /events/"
        if f"https://{rule['host']}" not in settings.pubsub.audience:
            yield f"the host {rule['host']} is not the audience"
        if rule["host"] not in _certified(manifests):
            yield f"there is no certificate for {rule['host']}"


def _certified(manifests: Manifests) -> set[str]:
    annotations = manifests.one("Ingress")["metadata"]["annotations"]
    managed = manifests.find(
        "ManagedCertificate", annotations.get("networking.gke.io/managed-certificates", "")
    )
    tls = manifests.one("Ingress")["spec"].get("tls", [])
    return {
        *(host for one in tls if one.get("secretName") for host in one["hosts"]),
        *(managed["spec"]["domains"] if managed else ()),
    }


def gke(manifests: Manifests) -> Iterator[str]:
    """The load balancer probes the right path and port, and gives up later than Pub/Sub."""
    settings, _ = manifests.settings()
    annotations = _ingress(manifests)["metadata"]["annotations"]
    if annotations.get("kubernetes.io/ingress.class") != "gce":
        return
    push = manifests.find("Service", APPLICATION) or {"metadata": {}}
    noted = push["metadata"].get("annotations", {})
    if json.loads(noted.get("cloud.google.com/neg", "{}")) != {"ingress": True}:
        yield "the balancer does not connect to the pod directly"
    named = json.loads(noted.get("cloud.google.com/backend-config", "{}")).get("ports", {}).get("http", "")
    backend = manifests.find("BackendConfig", named)
    if backend is None:
        yield "the Service of pushes has no BackendConfig"
        return
    check = backend["spec"]["healthCheck"]
    if (check["requestPath"], check["port"]) != (HEALTH, settings.server.port):
        yield f"the balancer does not probe {HEALTH} at server.port"
    if backend["spec"]["timeoutSec"] <= _ACK_DEADLINE_SECONDS:
        yield "the balancer gives up before Pub/Sub does"
    if backend["spec"]["connectionDraining"]["drainingTimeoutSec"] > settings.server.drain_seconds:
        yield "the balancer drains for longer than server.drain_seconds"
    frontend = manifests.find(
        "FrontendConfig", annotations.get("networking.gke.io/v1beta1.FrontendConfig", "")
    )
    if frontend is None or not frontend["spec"]["redirectToHttps"]["enabled"]:
        yield "http is not redirected to https"


def nginx(manifests: Manifests) -> Iterator[str]:
    """Both controllers allow the largest body, and give up later than Pub/Sub."""
    settings, _ = manifests.settings()
    if _ingress(manifests)["spec"].get("ingressClassName") != "nginx":
        return
    noted = manifests.one("Ingress")["metadata"]["annotations"]
    for name in ("nginx.ingress.kubernetes.io/proxy-body-size", "nginx.org/client-max-body-size"):
        if _bytes(noted.get(name, "1m")) <= settings.server.max_body_bytes:
            yield f"{name} is not above server.max_body_bytes"
    for name in ("nginx.ingress.kubernetes.io/proxy-read-timeout", "nginx.org/proxy-read-timeout"):
        if int(noted.get(name, "0").removesuffix("s")) <= _ACK_DEADLINE_SECONDS:
            yield f"{name}: nginx gives up before Pub/Sub does"
    for name in ("nginx.ingress.kubernetes.io/ssl-redirect", "nginx.org/redirect-to-https"):
        if noted.get(name) != "true":
            yield f"{name}: http is not redirected to https"


def _ingress(manifests: Manifests) -> Object:
    found = manifests.all("Ingress")
    return found[0] if found else {"metadata": {"annotations": {}}, "spec": {}}


def _bytes(size: str) -> int:
    return int(size[:-1]) * _SIZES[size[-1].lower()]
