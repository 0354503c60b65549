"""The labels by which GKE marks the VMs that are its nodes."""

from typing import Final

CLUSTER: Final = "goog-k8s-cluster-name"
CLUSTER_LOCATION: Final = "goog-k8s-cluster-location"
NODE_POOL: Final = "goog-k8s-node-pool-name"
GKE_NODE: Final = "goog-gke-node"
"""On every node, with no value; very old nodes have it alone."""
PROVISIONING_MODEL: Final = "goog-gke-node-pool-provisioning-model"
"""`spot` or `on-demand`."""
