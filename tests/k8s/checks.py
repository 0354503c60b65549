"""All checks of a complete installation."""

from collections.abc import Callable, Iterator
from typing import Final

from tests.k8s import exposure, network, pod, replicas, scraping
from tests.k8s.rendered import Manifests
from tests.k8s.schemas import violations

_CHECKS: Final[tuple[Callable[[Manifests], Iterator[str]], ...]] = (
    *(pod.version, pod.ports, pod.probes, pod.files, pod.end),
    *(pod.rights, pod.resources, pod.nodes),
    *(replicas.in_a_file, replicas.on_a_server),
    *(exposure.namespaces, exposure.selectors, exposure.services),
    *(exposure.closed, exposure.ingress, exposure.gke, exposure.nginx),
    *(scraping.monitors, scraping.by_service, scraping.by_pod),
    *(network.incoming, network.outgoing),
)


def problems(manifests: Manifests) -> list[str]:
    """Return the problems of an installation; none if it is ready to be applied."""
    # The other checks need valid objects and a valid configuration.
    found = [problem for one in manifests.objects for problem in violations(one)]
    found = found or list(pod.configuration(manifests))
    return found or [problem for check in _CHECKS for problem in check(manifests)]
