"""A real node: containerd, runc, CNI plugins and the kubelet, in namespaces of the bed's own.

Paths that these programs cannot be told to change (`/run`, `/var/log`, `/var/lib/cni`) are covered by mounts that only
the node sees. What they start (shims, pods) lives in the same PID namespace and cannot outlive it. The control groups
of pods lie under a root named after the bed.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import yaml

from tests.testbed import images
from tests.testbed.building import Words
from tests.testbed.component import Component, Member
from tests.testbed.errors import BedError, MissingPart
from tests.testbed.kube_api import Json, KubeApi
from tests.testbed.kubernetes import NODE_NAME
from tests.testbed.kwok import ready_nodes
from tests.testbed.links import Address
from tests.testbed.lookup import SBIN, obtain, which
from tests.testbed.probe import http_ok
from tests.testbed.uplink import BRIDGE, Uplink, run_inside

if TYPE_CHECKING:
    from tests.testbed.bed import Bed

HEALTH_PORT = 10248
METRICS_PORT = 10250
IMPORT_SECONDS = 180.0


class Node(Component):
    """One node on the bed's control plane."""

    name: ClassVar[str] = "node"
    lives_inside: ClassVar[bool] = True

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        self._socket = self.folder / "containerd.sock"
        self._loaded: set[Path] = set()

    async def network(self) -> Uplink:
        """The bed's own network, without which there is no node."""
        uplink = await self.bed.uplink()
        if uplink is None:
            raise MissingPart("node: run as root with CAP_NET_ADMIN and CAP_SYS_ADMIN.")
        return uplink

    async def start(self) -> None:
        if self.bed.kubernetes.existing is not None:
            return  # The existing cluster has nodes of its own.
        await self.bed.kubernetes.start()
        await super().start()

    async def prepare(self) -> list[Member]:
        uplink = await self.network()
        self._link = self.bed.kubernetes.node_link
        self._make_cgroup(f"penstock-testbed-{uplink.slot}")
        await self._cover_fixed_paths(uplink)
        path = {"PATH": os.environ.get("PATH", os.defpath) + os.pathsep + SBIN}
        server = await self.bed.kubernetes.url_for_node()
        containerd: Words = [obtain("containerd"), "--config", self._containerd_config(uplink)]
        kubelet: Words = [
            obtain("kubelet"),
            f"--config={self._kubelet_config(uplink)}",
            f"--kubeconfig={self.bed.kubernetes.kubeconfig_of('kubelet', server)}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={uplink.node_address}",
            f"--root-dir={self.data / 'kubelet'}",
            f"--cert-dir={self.folder / 'certificates'}",
        ]

        async def containerd_ready() -> bool:
            return (await self._ctr("version")).returncode == 0

        async def kubelet_ready() -> bool:
            if not await http_ok(f"http://{Address(uplink.node_address, HEALTH_PORT)}/healthz"):
                return False
            async with self.bed.kubernetes.api(direct=True) as api:
                return NODE_NAME in await ready_nodes(api)

        return [
            Member("containerd", containerd, containerd_ready, env=path, inside=True),
            Member("kubelet", kubelet, kubelet_ready, env=path, inside=True, grace=5),
        ]

    async def _start_member(self, member: Member) -> None:
        await super()._start_member(member)
        if member.name == "containerd":
            # Before the kubelet is there: its first pod needs them.
            await self.load_image(obtain("pause-image"))
            await self.load_image(obtain("busybox-image"))

    async def close(self) -> None:
        await super().close()
        await self._end_pods()

    async def kill(self, *names: str) -> None:
        """SIGKILL; without names the whole node loses its power, pods included."""
        await super().kill(*names)
        if not names:
            await self._end_pods()

    async def _end_pods(self) -> None:
        uplink = await self.network()
        self.bed.guardian.ask("kill_below", pid=uplink.init)

    async def metrics(self) -> Address:
        """Where the kubelet tells its metrics, by HTTPS with a certificate of its own and without a credential."""
        return Address((await self.network()).node_address, METRICS_PORT)

    async def load_image(self, archive: Path) -> None:
        """Give the node an image from a tar (OCI layout or Docker's format)."""
        if archive in self._loaded:
            return
        done = await self._ctr("-n", "k8s.io", "images", "import", str(archive))
        if done.returncode != 0:
            raise BedError(f"containerd did not take the image {archive}: {done.stderr.strip()[-500:]}")
        self._loaded.add(archive)

    async def _ctr(self, *words: str) -> subprocess.CompletedProcess[str]:
        beside = obtain("containerd").parent / "ctr"
        program = beside if beside.exists() else which("ctr") or beside
        argv: Words = [program, "--address", self._socket, *words]
        # On a thread: the node's own wires live on this loop.
        return await asyncio.to_thread(
            subprocess.run, argv, capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False
        )

    async def kill_container(self, container: str) -> None:
        """SIGKILL for everything in a container, named as the pod's status names it."""
        name = container.removeprefix("containerd://")
        await self._ctr("-n", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", "--all", name)

    # Pods

    async def run_pod(self, api: KubeApi, pod: Json, *, namespace: str = "default", seconds: float = 60) -> Json:
        """Create a pod, wait until it has ended, and return it."""

        def ended(status: Json) -> bool:
            return status["phase"] in ("Succeeded", "Failed")

        return await self._create_pod(api, pod, namespace, what="has ended", settled=ended, seconds=seconds)

    async def start_pod(self, api: KubeApi, pod: Json, *, namespace: str = "default", seconds: float = 60) -> Json:
        """Create a pod, wait until it is Ready, and return it."""

        def ready(status: Json) -> bool:
            wanted = {"type": "Ready", "status": "True"}.items()
            return any(wanted <= condition.items() for condition in status.get("conditions", ()))

        return await self._create_pod(api, pod, namespace, what="is Ready", settled=ready, seconds=seconds)

    @staticmethod
    async def _create_pod(
        api: KubeApi, pod: Json, namespace: str, *, what: str, settled: Callable[[Json], bool], seconds: float
    ) -> Json:
        path = f"/api/v1/namespaces/{namespace}/pods"
        name = (await api.create(path, pod))["metadata"]["name"]

        async def check() -> bool:
            return settled((await api.get(f"{path}/{name}"))["status"])

        await api.until(f"the pod {name} {what}", check, seconds=seconds)
        return await api.get(f"{path}/{name}")

    # Configuration

    def _make_cgroup(self, name: str) -> None:
        self._cgroup = name
        self.bed.guardian.ask("own_cgroup", name=name)
        root = Path("/sys/fs/cgroup")
        hierarchies = [root] if (root / "cgroup.controllers").exists() else [p for p in root.iterdir() if p.is_dir()]
        for hierarchy in hierarchies:
            folder = hierarchy / name
            folder.mkdir(exist_ok=True)
            for given in ("cpuset.cpus", "cpuset.mems"):
                # A new group of cgroup v1 has no processor until it is given some.
                if (folder / given).exists() and not (folder / given).read_text().strip():
                    (folder / given).write_text((hierarchy / given).read_text())

    async def _cover_fixed_paths(self, uplink: Uplink) -> None:
        own = {"/var/lib/cni": self.folder / "cni-state", "/var/log": self.folder / "var-log"}
        for folder in (*own.values(), self.folder / "cni"):
            folder.mkdir(parents=True, exist_ok=True)
        binds = "\n".join(f"mkdir -p {there}; mount --bind {ours} {there}" for there, ours in own.items())
        script = f"""
        mount -t tmpfs tmpfs /run
        mkdir -p {self.data}/kubelet
        {binds}
        bridged=/proc/sys/net/bridge/bridge-nf-call-iptables
        if [ -e $bridged ]; then echo 1 > $bridged; fi
        """
        await run_inside(self.bed, uplink.init, script)

    def _containerd_config(self, uplink: Uplink) -> Path:
        network = {
            "cniVersion": "0.4.0",
            "name": "testbed",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": BRIDGE,
                    "isGateway": True,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": uplink.pod_range, "gateway": uplink.bridge_address}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                        "dataDir": str(self.folder / "addresses"),
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        (self.folder / "cni" / "10-testbed.conflist").write_text(json.dumps(network))
        target = self.folder / "containerd.toml"
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        target.write_text(f"""version = 2
root = "{self.data}/containerd"
state = "/run/containerd"
[grpc]
address = "{self._socket}"
[{cri}]
sandbox_image = "{images.PAUSE}"
# Lowering a process's score takes CAP_SYS_RESOURCE, which a machine inside a container often lacks.
restrict_oom_score_adj = true
[{cri}.cni]
bin_dir = "{obtain("cni")}"
conf_dir = "{self.folder}/cni"
[{cri}.containerd]
default_runtime_name = "runc"
[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{cri}.containerd.runtimes.runc.options]
BinaryName = "{obtain("runc")}"
SystemdCgroup = false
""")
        return target

    def _kubelet_config(self, uplink: Uplink) -> Path:
        resolver = self.folder / "resolv.conf"
        resolver.touch()
        config: Json = {
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "address": uplink.node_address,
            "healthzBindAddress": uplink.node_address,
            "healthzPort": HEALTH_PORT,
            "port": METRICS_PORT,
            # A minute is the default, and a test that fills a volume would wait for it.
            "volumeStatsAggPeriod": "2s",
            # Only this bed reaches the node's network.
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._cgroup}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "enforceNodeAllocatable": [],
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "containerRuntimeEndpoint": f"unix://{self._socket}",
            "podLogsDir": str(self.folder / "var-log" / "pods"),
            "volumePluginDir": str(self.folder / "volume-plugins"),
            "resolvConf": str(resolver),
            "clusterDNS": [uplink.bridge_address],
            "clusterDomain": "cluster.local",
        }
        target = self.folder / "kubelet.yaml"
        target.write_text(yaml.safe_dump(config))
        return target
