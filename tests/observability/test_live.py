"""Real Prometheus over real services under load: every panel has data, and alerts fire when their condition is there.

Watcher, dispatcher, scaler and gateway are processes over MinIO, Kafka and an API server; nodes are simulated ones that
the scaler itself brings up, and their pods all succeed. Panels are asked in the words that Grafana would send.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from penstock.model import TOPIC_EVENTS
from penstock.ports import LogEntry
from tests.helm.test_alerts import RULES, alerts
from tests.helm.test_dashboards import FILES, plain
from tests.observability.live_rules import quick
from tests.production.platform import Platform, Process, eventually, installed, resource
from tests.testbed.bed import Bed
from tests.testbed.errors import MissingPart
from tests.testbed.links import Address

pytestmark = [pytest.mark.components, pytest.mark.slow]

PATIENCE_S = 240.0
PASSWORD = "a-password-of-the-test"
POOLS = """
pools:
  - {{name: sim, driver: kwok, name_pattern: "sim-{mark}-{{n}}", max: 3, boot: 1s, price_per_hour: 0.5,
     power: {{off: 5, idle: 60, max: 200}}, resources: {{cpu: 16, memory: 32Gi}}, labels: {{type: kwok}}}}
"""
#: What no installation on this bed can cause; tests/helm/test_alerts.py makes these fire with promtool.
ELSEWHERE = {
    "PenstockEventsNotQueued": "needs thousands of events that the dispatcher cannot record",
    "PenstockCanaryNotWritten": "needs a store that refuses us alone",
    "PenstockTargetMissing": "needs another MinIO, without our target",
    "PenstockListingsFail": "needs a store that refuses us alone",
    "PenstockInvocationsDied": "the simulated pods all succeed",
    "PenstockFunctionFails": "the simulated pods all succeed",
    "PenstockLossFound": "needs more than a minute of lost events; tests/watcher causes it",
    "PenstockClusterPushesBack": "needs an API server that pushes back for minutes",
    "PenstockScalerFrozen": "needs a view that is incomplete while the scaler leads",
    "PenstockScalerAlarm": "needs nodes that vanish together",
    "PenstockPoolFails": "KWOK's nodes always start",
    "PenstockPodNotReady": "needs kube-state-metrics",
    "PenstockQuotaNearlyUsed": "needs kube-state-metrics",
    "PenstockDiskNearlyFull": "needs the kubelet's metrics of volumes",
}
CAUSED = {
    "PenstockNotReady",
    "PenstockBacklogNotMoving",
    "PenstockBacklogOld",
    "PenstockJobsStuck",
    "PenstockDeadLetters",
    "PenstockEventsStopped",
    "PenstockNoDispatcher",
    "PenstockScalerStopped",
}


def test_every_alert_is_caused_here_or_said_why_not() -> None:
    assert set(alerts()) == CAUSED | set(ELSEWHERE)
    assert not CAUSED & set(ELSEWHERE)


class Installation:
    def __init__(self, bed: Bed, platform: Platform, folder: Path) -> None:
        self.bed = bed
        self.platform = platform
        self.folder = folder
        self.bucket = f"in-{platform.mark}"
        self.web = Address("127.0.0.1", bed.reservations.port())
        self.scaler: Process
        self._sent = 0

    async def open(self) -> None:
        (self.folder / "admin").mkdir()
        (self.folder / "admin" / "password").write_text(PASSWORD)
        pools = self.folder / "pools.yaml"
        pools.write_text(POOLS.format(mark=self.platform.mark))
        self.scaler = await self.platform.start("scaler", PENSTOCK_SCALER_POOLS=str(pools))
        gateway = await self.platform.start(
            "gateway",
            PENSTOCK_HTTP_LISTEN=str(self.web),
            PENSTOCK_HTTP_HEADER_TIMEOUT_S="1",
            PENSTOCK_GATEWAY_CREDENTIALS_DIR=str(self.folder / "admin"),
        )
        await self.scaler.ready()
        await gateway.ready()
        for process in self.platform.processes:
            self.scrape(process)
        await self.platform.apply(self._function("load"))
        await self.platform.ready("load")

    def scrape(self, process: Process, name: str = "") -> None:
        self.bed.prometheus.scrape(name or process.module, process.probes)

    def _function(self, name: str, **changes: Any) -> dict[str, Any]:
        spec = {"image": "any", "script": "true", "inputs": [{"bucket": self.bucket, "folder": name}], **changes}
        return resource(name, spec)

    async def deploy(self, name: str, **changes: Any) -> None:
        await self.platform.apply(self._function(name, **changes))

    async def put(self, folder: str = "load") -> None:
        self._sent += 1
        await self.platform.put(self.bucket, f"{folder}/{self._sent}")

    async def users(self, session: aiohttp.ClientSession) -> None:
        """What users do over HTTP, and one who connects and says nothing."""
        async with session.put(f"/v1/buckets/{self.bucket}/objects/load/web-{self._sent}", data=b"x" * 100) as answer:
            assert answer.status == 201, await answer.text()
        _, writer = await asyncio.open_connection(self.web.host, self.web.port)
        try:
            await asyncio.sleep(1.5)
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)

    async def load(self) -> None:
        """Uploads until cancelled."""
        word = base64.b64encode(f"oscar:{PASSWORD}".encode()).decode()
        headers = {"Authorization": f"Basic {word}"}
        async with aiohttp.ClientSession(base_url=f"http://{self.web}", headers=headers) as session:
            while True:
                for _ in range(3):
                    await self.put()
                await self.users(session)

    async def firing(self, alert: str) -> bool:
        """Whether it fires or has fired: what happens once fires for no longer than its range."""
        fired = f'max_over_time(ALERTS{{alertstate="firing", alertname="{alert}"}}[1h])'
        return bool(await self.bed.prometheus.query(fired))

    async def fires(self, *names: str) -> None:
        for name in names:
            await eventually(f"{name} fires", lambda name=name: self.firing(name), PATIENCE_S)  # type: ignore[misc]


@pytest.fixture
async def installation(tmp_path: Path) -> AsyncIterator[Installation]:
    rules = tmp_path / "rules.yaml"
    rules.write_text(quick(RULES.read_text()))
    async with Bed() as bed:
        bed.kubernetes.options.fast_controllers = True
        bed.prometheus.rules.append(rules)
        try:
            await bed.start("minio", "kafka", "kubernetes", "kwok", "prometheus")
        except MissingPart as missing:
            pytest.skip(str(missing))
        settings = {"PENSTOCK_NOTIFY_CANARY_S": "3", "PENSTOCK_NOTIFY_CANARY_PATIENCE_S": "10"}
        async with installed(bed, tmp_path, real=False, settings=settings) as platform:
            made = Installation(bed, platform, tmp_path)
            await made.open()
            yield made


def panels() -> Iterator[tuple[str, str, str]]:
    for file in FILES:
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel.get("targets", ()):
                yield file.stem, panel["title"], plain(target["expr"])


async def test_every_panel_has_data_and_alerts_fire(installation: Installation) -> None:
    loading = asyncio.create_task(installation.load(), name="load")
    try:
        await every_panel(installation, loading)
        assert not await installation.firing("PenstockNotReady")
        await while_all_runs(installation)
    finally:
        loading.cancel()
        ended = await asyncio.gather(loading, return_exceptions=True)
    assert isinstance(ended[0], asyncio.CancelledError), ended
    await with_parts_away(installation)


async def every_panel(here: Installation, loading: asyncio.Task[None]) -> None:
    queries = list(panels())
    assert len(queries) > 60
    left = queries

    async def none_left() -> bool:
        nonlocal left
        if loading.done():
            loading.result()
        left = [one for one in left if not await here.bed.prometheus.query(one[2])]
        return not left

    try:
        await eventually("every panel has data", none_left, PATIENCE_S)
    except AssertionError as error:
        raise AssertionError("\n".join(f"{board} / {title}: {query}" for board, title, query in left)) from error


async def while_all_runs(here: Installation) -> None:
    """A function that is paused, one that no node can take, an entry that is no event, a service without its log."""
    await here.deploy("held", paused=True)
    await here.deploy("huge", resources={"cpu_millis": 4_000_000})
    await here.put("held")
    await here.put("huge")
    await here.platform.log.append(TOPIC_EVENTS, [LogEntry("a", b"no event")])
    lonely = await here.platform.start("dispatcher", PENSTOCK_KAFKA_SERVERS="127.0.0.1:1")
    here.scrape(lonely, "lonely")
    await here.fires(
        "PenstockNotReady", "PenstockBacklogNotMoving", "PenstockBacklogOld", "PenstockJobsStuck", "PenstockDeadLetters"
    )


async def with_parts_away(here: Installation) -> None:
    """Events vanish; the dispatcher is gone; the scaler cannot see the cluster."""
    for _ in range(3):
        await here.put()
    await here.platform.dispatcher.kill()
    for process in here.platform.processes:
        if process.module == "dispatcher":
            await process.kill()
    for _ in range(3):
        await here.put()
    await here.fires("PenstockNoDispatcher")
    await here.bed.minio.lose_events()
    await here.fires("PenstockEventsStopped")
    await here.bed.kubernetes.stop("kube-apiserver")
    try:
        await here.fires("PenstockScalerStopped")
    finally:
        await here.bed.kubernetes.resume("kube-apiserver")
