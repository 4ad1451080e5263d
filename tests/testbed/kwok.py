"""KWOK: thousands of nodes and pods that exist only in the API server, with the real scheduler and controllers above.

Only nodes that carry KWOK's annotation are played, so a real node can live on the same control plane.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tests.testbed.building import Words
from tests.testbed.component import LOOPBACK, Component, Member
from tests.testbed.kube_api import Json, KubeApi
from tests.testbed.links import Address
from tests.testbed.lookup import obtain
from tests.testbed.probe import http_ok

if TYPE_CHECKING:
    from tests.testbed.bed import Bed

ANNOTATION = "kwok.x-k8s.io/node"
IN_FLIGHT = 32


class Kwok(Component):
    """The program that plays nodes and pods."""

    name: ClassVar[str] = "kwok"

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        self._server = Address(LOOPBACK, bed.reservations.port())
        self.stages: list[Path] = []
        """Further stage files of a test's own (run times, failures, exit codes), set before the first start."""

    async def prepare(self) -> list[Member]:
        await self.bed.kubernetes.start()
        program = obtain("kwok")
        # Without the lease setting it fights over leases and leaves every pod Pending.
        argv: Words = [
            program,
            f"--kubeconfig={self.bed.kubernetes.kubeconfig}",
            "--manage-all-nodes=false",
            f"--manage-nodes-with-annotation-selector={ANNOTATION}=fake",
            "--node-lease-duration-seconds=0",
            f"--server-address={self._server}",
            *(f"--config={stage}" for stage in [*sorted(program.parent.glob("*.yaml")), *self.stages]),
        ]

        async def ready() -> bool:
            return await http_ok(f"http://{self._server}/healthz")

        return [Member("kwok", argv, ready, grace=3)]

    async def add_nodes(
        self,
        count: int,
        *,
        prefix: str = "kwok",
        cpu: str = "8",
        memory: str = "32Gi",
        pods: int = 110,
        labels: dict[str, str] | None = None,
    ) -> list[str]:
        """Add simulated nodes and return their names once all are Ready."""
        names = [f"{prefix}-{number}" for number in range(count)]
        capacity = {"cpu": cpu, "memory": memory, "pods": str(pods)}
        async with self.bed.kubernetes.api() as api:
            gate = asyncio.Semaphore(IN_FLIGHT)

            async def add(name: str) -> None:
                async with gate:
                    await api.create("/api/v1/nodes", _node(name, capacity, labels or {}))

            await asyncio.gather(*(add(name) for name in names))
            wanted = set(names)

            async def all_ready() -> bool:
                return wanted <= await ready_nodes(api)

            await api.until(f"{count} simulated nodes are Ready", all_ready, seconds=120, pause=0.5)
        return names

    async def remove_nodes(self, names: list[str]) -> None:
        """Remove simulated nodes."""
        async with self.bed.kubernetes.api() as api:
            gate = asyncio.Semaphore(IN_FLIGHT)

            async def remove(name: str) -> None:
                async with gate:
                    await api.delete(f"/api/v1/nodes/{name}")

            await asyncio.gather(*(remove(name) for name in names))


def _node(name: str, capacity: dict[str, str], labels: dict[str, str]) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {ANNOTATION: "fake"},
            "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "type": "kwok", **labels},
        },
        "status": {"capacity": capacity, "allocatable": capacity},
    }


async def ready_nodes(api: KubeApi) -> set[str]:
    """Names of the nodes whose condition Ready is True."""
    return {
        node["metadata"]["name"]
        for node in (await api.get("/api/v1/nodes"))["items"]
        for condition in node["status"].get("conditions", ())
        if condition["type"] == "Ready" and condition["status"] == "True"
    }
