"""What must be true of the store, and of how many share it: a file has one writer, a server has several."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.k8s.rendered import Manifests, Object, selects

_FILE: Final = "sqlite:///"
_PLACES: Final = ("topology.kubernetes.io/zone", "kubernetes.io/hostname")


def in_a_file(manifests: Manifests) -> Iterator[str]:
    """A file is on the claimed disk, and one pod writes it."""
    settings, _ = manifests.settings()
    if not settings.store.url.startswith(_FILE):
        return
    store = Path(settings.store.url.removeprefix(_FILE))
    claims = {one["metadata"]["name"] for one in manifests.workload.get("volumeClaimTemplates", [])}
    if not any(store.is_relative_to(at) for name, at in manifests.mounts.items() if name in claims):
        yield f"the store {store} is on no volume that is claimed"
    if any(one.get("readOnly") for one in manifests.container["volumeMounts"] if one["name"] in claims):
        yield "the store's volume is mounted read-only"
    if manifests.workload.get("replicas") != 1:
        yield "a store in a file has one replica"
    if manifests.all("PodDisruptionBudget"):
        yield "a PodDisruptionBudget only blocks drains of one replica"


def on_a_server(manifests: Manifests) -> Iterator[str]:
    """A server's store is shared by several, apart from one another, of which all but one always serve."""
    settings, _ = manifests.settings()
    if settings.store.url.startswith(_FILE):
        return
    if manifests.workload.get("replicas", 1) < 2:
        yield "a shared store has several replicas"
    if manifests.workload.get("volumeClaimTemplates"):
        yield "a disk is claimed, which nothing needs"
    volumes = {one["name"] for one in manifests.pod["volumes"]}
    yield from (f"there is no volume {name}" for name in manifests.mounts if name not in volumes)
    # A Deployment's pods have a new name each time; these begin their counters anew with a new name, too.
    if settings.store.replica or "SIE_STORE__REPLICA" in manifests.environment:
        yield "all replicas have one name"
    yield from _spread(manifests)
    yield from _interrupted(manifests)


def _spread(manifests: Manifests) -> Iterator[str]:
    constraints = manifests.pod.get("topologySpreadConstraints", [])
    for place in _PLACES:
        found = [one for one in constraints if one["topologyKey"] == place]
        if not any(selects(one["labelSelector"], manifests.pod_labels) for one in found):
            yield f"the replicas are not spread by {place}"
    if any(one["whenUnsatisfiable"] == "DoNotSchedule" for one in constraints):
        yield "a replica that has no place of its own would not run"


def _interrupted(manifests: Manifests) -> Iterator[str]:
    budgets = [one["spec"] for one in manifests.all("PodDisruptionBudget")]
    budgets = [one for one in budgets if selects(one["selector"], manifests.pod_labels)]
    if [_allowed(one, manifests.workload.get("replicas", 1)) for one in budgets] != [1]:
        yield "drains may not take one replica at a time"
    if any(one.get("unhealthyPodEvictionPolicy") != "AlwaysAllow" for one in budgets):
        yield "a replica that is not ready blocks a drain"
    update = manifests.workload.get("updateStrategy", {})
    if update.get("type") != "RollingUpdate" or update.get("rollingUpdate", {}).get("maxUnavailable", 1) != 1:
        yield "a rollout does not take one replica at a time"


def _allowed(budget: Object, replicas: int) -> object:
    """How many pods may be away at once."""
    if "minAvailable" in budget:
        return replicas - int(budget["minAvailable"])
    return budget.get("maxUnavailable")
