"""Scalers as processes: one leads and one stands by, the backlog comes from Kafka, and people come by the gateway."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.cli import failures
from penstock import settings as penstock_settings
from penstock.adapters.kafka import KafkaEventLog, KafkaSettings
from penstock.adapters.kubernetes import KubernetesClient, from_kubeconfig
from penstock.clock import now_ms
from penstock.model import TOPIC_DEMAND, FunctionDemand
from penstock.ports import LogEntry
from penstock.settings import Settings
from tests.kubernetes import support
from tests.oscar.test_production import PASSWORD, Place
from tests.scaler.cluster.process import WORD, ScalerProcess, scaler_process
from tests.scaler.cluster.whole import Watcher, create_pods, delete_pods, until, watching
from tests.testbed.kafka import Kafka
from tests.testbed.kubernetes import Kubernetes
from tests.testbed.kwok import Kwok
from tests.testbed.minio import Minio

pytestmark = [pytest.mark.components, pytest.mark.slow]

POOLS = """
pools:
  - {{name: {name}, driver: {name}, name_pattern: "{name}-{{n}}", max: 12, boot: 1s, idle: {idle},
     resources: {{cpu: 32, memory: 64Gi}}, labels: {{penstock.test/scaled: "yes"}},
     taints: [{{key: {taint}}}]}}
drivers:
  {name}: {{type: kwok}}
"""


TAINT = "penstock.test/scaler"


class Stage:
    def __init__(self, name: str, folder: Path, config: Path, watcher: Watcher, client: KubernetesClient) -> None:
        self.name = name
        self.watcher = watcher
        self.client = client
        self._folder = folder
        self._config = config
        self._lives = 0

    @asynccontextmanager
    async def scaler(self, *, idle: str = "2s", **settings: str) -> AsyncIterator[ScalerProcess]:
        self._lives += 1
        folder = self._folder / str(self._lives)
        folder.mkdir()
        pools = POOLS.format(name=self.name, idle=idle, taint=TAINT)
        async with scaler_process(self._config, folder, pools, namespace=self.name, settings=settings) as one:
            yield one


@pytest.fixture
async def stage(kubernetes: Kubernetes, kwok: Kwok, tmp_path: Path) -> AsyncIterator[Stage]:
    name = f"lives-{secrets.token_hex(3)}"
    await kubernetes.make_namespace(name)
    client = KubernetesClient(from_kubeconfig(kubernetes.kubeconfig))
    try:
        async with watching(kubernetes.kubeconfig, namespace=name, driver=name) as watcher:
            yield Stage(name, tmp_path, kubernetes.kubeconfig, watcher, client)
    finally:
        await delete_pods(client, name)
        await client.request("DELETE", "/api/v1/nodes", params={"labelSelector": f"penstock.dev/driver={name}"})
        await client.close()


@pytest.mark.parametrize("how", ["killed", "paused"])
async def test_c19_the_leader_goes_in_the_middle_and_no_node_is_lost_or_ordered_twice(stage: Stage, how: str) -> None:
    """The one that was paused wakes up with orders in its hands and sends none: it has lost its Lease and ends."""
    watcher = stage.watcher
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(stage.scaler())
        await until("the first leads", first.ready)
        second = await stack.enter_async_context(stage.scaler())
        await create_pods(stage.client, stage.name, 200)
        await until("nodes are being made", lambda: bool(watcher.nodes))
        assert not await second.ready(), "it stands by"
        if how == "killed":
            await first.kill()
        else:
            first.pause()
        await until("the second leads", second.ready)
        await until("all pods run", lambda: len(watcher.bound) == 200)
        before = len(first.actions("order_answered"))
        await create_pods(stage.client, stage.name, 60, prefix="more")
        if how == "paused":
            first.wake()
            await until("the first ends", lambda: first.ended)
            assert len(first.actions("order_answered")) == before, "it sent nothing after it woke"
        await until("these run too", lambda: len(watcher.bound) == 260)
        names = [one["node"] for one in (*first.actions("order_answered"), *second.actions("order_answered"))]
        # 200 + 60 pods of one processor on nodes of 32.
        assert len(watcher.nodes) == len(watcher.ever) == 9, names
        await delete_pods(stage.client, stage.name)
        await until("no node is left", lambda: not watcher.nodes)
        assert watcher.killed == []
        assert len(watcher.ever) == 9


def demand(name: str, queued: int) -> bytes:
    return msgspec.json.encode(
        FunctionDemand(
            function="detect",
            function_uid="uid-1",
            time_ms=now_ms(),
            queued=queued,
            running=0,
            cpu_millis=16_000,
            memory_bytes=1 << 30,
            tolerations=({"key": "penstock.test/scaler", "operator": "Exists"},),
            node_selector={"penstock.test/scaled": "yes"},
        )
    )


async def test_c5_c1_work_that_waits_in_kafka_brings_nodes_before_any_pod_and_keeps_them(
    stage: Stage, kafka: Kafka
) -> None:
    prefix = f"{stage.name}-"
    settings = {
        "PENSTOCK_SCALER_BACKLOG": "true",
        "PENSTOCK_KAFKA_SERVERS": str(kafka.address),
        "PENSTOCK_KAFKA_PREFIX": prefix,
        "PENSTOCK_KAFKA_PARTITIONS": "2",
    }
    queued = 6

    async def publish(log: KafkaEventLog) -> None:
        while True:
            await log.append(TOPIC_DEMAND, [LogEntry(key="uid-1", value=demand("detect", queued))])
            await asyncio.sleep(0.5)  # the dispatcher's own pace

    log = KafkaEventLog(KafkaSettings(servers=str(kafka.address), prefix=prefix, partitions=2))
    publishing = asyncio.create_task(publish(log), name="the dispatcher's demand")
    try:
        async with stage.scaler(**settings) as scaler:
            await until("nodes come for what is queued", lambda: len(stage.watcher.nodes) == 3)
            assert stage.watcher.pods == {}, "no pod exists yet"
            await until("it says why", lambda: len(scaler.actions("order_answered")) >= 3)
            assert {one["reason"] for one in scaler.actions("order_answered")} == {
                "wake for 6 jobs queued for function detect"
            }
            await until("they are up", lambda: len(scaler.actions("node_changed")) >= 3)
            decided = now_ms()
            await until("far longer than idle", lambda: now_ms() - decided > 6_000)
            assert len(stage.watcher.nodes) == 3, "work for them waits"
            queued = 0
            await until("nothing waits, so they go", lambda: not stage.watcher.nodes)
            queued = 2
            await until("a node comes again", lambda: len(stage.watcher.nodes) == 1)
            publishing.cancel()  # the dispatcher is gone: nobody knows what waits
            await until("the view is old", lambda: bool(scaler.actions("alarm")))
            assert len(stage.watcher.nodes) == 1, "an old backlog is no empty one"
    finally:
        publishing.cancel()
        await asyncio.wait({publishing})
        await log.close()


async def penstock(address: str, *words: str) -> tuple[int, str]:
    """The command line as a process, against a server with the administrator's word."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", *words, "--server", address, "--token", PASSWORD),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, (out or err).decode()


