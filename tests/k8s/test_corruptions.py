"""The checks find each fault in a complete installation that is changed in one place."""

from typing import Any, Final

import pytest

from tests.k8s.checks import problems
from tests.k8s.rendered import APPLICATION, GKE, NGINX, PULL, REPLICAS, Manifests, render

_GONE: Final = object()
_POD: Final = ("spec", "template", "spec")
_CONTAINER: Final = (*_POD, "containers", 0)
_RULE: Final = ("spec", "rules", 0)
_PATH: Final = (*_RULE, "http", "paths", 0)
_AFFINITY: Final = (
    *(*_POD, "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"),
    *("nodeSelectorTerms", 0, "matchExpressions"),
)
_HOST: Final = "sie.example.com"
_SPREAD: Final = (*_POD, "topologySpreadConstraints")
_STORE: Final = (*_POD, "volumes", 0)
_CLAIM: Final = {"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}


def corrupt(manifests: Manifests, what: str, path: tuple[Any, ...], value: object) -> None:
    """Set or remove the value at a path in an object: `Kind` or `Kind name`."""
    kind, _, name = what.partition(" ")
    found = manifests.find(kind, name) if name else manifests.one(kind)
    assert found is not None
    target: Any = found
    for key in path[:-1]:
        target = target[key]
    if value is _GONE:
        del target[path[-1]]
    else:
        target[path[-1]] = value


def configure(manifests: Manifests, old: str, new: str) -> None:
    """Change a line of the mounted configuration."""
    assert old in manifests.configuration()
    for one in manifests.all("ConfigMap"):
        if "config.yaml" in one["data"]:
            one["data"]["config.yaml"] = one["data"]["config.yaml"].replace(old, new)


SCHEMA: Final = [
    (GKE, "StatefulSet", ("spec", "replica"), 1, "replica"),
    (GKE, "StatefulSet", (*_CONTAINER, "ports", 0, "containerPort"), "8080", "not of type 'integer'"),
    (GKE, "StatefulSet", (*_CONTAINER, "image"), 1, "not of type"),
    (GKE, f"Service {APPLICATION}", ("spec", "ports", 0, "targetPorts"), "http", "targetPorts"),
    (GKE, "Ingress", (*_PATH, "pathType"), _GONE, "pathType"),
    (GKE, "Ingress", ("apiVersion",), "networking.k8s.io/v1beta1", "Couldn't find schema"),
    (GKE, "PodMonitoring", ("spec", "endpoints", 0, "honorLabels"), True, "honorLabels"),
    (GKE, "PodMonitoring", ("spec", "endpoints", 0, "interval"), 30, "interval"),
    (GKE, "Rules", ("spec", "groups", 0, "interval"), _GONE, "interval"),
    (GKE, "BackendConfig", ("spec", "healthCheck", "requestPath"), 5, "requestPath"),
    (GKE, "BackendConfig", ("spec", "timeout"), 40, "timeout"),
    (GKE, "FrontendConfig", ("spec", "redirectToHttps", "responseCodeName"), "308", "responseCodeName"),
    (GKE, "ManagedCertificate", ("spec", "domains"), [], "domains"),
    (NGINX, "ServiceMonitor", ("spec", "endpoints", 0, "timeout"), "10s", "timeout"),
    (NGINX, "PrometheusRule", ("spec", "groups", 0, "rules", 0, "expr"), _GONE, "expr"),
]
AGREEMENT: Final = [
    # the image and the configuration
    (GKE, "StatefulSet", (*_CONTAINER, "image"), f"{APPLICATION}:latest", "is not of version"),
    (GKE, "StatefulSet", (*_CONTAINER, "image"), APPLICATION, "is not of version"),
    (GKE, "StatefulSet", ("metadata", "labels", "app.kubernetes.io/version"), "0", "version is not"),
    (GKE, "StatefulSet", (*_POD, "volumes", 0, "configMap", "name"), "other", "no ConfigMap other"),
    (GKE, "StatefulSet", (*_CONTAINER, "env", 0, "value"), "/etc/spot-interruption-exporter/c", "no file"),
    (GKE, "StatefulSet", (*_CONTAINER, "env", 0, "name"), "CONFIG", "no file"),
    # ports and probes
    (GKE, "StatefulSet", (*_CONTAINER, "ports", 0, "containerPort"), 8081, "http is not server.port"),
    (GKE, "StatefulSet", (*_CONTAINER, "ports", 1, "containerPort"), 9090, "not prometheus.port"),
    (GKE, "StatefulSet", (*_CONTAINER, "livenessProbe", "httpGet", "path"), "/readyz", "livenessProbe"),
    (GKE, "StatefulSet", (*_CONTAINER, "readinessProbe", "httpGet", "path"), "/readyz", "readinessProbe"),
    (GKE, "StatefulSet", (*_CONTAINER, "readinessProbe", "httpGet", "port"), 80, "nothing listens"),
    (GKE, "StatefulSet", (*_CONTAINER, "startupProbe"), _GONE, "startupProbe"),
    (GKE, "StatefulSet", (*_CONTAINER, "startupProbe", "failureThreshold"), 3, "enough time"),
    # files
    (GKE, "StatefulSet", (*_CONTAINER, "volumeMounts", 1, "mountPath"), "/data", "not on a claimed volume"),
    (GKE, "StatefulSet", (*_CONTAINER, "volumeMounts", 1, "readOnly"), True, "mounted read-only"),
    (GKE, "StatefulSet", (*_CONTAINER, "volumeMounts", 2, "mountPath"), "/var/tmp", "TMPDIR"),  # noqa: S108
    (GKE, "StatefulSet", (*_POD, "volumes", 1, "emptyDir", "medium"), "Memory", "are in memory"),
    (GKE, "StatefulSet", (*_POD, "volumes", 1, "emptyDir"), {}, "no limit"),
    (GKE, "StatefulSet", ("spec", "volumeClaimTemplates"), _GONE, "not on a claimed volume"),
    (GKE, "StatefulSet", ("spec", "replicas"), 2, "exactly one replica"),
    # several replicas
    (REPLICAS, "StatefulSet", ("spec", "replicas"), 1, "needs several replicas"),
    (REPLICAS, "StatefulSet", ("spec", "replicas"), _GONE, "needs several replicas"),
    (REPLICAS, "StatefulSet", ("spec", "volumeClaimTemplates"), [_CLAIM], "a disk is claimed"),
    (REPLICAS, "StatefulSet", (*_CONTAINER, "volumeMounts", 2, "name"), "data", "no volume data"),
    (REPLICAS, "StatefulSet", (*_STORE, "secret", "secretName"), "other", "no Secret is mounted"),
    (
        REPLICAS,
        "StatefulSet",
        (*_CONTAINER, "volumeMounts", 0, "mountPath"),
        "/other",
        "no Secret is mounted",
    ),
    (REPLICAS, "StatefulSet", (*_CONTAINER, "env", 0, "value"), "/etc/url", "no Secret is mounted"),
    (REPLICAS, "StatefulSet", (*_CONTAINER, "env", 0, "name"), "STORE_URL", "not on a claimed volume"),
    (
        REPLICAS,
        "StatefulSet",
        (*_CONTAINER, "env", 2),
        {"name": "SIE_STORE__REPLICA", "value": "one"},
        "the same name",
    ),
    (REPLICAS, "StatefulSet", (*_SPREAD, 0, "topologyKey"), "region", "topology.kubernetes.io/zone"),
    (REPLICAS, "StatefulSet", (*_SPREAD, 1), _GONE, "kubernetes.io/hostname"),
    (REPLICAS, "StatefulSet", (*_SPREAD, 0, "labelSelector", "matchLabels"), {"app": "other"}, "not spread"),
    (REPLICAS, "StatefulSet", (*_SPREAD, 0, "whenUnsatisfiable"), "DoNotSchedule", "would not run"),
    (REPLICAS, "StatefulSet", ("spec", "updateStrategy", "type"), "OnDelete", "a rollout does not take one"),
    (REPLICAS, "PodDisruptionBudget", ("spec", "maxUnavailable"), 2, "one replica at a time"),
    (REPLICAS, "PodDisruptionBudget", ("spec", "maxUnavailable"), _GONE, "one replica at a time"),
    (REPLICAS, "PodDisruptionBudget", ("spec", "selector", "matchLabels"), {"app": "other"}, "at a time"),
    (REPLICAS, "PodDisruptionBudget", ("spec", "unhealthyPodEvictionPolicy"), _GONE, "blocks a drain"),
    (REPLICAS, "PodDisruptionBudget", ("spec", "maxUnavailables"), 1, "maxUnavailables"),
    # pull
    (PULL, "StatefulSet", (*_CONTAINER, "ports", 0), {"name": "http", "containerPort": 8080}, "a port http"),
    (PULL, "StatefulSet", (*_CONTAINER, "livenessProbe", "httpGet", "port"), "http", "nothing listens"),
    (PULL, "StatefulSet", (*_CONTAINER, "resources", "limits", "memory"), "384Mi", "memory limit"),
    (
        PULL,
        f"NetworkPolicy {APPLICATION}-managed-prometheus",
        ("spec", "ingress", 0, "ports", 0, "port"),
        8080,
        "collector in gke-gmp-system should not reach port 8080",
    ),
    # termination
    (GKE, "StatefulSet", (*_POD, "terminationGracePeriodSeconds"), 129, "below the 135 s"),
    (GKE, "StatefulSet", (*_POD, "terminationGracePeriodSeconds"), _GONE, "below the 135 s"),
    # rights
    (GKE, "StatefulSet", (*_POD, "automountServiceAccountToken"), True, "automountServiceAccountToken"),
    (GKE, "StatefulSet", (*_POD, "enableServiceLinks"), _GONE, "enableServiceLinks"),
    (GKE, "StatefulSet", (*_POD, "securityContext", "runAsUser"), 0, "runAsUser"),
    (GKE, "StatefulSet", (*_POD, "securityContext", "runAsNonRoot"), _GONE, "runAsNonRoot"),
    (GKE, "StatefulSet", (*_POD, "securityContext", "fsGroup"), _GONE, "fsGroup"),
    (GKE, "StatefulSet", (*_POD, "securityContext", "seccompProfile", "type"), "Unconfined", "seccomp"),
    (GKE, "StatefulSet", (*_POD, "hostNetwork"), True, "hostNetwork"),
    (GKE, "StatefulSet", (*_POD, "serviceAccountName"), "default", "ServiceAccount"),
    (GKE, "StatefulSet", (*_CONTAINER, "securityContext", "readOnlyRootFilesystem"), False, "readOnlyRoot"),
    (GKE, "StatefulSet", (*_CONTAINER, "securityContext", "privileged"), True, "privileged"),
    (
        GKE,
        "StatefulSet",
        (*_CONTAINER, "securityContext", "capabilities", "add"),
        ["NET_RAW"],
        "capabilities",
    ),
    (GKE, "ServiceAccount", ("automountServiceAccountToken",), _GONE, "mounts tokens"),
    (GKE, "Namespace", ("metadata", "labels", "pod-security.kubernetes.io/enforce"), "baseline", "enforce"),
    # resources and nodes
    (GKE, "StatefulSet", (*_CONTAINER, "resources", "limits", "memory"), "256Mi", "memory limit"),
    (GKE, "StatefulSet", (*_CONTAINER, "resources", "requests", "memory"), "128Mi", "memory request"),
    (GKE, "StatefulSet", (*_CONTAINER, "resources", "requests", "cpu"), _GONE, "has no cpu"),
    (GKE, "StatefulSet", (*_AFFINITY, 0, "operator"), "In", "gke-spot"),
    (GKE, "StatefulSet", (*_AFFINITY, 1, "values"), ["false"], "gke-preemptible"),
    (GKE, "StatefulSet", (*_AFFINITY, 2, "values"), ["standard"], "gke-provisioning"),
    (GKE, "StatefulSet", (*_POD, "affinity"), _GONE, "may be on a node"),
    # namespaces, selectors and Services
    (GKE, "PodMonitoring", ("metadata", "namespace"), "monitoring", "not in the namespace"),
    (GKE, "ManagedCertificate", ("metadata", "namespace"), "default", "not in the namespace"),
    (GKE, "StatefulSet", ("spec", "selector", "matchLabels"), {"app": "other"}, "its own pod"),
    (GKE, f"Service {APPLICATION}", ("spec", "selector"), {"app": "other"}, "does not select the pod"),
    (GKE, f"Service {APPLICATION}", ("spec", "type"), "LoadBalancer", "open without the ingress"),
    (GKE, f"Service {APPLICATION}", ("spec", "ports", 0, "targetPort"), "metrics", "port http"),
    (GKE, f"Service {APPLICATION}-metrics", ("spec", "clusterIP"), _GONE, "not headless"),
    (GKE, f"Service {APPLICATION}-metrics", ("spec", "publishNotReadyAddresses"), _GONE, "that stops"),
    (NGINX, f"Service {APPLICATION}-metrics", ("spec", "ports", 0, "targetPort"), 8080, "port metrics"),
    # the ingress
    (GKE, "Ingress", (*_PATH, "path"), "/", "allows more"),
    (NGINX, "Ingress", (*_PATH, "path"), "/metrics", "allows more"),
    (NGINX, "Ingress", (*_PATH, "pathType"), "ImplementationSpecific", "allows more"),
    (NGINX, "Ingress", (*_PATH, "backend", "service", "name"), f"{APPLICATION}-metrics", "server.port"),
    (NGINX, "Ingress", (*_PATH, "backend", "service", "port"), {"number": 8090}, "server.port"),
    (NGINX, "Ingress", (*_RULE, "host"), "other.example.com", "is not the audience"),
    (NGINX, "Ingress", (*_RULE, "host"), _GONE, "is not the audience"),
    (NGINX, "Ingress", ("spec", "tls"), _GONE, "no certificate"),
    (
        NGINX,
        "Ingress",
        ("spec", "defaultBackend"),
        {"service": {"name": APPLICATION, "port": {"number": 80}}},
        "default backend",
    ),
    (GKE, "ManagedCertificate", ("spec", "domains"), ["other.example.com"], "no certificate"),
    (GKE, "ManagedCertificate", ("metadata", "name"), "other", "no certificate"),
    (
        GKE,
        f"Service {APPLICATION}",
        ("metadata", "annotations", "cloud.google.com/neg"),
        "{}",
        "pod directly",
    ),
    (GKE, "BackendConfig", ("metadata", "name"), "other", "no BackendConfig"),
    (GKE, "BackendConfig", ("spec", "healthCheck", "requestPath"), "/readyz", "does not probe /healthz"),
    (GKE, "BackendConfig", ("spec", "healthCheck", "port"), 80, "does not probe /healthz"),
    (GKE, "BackendConfig", ("spec", "timeoutSec"), 30, "before Pub/Sub"),
    (GKE, "BackendConfig", ("spec", "connectionDraining", "drainingTimeoutSec"), 300, "drains for longer"),
    (GKE, "FrontendConfig", ("spec", "redirectToHttps", "enabled"), False, "not redirected"),
    (NGINX, "Ingress", ("metadata", "annotations", "nginx.org/client-max-body-size"), "1m", "max_body_bytes"),
    (NGINX, "Ingress", ("metadata", "annotations", "nginx.org/proxy-read-timeout"), "30s", "before Pub/Sub"),
    # the scrapes
    (GKE, "PodMonitoring", ("spec", "endpoints", 0, "path"), "/", "not prometheus.path"),
    (GKE, "PodMonitoring", ("spec", "endpoints", 0, "port"), "http", "prometheus.port"),
    (GKE, "PodMonitoring", ("spec", "endpoints", 0, "interval"), "60s", "hold_seconds"),
    (GKE, "PodMonitoring", ("spec", "endpoints", 0, "timeout"), "1m", "longer than the interval"),
    (GKE, "PodMonitoring", ("spec", "selector", "matchLabels"), {"app": "other"}, "does not select"),
    (GKE, "PodMonitoring", ("spec", "targetLabels", "metadata"), ["node"], "new series"),
    (GKE, "PodMonitoring", ("metadata", "name"), "other", "label job"),
    (NGINX, "ServiceMonitor", ("spec", "endpoints", 0, "path"), "/", "not prometheus.path"),
    (NGINX, "ServiceMonitor", ("spec", "endpoints", 0, "port"), "http", "prometheus.port"),
    (NGINX, "ServiceMonitor", ("spec", "endpoints", 0, "interval"), "2m", "linger_seconds"),
    (NGINX, "ServiceMonitor", ("spec", "endpoints", 0, "relabelings"), [], "instance is not"),
    (NGINX, "ServiceMonitor", ("spec", "endpoints", 0, "honorLabels"), False, "label endpoint"),
    (
        NGINX,
        "ServiceMonitor",
        ("spec", "endpoints", 0, "relabelings", 1),
        {"action": "keep"},
        "endpoint hides",
    ),
    (NGINX, "ServiceMonitor", ("spec", "jobLabel"), _GONE, "label job"),
    (
        NGINX,
        "ServiceMonitor",
        ("spec", "selector", "matchLabels", "app.kubernetes.io/component"),
        _GONE,
        "headless Service alone",
    ),
    # the network
    (GKE, f"NetworkPolicy {APPLICATION}", ("spec", "policyTypes"), ["Ingress"], "should not be reached"),
    (GKE, f"NetworkPolicy {APPLICATION}", ("spec", "ingress"), [{}], "till in shop should not reach"),
    (GKE, f"NetworkPolicy {APPLICATION}", ("spec", "egress", 0), {"ports": []}, "should not be reached"),
    (GKE, f"NetworkPolicy {APPLICATION}", ("spec", "egress", 1), _GONE, "at TCP port 443"),
    (GKE, f"NetworkPolicy {APPLICATION}", ("spec", "egress", 3), _GONE, "169.254.169.252 should be"),
    (
        GKE,
        f"NetworkPolicy {APPLICATION}-gke-ingress",
        ("spec", "ingress", 0, "from", 0, "ipBlock", "cidr"),
        "10.0.0.0/8",
        "35.191.200.7 should reach port 8080",
    ),
    (
        GKE,
        f"NetworkPolicy {APPLICATION}-gke-ingress",
        ("spec", "ingress", 0, "ports"),
        _GONE,
        "should not reach port 8090",
    ),
    (
        GKE,
        f"NetworkPolicy {APPLICATION}-managed-prometheus",
        ("spec", "ingress", 0, "ports", 0, "port"),
        8080,
        "collector in gke-gmp-system should reach port 8090",
    ),
    (
        REPLICAS,
        f"NetworkPolicy {APPLICATION}-redis",
        ("spec", "egress", 0, "ports", 0, "port"),
        6380,
        "10.0.0.5 should be reached at TCP port 6379",
    ),
    (
        REPLICAS,
        f"NetworkPolicy {APPLICATION}-redis",
        ("spec", "egress", 0, "ports"),
        _GONE,
        "database in shop should not be reached",
    ),
    (
        NGINX,
        f"NetworkPolicy {APPLICATION}-prometheus-operator",
        ("spec", "podSelector", "matchLabels"),
        {"app": "other"},
        "does not select the pod",
    ),
    (
        NGINX,
        f"NetworkPolicy {APPLICATION}-nginx-ingress",
        ("spec", "ingress", 0, "from", 0),
        {"podSelector": {}},
        "ingress-nginx in ingress-nginx should reach port 8080",
    ),
]


@pytest.mark.parametrize(
    ("overlay", "what", "path", "value", "message"),
    [pytest.param(*row, id=f"{row[1]}-{row[2][-1]}-{row[4]}") for row in (*SCHEMA, *AGREEMENT)],
)
def test_a_fault_in_an_object_is_found(
    overlay: str, what: str, path: tuple[Any, ...], value: object, message: str
) -> None:
    manifests = render(overlay)
    corrupt(manifests, what, path, value)

    assert any(message in problem for problem in problems(manifests)), problems(manifests)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("port: 8080", "port: 8081", "http is not server.port"),
        ("port: 8090", "port: 8080", "exporter warns"),
        ("port: 8090", "port: 9090", "metrics is not prometheus.port"),
        ("path: /metrics", "path: /other", "not prometheus.path"),
        ("path: /metrics", "path: /healthz", "refuses its configuration"),
        ("hold_seconds: 60", "hold_seconds: 30", "hold_seconds is below"),
        ("linger_seconds: 65", "linger_seconds: 300", "terminationGracePeriodSeconds"),
        ("drain_seconds: 60", "drain_seconds: 0", "drain_seconds is 0"),
        ("keep_alive_seconds: 620", "keep_alive_seconds: 60", "keep_alive_seconds"),
        ("sqlite:////var/lib", "sqlite:////tmp/lib", "not on a claimed volume"),
        (f"https://{_HOST}", "https://other.example.com", "is not the audience"),
        ("audience:", "audiences:", "refuses its configuration"),
        ("port: 8080", "  port: 8080", "refuses its configuration"),
    ],
)
def test_a_fault_in_the_configuration_is_found(old: str, new: str, message: str) -> None:
    manifests = render(GKE)
    configure(manifests, old, new)

    assert any(message in problem for problem in problems(manifests)), problems(manifests)


