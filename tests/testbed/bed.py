"""A bed: one set of components that belong together, with one folder, one guardian and one network.

Components are made when first asked for and started by `start`, so a test that needs Kafka pays for Kafka alone. A bed
is bound to no event loop: any test's loop may call its coroutines, and `run` serves code without a loop.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Coroutine
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.testbed.black_hole import BlackHole
from tests.testbed.building import say
from tests.testbed.component import Component
from tests.testbed.errors import BedError
from tests.testbed.im import InfrastructureManager
from tests.testbed.kafka import Kafka
from tests.testbed.kube_state_metrics import KubeStateMetrics
from tests.testbed.kubernetes import Kubernetes
from tests.testbed.kwok import Kwok
from tests.testbed.links import Link, LoopThread
from tests.testbed.lookup import may_make_namespaces
from tests.testbed.minio import Minio
from tests.testbed.network import Network
from tests.testbed.node import Node
from tests.testbed.node_images import Images
from tests.testbed.paths import runs_folder
from tests.testbed.ports import Reservations
from tests.testbed.processes import Guardian
from tests.testbed.prometheus import Prometheus
from tests.testbed.uplink import Uplink, make_uplink

Result = TypeVar("Result")
COMPONENTS = (
    "minio",
    "kafka",
    "kubernetes",
    "kwok",
    "node",
    "network",
    "images",
    "im",
    "prometheus",
    "kube-state-metrics",
)


class Bed:
    """One set of components; `async with Bed() as bed`, or `open` and `close`."""

    def __init__(self, *, disk_mb: int | None = None, keep_logs: bool = False) -> None:
        """`disk_mb` puts each component's data on a disk of that size (a tmpfs; root only), so that `fill` works."""
        self.disk_mb = disk_mb
        self.failed = keep_logs
        """Whether the logs are kept when the bed closes."""
        self.folder = Path(tempfile.mkdtemp(prefix="bed-", dir=runs_folder()))
        # Servers that run as another user inside pods walk through here.
        self.folder.chmod(0o755)
        self.logs = self.folder / "logs"
        self.logs.mkdir()
        self.reservations = Reservations()
        self.loop = LoopThread()
        self.links: list[Link | BlackHole] = []
        self.guardian = Guardian(self.folder)
        self._started: list[Component] = []
        self._uplink: Uplink | None = None
        self._may_uplink = may_make_namespaces()
        self._uplinking = asyncio.Lock()
        self._closed = False

    @cached_property
    def minio(self) -> Minio:
        """The object store."""
        return Minio(self)

    @cached_property
    def kafka(self) -> Kafka:
        """The log."""
        return Kafka(self)

    @cached_property
    def kubernetes(self) -> Kubernetes:
        """The control plane."""
        return Kubernetes(self)

    @cached_property
    def kwok(self) -> Kwok:
        """Simulated nodes and pods on the control plane."""
        return Kwok(self)

    @cached_property
    def node(self) -> Node:
        """A real node."""
        return Node(self)

    @cached_property
    def network(self) -> Network:
        """Services and their names."""
        return Network(self)

    @cached_property
    def images(self) -> Images:
        """Images on the node."""
        return Images(self)

    @cached_property
    def im(self) -> InfrastructureManager:
        """Infrastructure Manager."""
        return InfrastructureManager(self)

    @cached_property
    def kube_state_metrics(self) -> KubeStateMetrics:
        """kube-state-metrics on the control plane."""
        return KubeStateMetrics(self)

    @cached_property
    def prometheus(self) -> Prometheus:
        """Prometheus."""
        return Prometheus(self)

    def component(self, name: str) -> Component:
        """The component of that name."""
        if name not in COMPONENTS:
            raise BedError(f"There is no component {name}; there are {', '.join(COMPONENTS)}.")
        found = getattr(self, name.replace("-", "_"))
        assert isinstance(found, Component)
        return found

    async def start(self, *names: str) -> None:
        """Start components by name, each with what it stands on."""
        for name in names:
            await self.component(name).start()

    def started(self, component: Component) -> None:
        """Note that a component was started."""
        self._started.append(component)

    def env(self) -> dict[str, str]:
        """The environment variables by which programs find what was started."""
        return {name: value for component in self._started for name, value in component.env().items()}

    async def uplink(self) -> Uplink | None:
        """The bed's own network, made on first use; None where this process may not make one."""
        return await self.loop.call(self._make_uplink())

    async def _make_uplink(self) -> Uplink | None:
        async with self._uplinking:
            if self._uplink is None and self._may_uplink:
                try:
                    self._uplink = await make_uplink(self)
                except BedError as error:
                    # All but the node works without it, and the node says what it lacks.
                    self._may_uplink = False
                    say(f"this bed has no network for a node: {error}")
        return self._uplink

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run one of the bed's coroutines from code without an event loop."""
        return self.loop.run(work)

    async def aclose(self) -> None:
        """End everything at once: the data goes with the folder, so no server needs an orderly end."""
        if self._closed:
            return
        self._closed = True
        for link in self.links:
            await link.close()
        await asyncio.to_thread(self._release)

    def _release(self) -> None:
        keep = self.failed
        self.guardian.close(keep=keep)
        self.reservations.close()
        if keep:
            say(f"logs are kept in {self.logs}")

    def close(self) -> None:
        """The same for code without an event loop."""
        self.run(self.aclose())
        self.loop.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.failed = self.failed or kind is not None
        await self.aclose()
        await asyncio.to_thread(self.loop.close)
