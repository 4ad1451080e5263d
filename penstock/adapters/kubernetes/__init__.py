"""Kubernetes as a backend: the client that everything shares, the registry of functions, the lease of the leader."""

from penstock.adapters.kubernetes.access import Access, from_kubeconfig, in_cluster
from penstock.adapters.kubernetes.client import ClientSettings, KubernetesClient
from penstock.adapters.kubernetes.leader import LeaderLease
from penstock.adapters.kubernetes.lease import LeaseTiming
from penstock.adapters.kubernetes.registry import FunctionState, KubernetesRegistry

__all__ = [
    "Access",
    "ClientSettings",
    "FunctionState",
    "KubernetesClient",
    "KubernetesRegistry",
    "LeaderLease",
    "LeaseTiming",
    "from_kubeconfig",
    "in_cluster",
]
