"""Checks of the pod: image, configuration, ports, probes, files, rights, resources, nodes and termination."""

import re
from collections.abc import Iterator
from typing import Any, Final

from app import VERSION
from app.errors import ConfigurationError
from tests.k8s.rendered import APPLICATION, HEALTH, URL_FILE, Manifests, Object, selects

_MIB: Final = 2**20
# Measured values: see k8s/README.md. The child limits itself by the `--memory-mib` of app/gcp/compute.
_EXPORTER_MIB: Final = 90
_PULLING_EXPORTER_MIB: Final = 130
_CHILD_MIB: Final = 110
CHILD_LIMIT_MIB: Final = 256
_STOP_SECONDS: Final = 10
_BALANCER_KEEPS_SECONDS: Final = 600
_UNITS: Final = {"": 1, "Ki": 2**10, "Mi": _MIB, "Gi": 2**30, "k": 10**3, "M": 10**6, "G": 10**9}


def configuration(manifests: Manifests) -> Iterator[str]:
    """The exporter accepts the mounted file without a warning."""
    try:
        _, warnings = manifests.settings()
    except LookupError as exc:
        yield f"CONFIG_PATH or {URL_FILE} leads to no file: {exc}"
    except ConfigurationError as exc:
        yield f"the exporter refuses its configuration: {exc}"
    else:
        yield from (f"the exporter warns: {warning}" for warning in warnings)


def version(manifests: Manifests) -> Iterator[str]:
    """The image and the labels have this version."""
    image = manifests.container["image"]
    if not re.fullmatch(rf"[\w.:/-]*\b{APPLICATION}:{re.escape(VERSION)}", image):
        yield f"the image {image} is not of version {VERSION}"
    if manifests.one("StatefulSet")["metadata"]["labels"].get("app.kubernetes.io/version") != VERSION:
        yield f"the label app.kubernetes.io/version is not {VERSION}"


def ports(manifests: Manifests) -> Iterator[str]:
    """The exporter listens on the ports of the container. Without pushes, only the metrics have one."""
    settings, _ = manifests.settings()
    if manifests.pulls:
        if manifests.port("http") is not None:
            yield "there is a port http, but the exporter pulls"
    elif manifests.port("http") != settings.server.port:
        yield "the port http is not server.port"
    if manifests.port("metrics") != settings.metrics_port:
        yield "the port metrics is not prometheus.port"
    if settings.one_listener:
        yield "the metrics do not have a separate port"
    if settings.server.keep_alive_seconds <= _BALANCER_KEEPS_SECONDS:
        yield "server.keep_alive_seconds is not longer than a balancer keeps a connection"


def probes(manifests: Manifests) -> Iterator[str]:
    """All probes request the path for liveness, which does not need the fleet, on a port of the exporter."""
    settings, _ = manifests.settings()
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = manifests.container.get(name, {"httpGet": {}})
        asked = probe["httpGet"]
        if asked.get("path") != HEALTH:
            yield f"{name} does not request {HEALTH}"
        if manifests.port(asked.get("port", 0)) not in {settings.server.port, settings.metrics_port}:
            yield f"{name} uses a port on which nothing listens"
    startup = manifests.container.get("startupProbe", {})
    if startup.get("periodSeconds", 10) * startup.get("failureThreshold", 3) < 120:
        yield "startupProbe does not leave enough time to check a large store"


def files(manifests: Manifests) -> Iterator[str]:
    """Temporary files are on the node's disk, with a size limit."""
    temporary = {one["name"]: one["emptyDir"] for one in manifests.pod["volumes"] if "emptyDir" in one}
    at = manifests.environment.get("TMPDIR")
    if not any(manifests.mounts.get(name) == at for name in temporary):
        yield "TMPDIR is not an emptyDir"
    for volume in temporary.values():
        if volume.get("medium"):
            yield "temporary files are in memory, and count against its limit"
        if not volume.get("sizeLimit"):
            yield "temporary files have no limit"


