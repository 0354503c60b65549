"""Checks of the store and its replicas: one replica writes a file, several replicas share a server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.k8s.rendered import Manifests, Object, selects

_FILE: Final = "sqlite:///"
_PLACES: Final = ("topology.kubernetes.io/zone", "kubernetes.io/hostname")


def in_a_file(manifests: Manifests) -> Iterator[str]:
    """A store file is on the claimed disk, and one pod writes it."""
    settings, _ = manifests.settings()
    if not settings.store.url.startswith(_FILE):
        return
    store = Path(settings.store.url.removeprefix(_FILE))
    claims = {one["metadata"]["name"] for one in manifests.workload.get("volumeClaimTemplates", [])}
    if not any(store.is_relative_to(at) for name, at in manifests.mounts.items() if name in claims):
        yield f"the store {store} is not on a claimed volume"
    if any(one.get("readOnly") for one in manifests.container["volumeMounts"] if one["name"] in claims):
        yield "the store's volume is mounted read-only"
    if manifests.workload.get("replicas") != 1:
        yield "a store file needs exactly one replica"
    if manifests.all("PodDisruptionBudget"):
        yield "a PodDisruptionBudget only blocks drains of one replica"


def on_a_server(manifests: Manifests) -> Iterator[str]:
    """Several replicas share a server. They are spread, and at most one is away at a time."""
    settings, _ = manifests.settings()
    if settings.store.url.startswith(_FILE):
        return
    if manifests.workload.get("replicas", 1) < 2:
        yield "a shared store needs several replicas"
    if manifests.workload.get("volumeClaimTemplates"):
        yield "a disk is claimed, but not needed"
    volumes = {one["name"] for one in manifests.pod["volumes"]}
    yield from (f"there is no volume {name}" for name in manifests.mounts if name not in volumes)
    # The counters begin at 0 with a new name, so each replica needs a lasting name: that of its pod.
    if settings.store.replica or "SIE_STORE__REPLICA" in manifests.environment:
        yield "all replicas have the same name"
    yield from _spread(manifests)
    yield from _interrupted(manifests)


def _spread(manifests: Manifests) -> Iterator[str]:
    constraints = manifests.pod.get("topologySpreadConstraints", [])
    for place in _PLACES:
        found = [one for one in constraints if one["topologyKey"] == place]
        if not any(selects(one["labelSelector"], manifests.pod_labels) for one in found):
            yield f"the replicas are not spread by {place}"
    if any(one["whenUnsatisfiable"] == "DoNotSchedule" for one in constraints):
        yield "a replica that cannot be spread would not run"


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
    """Return the number of pods that may be away at once."""
    if "minAvailable" in budget:
        return replicas - int(budget["minAvailable"])
    return budget.get("maxUnavailable")
