"""All that must be true of a finished installation."""

from collections.abc import Callable, Iterator
from typing import Final

from tests.k8s import doors, network, pod, replicas, scraping
from tests.k8s.rendered import Manifests
from tests.k8s.schemas import violations

_FACTS: Final[tuple[Callable[[Manifests], Iterator[str]], ...]] = (
    *(pod.version, pod.ports, pod.probes, pod.files, pod.end),
    *(pod.rights, pod.resources, pod.nodes),
    *(replicas.in_a_file, replicas.on_a_server),
    *(doors.namespaces, doors.selectors, doors.services, doors.ingress, doors.gke, doors.nginx),
    *(scraping.monitors, scraping.by_service, scraping.by_pod),
    *(network.incoming, network.outgoing),
)


def problems(manifests: Manifests) -> list[str]:
    """What is wrong with an installation: none in one that is ready to be applied."""
    # What is of the wrong form, or not configured at all, is not asked further.
    found = [problem for one in manifests.objects for problem in violations(one)]
    found = found or list(pod.configuration(manifests))
    return found or [problem for fact in _FACTS for problem in fact(manifests)]