async def test_c20_people_switch_nodes_by_the_gateway_and_the_command_line(
    stage: Stage, kubernetes: Kubernetes, minio: Minio, kafka: Kafka, tmp_path: Path
) -> None:
    await support.use(kubernetes)
    async with support.client() as client:
        namespace = await support.make_namespace(client, f"gateway-{secrets.token_hex(3)}", pods=True)
    (tmp_path / "gateway").mkdir()
    # Its nodes are tainted like all of this stage's: pods that other tests left waiting in the same cluster would wake
    # them and work on them.
    async with stage.scaler(idle="600s") as scaler:
        await until("it leads", scaler.ready)
        place = Behind(tmp_path / "gateway", minio, kafka, kubernetes, namespace)
        place.scaler = scaler.address("listening")
        async with place.serving() as session:
            address = str(session._base_url).rstrip("/")

            async def ask(*words: str) -> Any:
                code, said = await penstock(address, "node", *words, "--output", "json")
                assert code == failures.OK, said
                return json.loads(said)

            assert await ask("ls") == {"nodes": []}
            made = await ask("request", "--cpu", "20", "--tasks", "2", "--hold", "600", "--tolerate", TAINT)
            assert (made["state"], made["tasks"]) == ("waiting", 2)
            await until("two nodes come for the request", lambda: len(stage.watcher.nodes) == 2)

            async def served() -> bool:
                (one,) = (await ask("request", "--list"))["requests"]
                return bool(one["state"] == "served")

            await until("it is served", served)
            name = min(stage.watcher.nodes)
            assert (await ask("disable", name))["nodes"][0]["enabled"] is False
            assert (await ask("show", name))["state"] == "idle"
            assert (await ask("enable", name))["nodes"][0]["enabled"] is True
            code, said = await penstock(address, "node", "show", "nothing")
            assert (code, "there is no node nothing" in said) == (failures.NOT_FOUND, True)
            await ask("request", "--withdraw", made["id"])
            await ask("off", name)
            await until("the node is gone", lambda: name not in stage.watcher.nodes)
            async with session.get("/v1/nodes") as stranger:
                assert stranger.status == 401
            await scaler.kill()
            code, said = await penstock(address, "node", "ls")
            assert (code, "the scaler does not answer" in said) == (failures.NO_SERVER, True)


class Behind(Place):
    """A gateway with that scaler behind it."""

    scaler = ""

    def settings(self) -> Settings:
        word = self.folder / "word"
        word.write_text(WORD)
        return penstock_settings.override(super().settings(), "gateway", scaler=self.scaler, scaler_token_file=word)
