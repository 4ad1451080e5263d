"""The edge profile on a bed: watcher, dispatcher and gateway in one process, MinIO and a real node, and no Kafka."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from penstock.adapters.kubernetes import KubernetesClient, from_kubeconfig
from penstock.adapters.sqlite import SqliteEventLog
from tests.production.history import History
from tests.production.node import SETTINGS
from tests.production.platform import Platform, Process
from tests.testbed.bed import Bed


class Edge(Platform):
    """`process` is all there is; killed and started again it has the same folder and ports."""

    process: Process

    def __init__(self, bed: Bed, folder: Path) -> None:
        super().__init__(bed, folder, real=True, settings=SETTINGS)

    def brokers(self) -> dict[str, str]:
        """None: the log is a file."""
        return {}

    async def open(self) -> None:
        await self.bed.start("minio", "network", "images")
        await self.bed.images.project()
        self._pod_store = await self.bed.minio.url_for_pods()
        self.api = KubernetesClient(from_kubeconfig(self.bed.kubernetes.kubeconfig))
        self._stack.push_async_callback(self.api.close)
        await self._install()
        self.process = await self.start("gateway", "--edge")
        await self.process.ready()

    def data(self) -> Path:
        return Path(self.process.env["PENSTOCK_STATE_DATA"])

    async def rival(self) -> Process:
        """A second process over the same folder."""
        return await self.start("gateway", "--edge", PENSTOCK_STATE_DATA=str(self.data()))

    async def told(self) -> History:
        """The whole history as the log has it; only while no process has the folder."""
        log = await SqliteEventLog.open(self.data() / "log.sqlite")
        try:
            history = History(log)
            await history.read()
        finally:
            await log.close()
        return history


@asynccontextmanager
async def edge_of(bed: Bed, folder: Path) -> AsyncIterator[Edge]:
    edge = Edge(bed, folder)
    try:
        await edge.open()
        yield edge
    finally:
        await edge.close()


def memory_mib(pid: int) -> Mapping[str, float]:
    """Resident, and what of it is this process's own share."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    lines = (line.split() for line in rollup.splitlines()[1:])
    found = {words[0].rstrip(":"): int(words[1]) / 1024 for words in lines}
    return {"rss": found["Rss"], "pss": found["Pss"]}
