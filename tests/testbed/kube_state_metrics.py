"""kube-state-metrics: what Kubernetes' objects say of themselves, as metrics; most clusters have it.

It only reads, so one serves all tests of a bed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from tests.testbed.building import Words
from tests.testbed.component import LOOPBACK, Component, Member
from tests.testbed.links import Address
from tests.testbed.lookup import obtain
from tests.testbed.probe import http_ok

if TYPE_CHECKING:
    from tests.testbed.bed import Bed


class KubeStateMetrics(Component):
    """One kube-state-metrics for the whole control plane."""

    name: ClassVar[str] = "kube-state-metrics"

    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        self.address = Address(LOOPBACK, bed.reservations.port())
        """Where the metrics of objects are; its own are on another port."""
        self._own = Address(LOOPBACK, bed.reservations.port())

    async def prepare(self) -> list[Member]:
        await self.bed.kubernetes.start()
        # It begins anew whenever this file is written, and the bed's own is written again for each client.
        config = self.folder / "kubeconfig"
        config.touch(mode=0o600)
        config.write_text(self.bed.kubernetes.kubeconfig.read_text())
        argv: Words = [
            obtain("kube-state-metrics"),
            f"--kubeconfig={config}",
            f"--host={self.address.host}",
            f"--port={self.address.port}",
            f"--telemetry-host={self._own.host}",
            f"--telemetry-port={self._own.port}",
            "--resources=pods,resourcequotas,nodes",
        ]

        async def ready() -> bool:
            return await http_ok(f"http://{self.address}/healthz")

        return [Member("kube-state-metrics", argv, ready, grace=3)]