def test_objects_for_several_replicas_are_found_in_an_installation_of_one() -> None:
    one, several = render(GKE), render(REPLICAS)
    objects = [several.one("PodDisruptionBudget"), several.find("NetworkPolicy", f"{APPLICATION}-redis")]
    one.objects = [*one.objects, *(found for found in objects if found)]

    assert problems(one) == [
        "a PodDisruptionBudget only blocks drains of one replica",
        "10.0.0.5 should not be reached at TCP port 6379",
    ]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("Ingress", "a kind Ingress"),
        ("ManagedCertificate", "a kind ManagedCertificate"),
        ("BackendConfig", "a kind BackendConfig"),
        ("Service", "a Service for pushes"),
    ],
)
def test_a_way_for_pushes_is_found_in_an_installation_that_pulls(kind: str, message: str) -> None:
    manifests = render(PULL)
    added = render(GKE).find(kind, APPLICATION)
    assert added is not None
    manifests.objects = [*manifests.objects, added]

    assert any(message in problem for problem in problems(manifests)), problems(manifests)


def test_a_second_url_of_the_store_is_found() -> None:
    manifests = render(REPLICAS)
    configure(
        manifests, "server:", "store:\n  url: sqlite:////var/lib/spot-interruption-exporter/store.db\nserver:"
    )

    assert any("keep one of the two" in problem for problem in problems(manifests)), problems(manifests)


def test_a_missing_ingress_is_found() -> None:
    manifests = render(GKE)
    manifests.objects = [one for one in manifests.objects if one["kind"] != "Ingress"]

    assert "pubsub.delivery is push, but there is no Ingress" in problems(manifests)


def test_two_kinds_of_scrapes_at_once_are_found() -> None:
    manifests = render(GKE)
    manifests.objects = [*manifests.objects, *render(NGINX).all("ServiceMonitor")]

    assert any("one ServiceMonitor" in problem for problem in problems(manifests))
