"""The labels that GKE sets on the VMs of its nodes, and the rule for a Spot VM."""

from typing import Final

CLUSTER: Final = "goog-k8s-cluster-name"
CLUSTER_LOCATION: Final = "goog-k8s-cluster-location"
NODE_POOL: Final = "goog-k8s-node-pool-name"
GKE_NODE: Final = "goog-gke-node"
"""On every node, without a value. Very old nodes have no other label of GKE."""
PROVISIONING_MODEL: Final = "goog-gke-node-pool-provisioning-model"
"""`spot` or `on-demand`."""


def is_spot(*, preemptible: bool | None, provisioning_model: str | None, label: str | None) -> bool | None:
    """Return True for a Spot VM, None if no source says anything; `label` is PROVISIONING_MODEL's value.

    A legacy preemptible VM has no provisioning model and counts as Spot.
    """
    if preemptible or provisioning_model == "SPOT" or label == "spot":
        return True
    return False if preemptible is not None or provisioning_model or label else None
