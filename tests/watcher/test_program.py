"""`python -m watcher` as a process: its settings, its patience, its death and its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from penstock.adapters.kafka import KafkaEventLog, KafkaSettings
from penstock.adapters.kubernetes import KubernetesRegistry
from tests.kubernetes.support import client, make_namespace, use
from tests.services.programs import run, usable
from tests.testbed.kafka import Kafka
from tests.testbed.kubernetes import Kubernetes
from tests.testbed.links import Address
from tests.testbed.minio import Minio
from tests.testbed.ports import Reservations
from tests.watcher.stage import events_of, eventually, function, opened_stage


def test_settings_can_be_checked_before_they_are_used(tmp_path: Path) -> None:
    variables = usable(tmp_path)
    assert run("watcher", "--check", "--listen", "127.0.0.1:7", **variables).returncode == 0
    told = run("watcher", "--check", "--listen", "0.0.0.0:9091", **variables)
    assert told.returncode == 2
    assert told.stderr.startswith("error: notify.token_file: is needed because notify.listen")


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"PENSTOCK_S3_ENDPOINT": ""}, "s3.endpoint: names no object store"),
        ({"PENSTOCK_NOTIFY_NONSENSE": "1"}, "PENSTOCK_NOTIFY_NONSENSE: there is no setting of this name"),
        ({"PENSTOCK_NOTIFY_ANSWER_S": "soon"}, "PENSTOCK_NOTIFY_ANSWER_S: "),
    ],
)
def test_settings_that_cannot_work_are_one_sentence(tmp_path: Path, variables: dict[str, str], says: str) -> None:
    told = run("watcher", **usable(tmp_path) | variables)
    assert told.returncode == 2
    assert told.stderr.startswith(f"error: {says}")
    assert len(told.stderr.splitlines()) == 1


class Process:
    """One life of the program; its log is a file."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment = environment
        self._log = log
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with await asyncio.to_thread(self._log.open, "ab") as stream:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "watcher", env={**os.environ, **self._environment}, stdout=stream, stderr=stream
            )

    async def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(60):
            return await self.process.wait()

    def text(self) -> str:
        return self._log.read_text()


@contextlib.asynccontextmanager
async def ports(count: int) -> AsyncIterator[list[int]]:
    reservations = Reservations()
    try:
        yield [reservations.port() for _ in range(count)]
    finally:
        reservations.close()


async def ready(address: str) -> tuple[int, str]:
    with contextlib.suppress(aiohttp.ClientError):
        async with aiohttp.ClientSession() as session, session.get(f"http://{address}/ready") as answer:
            return answer.status, await answer.text()
    return 0, ""


@pytest.mark.components
@pytest.mark.slow
async def test_it_waits_is_killed_goes_on_and_stops(
    minio: Minio, kafka: Kafka, kubernetes: Kubernetes, tmp_path: Path
) -> None:
    await use(kubernetes)
    async with contextlib.AsyncExitStack() as stack:
        stage = await stack.enter_async_context(opened_stage(minio, tmp_path))
        service, webhook = await stack.enter_async_context(ports(2))
        api = await stack.enter_async_context(client())
        namespace = await make_namespace(api, stage.owner)
        registry = KubernetesRegistry(api, namespace=namespace)
        stack.push_async_callback(registry.close)
        log = KafkaEventLog(KafkaSettings(servers=str(kafka.address), prefix=f"{stage.owner}-", partitions=3))
        stack.push_async_callback(log.close)
        environment = {
            "PENSTOCK_S3_ENDPOINT": minio.url,
            "PENSTOCK_S3_ACCESS_KEY": minio.user,
            "PENSTOCK_S3_SECRET_KEY": minio.password,
            "PENSTOCK_KAFKA_SERVERS": str(kafka.address),
            "PENSTOCK_KAFKA_PREFIX": f"{stage.owner}-",
            "PENSTOCK_KAFKA_PARTITIONS": "3",
            "PENSTOCK_KUBERNETES_KUBECONFIG": str(kubernetes.kubeconfig),
            "PENSTOCK_KUBERNETES_NAMESPACE": namespace,
            "PENSTOCK_STATE_DATA": str(tmp_path / "state"),
            "PENSTOCK_SERVICE_LISTEN": f"127.0.0.1:{service}",
            "PENSTOCK_NOTIFY_LISTEN": f"127.0.0.1:{webhook}",
            "PENSTOCK_NOTIFY_PATH": "/",
            "PENSTOCK_NOTIFY_ARN": minio.WEBHOOK_ARN,
            "PENSTOCK_NOTIFY_RULE_PREFIX": stage.owner,
        }
        await minio.send_webhooks_to(Address("127.0.0.1", webhook))
        stack.push_async_callback(minio.send_webhooks_to, None)
        address = f"127.0.0.1:{service}"
        # Kafka is away at first: alive, not ready, and it says what it waits for.
        early = Process({**environment, "PENSTOCK_KAFKA_SERVERS": "127.0.0.1:9"}, tmp_path / "early.log")
        await early.start()
        await eventually("it says what it waits for", lambda: _says(address, "waiting for the log"))
        assert await early.end(signal.SIGTERM) == 0
        watcher = Process(environment, tmp_path / "watcher.log")
        await watcher.start()
        stack.push_async_callback(watcher.end, signal.SIGKILL)
        await registry.create(function("first", stage.bucket))
        await eventually("it is ready", lambda: _is_ready(address))

        async def told(count: int) -> bool:
            return len({event.key for event in await events_of(log) if event.bucket == stage.bucket}) >= count

        async def made() -> bool:
            return stage.bucket in await stage.store.buckets()

        await eventually("the bucket is made", made)
        await stage.put_many([f"in/{number}" for number in range(30)])
        await eventually("the first are told", lambda: told(30))
        uploading = asyncio.create_task(stage.put_many([f"in/more-{number}" for number in range(60)], at_once=4))
        assert await watcher.end(signal.SIGKILL) == -signal.SIGKILL
        await uploading
        await watcher.start()
        await eventually("the rest is told", lambda: told(90))
        assert await watcher.end(signal.SIGTERM) == 0
        counts = Counter(event.identity for event in await events_of(log) if event.bucket == stage.bucket)
        assert len(counts) == 90
        # Between the append and the note of it a kill costs a repeat, never an object.
        assert sum(counts.values()) <= 90 + 60
        assert minio.password not in watcher.text() + early.text()


async def _says(address: str, words: str) -> bool:
    return words in (await ready(address))[1]


async def _is_ready(address: str) -> bool:
    return (await ready(address))[0] == 200
