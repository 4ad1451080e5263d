"""The alerts on what Kubernetes itself tells, live: a real kubelet's volumes, kube-state-metrics, and a namespace whose
pods, claim and quota are called as the chart calls them.

One disk that fills up makes two of them fire, as it does in an installation: a service that cannot write is not ready.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.helm.test_alerts import RULES
from tests.observability.live_rules import Alerts, quick
from tests.production.platform import Json, eventually
from tests.testbed.bed import Bed
from tests.testbed.errors import MissingPart
from tests.testbed.images import BUSYBOX
from tests.testbed.kube_api import KubeApi
from tests.testbed.kube_state_metrics import KubeStateMetrics
from tests.testbed.kubernetes import NODE_NAME
from tests.testbed.node import Node
from tests.testbed.uplink import run_inside

pytestmark = [pytest.mark.components, pytest.mark.slow]

CAUSED = {"PenstockPodNotReady", "PenstockDiskNearlyFull", "PenstockQuotaNearlyUsed"}
CLAIM = "state-p-penstock-dispatcher-0"
DISK_MB = 16


class Room:
    """A namespace with a service on a small disk, and a quota of four pods."""

    def __init__(self, node: Node, api: KubeApi) -> None:
        mark = uuid.uuid4().hex[:8]
        self.namespace = f"watched-{mark}"
        self._node = node
        self._api = api
        self._path = f"/api/v1/namespaces/{self.namespace}"
        self._disk = node.data / f"disk-{mark}"
        self._volume = f"disk-{mark}"

    async def open(self) -> None:
        init = (await self._node.network()).init
        script = f"mkdir -p {self._disk}; mount -t tmpfs -o size={DISK_MB}m penstock-testbed {self._disk}"
        await run_inside(self._node.bed, init, script)
        # The mount is the node's alone; from here it lies below its init's root.
        self._ballast = Path(f"/proc/{init}/root{self._disk}/ballast")
        await self._node.bed.kubernetes.make_namespace(self.namespace)
        quota = {"metadata": {"name": "p-penstock"}, "spec": {"hard": {"pods": "4"}}}
        await self._api.create(f"{self._path}/resourcequotas", quota)
        await self._api.create("/api/v1/persistentvolumes", self._persistent_volume())
        await self._api.create(f"{self._path}/persistentvolumeclaims", self._claim())
        await self._node.start_pod(self._api, _pod("p-penstock-dispatcher-0", CLAIM), namespace=self.namespace)

    def _persistent_volume(self) -> Json:
        here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE_NAME]}
        spec = {
            "capacity": {"storage": f"{DISK_MB}Mi"},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "local": {"path": str(self._disk)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        }
        return {"metadata": {"name": self._volume}, "spec": spec}

    def _claim(self) -> Json:
        spec = {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "",
            "volumeName": self._volume,
            "resources": {"requests": {"storage": f"{DISK_MB}Mi"}},
        }
        return {"metadata": {"name": CLAIM}, "spec": spec}

    def fill(self) -> None:
        with self._ballast.open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(1 << 16))
            except OSError:
                return  # No space left: what was asked for.

    def drain(self) -> None:
        self._ballast.unlink()

    async def crowd(self) -> None:
        """Three more pods, which no node takes."""
        for number in range(3):
            pod = _pod(f"p-penstock-watcher-{number}")
            pod["spec"]["nodeSelector"] = {"there": "is-none"}
            await self._api.create(f"{self._path}/pods", pod)

    async def uncrowd(self) -> None:
        for number in range(3):
            await self._api.delete(f"{self._path}/pods/p-penstock-watcher-{number}")

    async def close(self) -> None:
        await self._api.delete(f"/api/v1/namespaces/{self.namespace}")

        async def gone() -> bool:
            return not (await self._api.get(f"{self._path}/pods"))["items"]

        await eventually("the pods are gone", gone)
        await self._api.delete(f"/api/v1/persistentvolumes/{self._volume}")
        init = (await self._node.network()).init
        await run_inside(self._node.bed, init, f"umount --lazy {self._disk}")


def _pod(name: str, claim: str = "") -> Json:
    """A service that needs its disk: ready while it can write there."""
    container: Json = {
        "name": "service",
        "image": BUSYBOX,
        "imagePullPolicy": "Never",
        "command": ["sleep", "100000"],
    }
    spec: Json = {"containers": [container], "terminationGracePeriodSeconds": 0}
    if claim:
        container["volumeMounts"] = [{"name": "state", "mountPath": "/state"}]
        spec["volumes"] = [{"name": "state", "persistentVolumeClaim": {"claimName": claim}}]
        container["readinessProbe"] = {
            "exec": {"command": ["sh", "-c", "echo alive > /state/$$; done=$?; rm -f /state/$$; exit $done"]},
            "periodSeconds": 1,
            "failureThreshold": 1,
        }
    return {"metadata": {"name": name}, "spec": spec}


@pytest.fixture
async def room(node: Node) -> AsyncIterator[Room]:
    async with node.bed.kubernetes.api() as api:
        made = Room(node, api)
        await made.open()
        yield made
        await made.close()


@pytest.fixture
async def told(room: Room, node: Node, kube_state_metrics: KubeStateMetrics, tmp_path: Path) -> AsyncIterator[Alerts]:
    """A Prometheus of its own, for the rules are given at its start."""
    rules = tmp_path / "rules.yaml"
    rules.write_text(quick(RULES.read_text()))
    async with Bed() as bed:
        bed.prometheus.rules.append(rules)
        try:
            await bed.start("prometheus")
        except MissingPart as missing:
            pytest.skip(str(missing))
        bed.prometheus.scrape("kubelet", await node.metrics(), scheme="https")
        bed.prometheus.scrape("objects", kube_state_metrics.address)

        async def known() -> bool:
            everything = ("kubelet_volume_stats_available_bytes", "kube_pod_status_ready", "kube_resourcequota")
            where = f'{{namespace="{room.namespace}"}}'
            return all([await bed.prometheus.query(f"{name}{where}") for name in everything])

        await eventually("the metrics of the cluster are there", known)
        yield Alerts(bed.prometheus, f'namespace="{room.namespace}"')


async def test_a_full_disk_pods_without_a_node_and_a_quota_that_is_used_up(room: Room, told: Alerts) -> None:
    assert not await told.fired()
    await room.crowd()
    await told.fires("PenstockPodNotReady", "PenstockQuotaNearlyUsed")
    assert "PenstockDiskNearlyFull" not in await told.fired()
    await room.uncrowd()
    await told.silent()
    room.fill()
    await told.fires("PenstockDiskNearlyFull")

    async def not_ready() -> bool:
        return "PenstockPodNotReady" in await told.firing()

    await eventually("the service that cannot write is told of", not_ready)
    room.drain()
    await told.silent()
    assert await told.fired() == CAUSED