def end(manifests: Manifests) -> Iterator[str]:
    """The pod has enough time to stop."""
    settings, _ = manifests.settings()
    needs = settings.server.drain_seconds + settings.prometheus.linger_seconds + _STOP_SECONDS
    if manifests.pod.get("terminationGracePeriodSeconds", 30) < needs:
        yield f"terminationGracePeriodSeconds is below the {needs:g} s that stopping takes"
    if manifests.pulls:
        if settings.server.drain_seconds:
            yield "server.drain_seconds delays the end of the pod, but the exporter pulls"
    elif not settings.server.drain_seconds:
        yield "server.drain_seconds is 0, but a balancer needs time to remove the pod"


_POD_RIGHTS: Final[dict[str, Any]] = {
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "securityContext.runAsNonRoot": True,
    "securityContext.runAsUser": 10001,
    "securityContext.runAsGroup": 10001,
    "securityContext.fsGroup": 10001,
    "securityContext.seccompProfile.type": "RuntimeDefault",
}
_CONTAINER_RIGHTS: Final[dict[str, Any]] = {
    "securityContext.allowPrivilegeEscalation": False,
    "securityContext.readOnlyRootFilesystem": True,
    "securityContext.capabilities": {"drop": ["ALL"]},
    "securityContext.privileged": None,
    "securityContext.runAsUser": None,
    "securityContext.runAsNonRoot": None,
    "securityContext.seccompProfile": None,
}
_HOST_RIGHTS: Final = ("hostNetwork", "hostPID", "hostIPC")


def rights(manifests: Manifests) -> Iterator[str]:
    """The pod has only the rights that it needs, and the namespace enforces most of this."""
    for specified, wanted in ((manifests.pod, _POD_RIGHTS), (manifests.container, _CONTAINER_RIGHTS)):
        for path, value in wanted.items():
            if _at(specified, path) != value:
                yield f"{path} is not {value}"
    yield from (f"the pod has {name}" for name in _HOST_RIGHTS if manifests.pod.get(name))
    yield from ("a volume is a hostPath" for one in manifests.pod["volumes"] if "hostPath" in one)
    account = manifests.find("ServiceAccount", manifests.pod.get("serviceAccountName", "default"))
    if account is None or account.get("automountServiceAccountToken") is not False:
        yield "the pod's ServiceAccount is missing, or mounts tokens"
    labels = manifests.one("Namespace")["metadata"].get("labels", {})
    if labels.get("pod-security.kubernetes.io/enforce") != "restricted":
        yield "the namespace does not enforce the restricted pod security standard"


def resources(manifests: Manifests) -> Iterator[str]:
    """The memory is enough for the exporter and the child that lists the fleet."""
    given = manifests.container.get("resources", {})
    exporter = _PULLING_EXPORTER_MIB if manifests.pulls else _EXPORTER_MIB
    for kind in ("requests", "limits"):
        yield from (
            f"resources.{kind} has no {name}"
            for name in ("cpu", "memory", "ephemeral-storage")
            if name not in given.get(kind, {})
        )
    if _mib(given, "requests") < exporter + _CHILD_MIB:
        yield "the memory request is below the use of the exporter and its child"
    if _mib(given, "limits") < exporter + CHILD_LIMIT_MIB:
        yield "the memory limit is below the use of the exporter and the limit of its child"


_SPOT_NODES: Final = (
    {"cloud.google.com/gke-spot": "true"},
    {"cloud.google.com/gke-preemptible": "true"},
    {"cloud.google.com/gke-provisioning": "spot"},
    {"cloud.google.com/gke-provisioning": "preemptible"},
)
_OTHER_NODES: Final[tuple[dict[str, str], ...]] = ({}, {"cloud.google.com/gke-provisioning": "standard"})


def nodes(manifests: Manifests) -> Iterator[str]:
    """The pod is never on a Spot node, and may be on all other nodes."""
    affinity = _at(manifests.pod, "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution")
    terms = affinity["nodeSelectorTerms"] if isinstance(affinity, dict) else [{}]
    for labels in _SPOT_NODES:
        if any(selects(term, labels) for term in terms):
            yield f"the pod may be on a node with {labels}"
    for labels in _OTHER_NODES:
        if not any(selects(term, labels) for term in terms):
            yield f"the pod may not be on a node with {labels}"


def _at(specified: Object, path: str) -> object:
    value: Any = specified
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _mib(given: Object, kind: str) -> float:
    quantity = str(given.get(kind, {}).get("memory", "0"))
    number, unit = re.fullmatch(r"(\d+)([A-Za-z]*)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * _UNITS[unit] / _MIB
