"""Checks of the NetworkPolicies: connections that a cluster allows if it enforces them.

https://kubernetes.io/docs/concepts/services-networking/network-policies/
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from tests.k8s.rendered import Manifests, selects

_NAME: Final = "kubernetes.io/metadata.name"


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection: a pod in a namespace, or an address outside of the cluster."""

    namespace: str = ""
    application: str = ""
    address: str = ""

    def __str__(self) -> str:
        return self.address or f"{self.application} in {self.namespace}"


COLLECTOR: Final = Peer("gke-gmp-system", "collector")
OWN_COLLECTOR: Final = Peer("gmp-system", "collector")
PROMETHEUS: Final = Peer("monitoring", "prometheus")
NGINX: Final = Peer("ingress-nginx", "ingress-nginx")
OTHER_NGINX: Final = Peer("nginx-ingress", "nginx-ingress")
BALANCERS: Final = (Peer(address="35.191.200.7"), Peer(address="130.211.3.250"))
STRANGERS: Final = (Peer("shop", "till"), Peer(address="203.0.113.9"), Peer(address="10.0.0.8"))
METADATA_SERVER: Final = Peer(address="169.254.169.254")
METADATA_DAEMON: Final = Peer(address="169.254.169.252")

_KNOWN: Final = (COLLECTOR, OWN_COLLECTOR, PROMETHEUS, NGINX, OTHER_NGINX, *BALANCERS, *STRANGERS)


def incoming(manifests: Manifests) -> Iterator[str]:
    """Only the ingress reaches the port for pushes, and only Prometheus the port for metrics."""
    settings, _ = manifests.settings()
    pushers = BALANCERS if manifests.all("BackendConfig") else (NGINX, OTHER_NGINX)
    allowed = {
        settings.server.port: () if manifests.pulls else pushers,
        settings.metrics_port: (COLLECTOR, OWN_COLLECTOR)
        if manifests.all("PodMonitoring")
        else (PROMETHEUS,),
    }
    for port, peers in allowed.items():
        for peer in _KNOWN:
            if admits(manifests, "ingress", peer, port) != (peer in peers):
                yield f"{peer} should {'' if peer in peers else 'not '}reach port {port}"


_OUT: Final = (
    *(
        (peer, 53, protocol)
        for peer in (Peer("kube-system", "kube-dns"), Peer(address="169.254.20.10"))
        for protocol in ("UDP", "TCP")
    ),
    (Peer(address="142.250.74.42"), 443, "TCP"),
    (METADATA_SERVER, 80, "TCP"),
    (METADATA_DAEMON, 988, "TCP"),
)
_NOT_OUT: Final = (
    (Peer(address="203.0.113.9"), 80, "TCP"),
    (Peer("shop", "till"), 8080, "TCP"),
    (Peer("shop", "database"), 5432, "TCP"),
    (METADATA_SERVER, 22, "TCP"),
)


_REDIS_PORT: Final = 6379


def outgoing(manifests: Manifests) -> Iterator[str]:
    """Only DNS, Google's APIs, the metadata server and, if it is the store, Redis are reached."""
    settings, _ = manifests.settings()
    store = urlsplit(settings.store.url)
    redis = [(Peer(address=store.hostname), store.port or _REDIS_PORT, "TCP")] if store.hostname else []
    without = [] if redis else [(Peer(address="10.0.0.5"), _REDIS_PORT, "TCP")]
    for peer, port, protocol in (*_OUT, *redis):
        if not admits(manifests, "egress", peer, port, protocol):
            yield f"{peer} should be reached at {protocol} port {port}"
    for peer, port, protocol in (*_NOT_OUT, *without):
        if admits(manifests, "egress", peer, port, protocol):
            yield f"{peer} should not be reached at {protocol} port {port}"


def admits(
    manifests: Manifests,
    direction: Literal["ingress", "egress"],
    peer: Peer,
    port: int,
    protocol: str = "TCP",
) -> bool:
    """Return True if a policy allows this connection of the pod, or no policy is about its direction."""
    policies = [
        one["spec"]
        for one in manifests.all("NetworkPolicy")
        if selects(one["spec"]["podSelector"], manifests.pod_labels)
        and direction.capitalize() in one["spec"]["policyTypes"]
    ]
    return not policies or any(
        _names(rule, direction, peer) and _opens(rule, port, protocol)
        for policy in policies
        for rule in policy.get(direction, [])
    )


def _names(rule: Mapping[str, Any], direction: str, peer: Peer) -> bool:
    ends = rule.get("from" if direction == "ingress" else "to")
    return not ends or any(_is(end, peer) for end in ends)


def _is(end: Mapping[str, Any], peer: Peer) -> bool:
    if "ipBlock" in end:
        return bool(peer.address) and ip_address(peer.address) in ip_network(end["ipBlock"]["cidr"])
    if peer.address:
        return False
    # Without a namespace selector, only peers in the pod's own namespace are meant, and no `Peer` is in it.
    return "namespaceSelector" in end and (
        selects(end["namespaceSelector"], {_NAME: peer.namespace})
        and selects(end.get("podSelector", {}), {"app.kubernetes.io/name": peer.application})
    )


def _opens(rule: Mapping[str, Any], port: int, protocol: str) -> bool:
    ports = rule.get("ports")
    return not ports or any((one["port"], one.get("protocol", "TCP")) == (port, protocol) for one in ports)
