"""The production watcher on a real MinIO, as tests drive it: functions in a registry, uploads, and what the log has."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from penstock.adapters.s3 import Credentials, S3Config, S3Store
from penstock.adapters.s3.notifications import Notifications
from penstock.adapters.sqlite import SqliteEventLog, SqliteRegistry
from penstock.codec import decode_dead, decode_trigger
from penstock.model import TOPIC_DEAD, TOPIC_EVENTS, BucketEvent, DeadLetter, Function, ObjectInfo, StorageIO
from penstock.ports import EventLog
from penstock.settings import Settings
from tests.testbed.links import Address
from tests.testbed.minio import Minio
from watcher.production import ProductionWatcher, open_watcher

PATIENCE_S = 90.0
#: No routine listing and no canary, so that a test sees only what it asks for.
QUIET = {"canary_s": 0.0, "store_metrics": "", "list_keys_per_minute": 0}


def function(name: str, bucket: str, folder: str = "in", **fields: Any) -> Function:
    inputs = (StorageIO(provider="minio", bucket=bucket, folder=folder),)
    return Function(**{"name": name, "script": "true", "inputs": inputs, "start_ms": 0, **fields})


async def eventually(what: str, check: Callable[[], Awaitable[bool]], seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not await check():
        assert time.monotonic() < deadline, f"after {seconds} s still not so: {what}"
        await asyncio.sleep(0.05)


async def read_all(log: EventLog, topic: str) -> list[bytes]:
    found: list[bytes] = []
    positions: dict[int, int] = {}
    while stored := await log.read(topic, positions):
        for entry in stored:
            found.append(entry.value)
            positions[entry.partition] = entry.offset + 1
    return found


async def events_of(log: EventLog) -> list[BucketEvent]:
    found = [decode_trigger(value) for value in await read_all(log, TOPIC_EVENTS)]
    return [event for event in found if isinstance(event, BucketEvent)]


async def dead_of(log: EventLog) -> list[DeadLetter]:
    return [decode_dead(value) for value in await read_all(log, TOPIC_DEAD)]


class Stage:
    """One MinIO, one log and one registry; any number of lives of the watcher over them."""

    def __init__(self, minio: Minio, log: EventLog, registry: SqliteRegistry, folder: Path) -> None:
        self.minio = minio
        self.log = log
        self.registry = registry
        self.folder = folder
        mark = uuid.uuid4().hex[:8]
        self.bucket = f"inbox-{mark}"
        self.owner = f"test-{mark}"
        self.kafka_servers = ""
        self.store = S3Store(
            S3Config(endpoint=f"http://{minio.direct}", credentials=Credentials(minio.user, minio.password))
        )
        self.notifications = Notifications(self.store.client)
        self.metrics = CollectorRegistry()

    def settings(self, *, listing_min_s: float = 3600.0, **notify: Any) -> Settings:
        group = {
            "listen": "127.0.0.1:0",
            "path": "/",
            "arn": self.minio.WEBHOOK_ARN,
            "kafka_arn": self.minio.KAFKA_ARN,
            "raw_topic": self.minio.options.kafka_topic,
            "rule_prefix": self.owner,
            **QUIET,
            **notify,
        }
        return Settings(
            s3={"endpoint": self.minio.url, "access_key": self.minio.user, "secret_key": self.minio.password},  # type: ignore[arg-type]
            kafka={"servers": self.kafka_servers, "prefix": f"{self.owner}-"},  # type: ignore[arg-type]
            watcher={"listing_min_s": listing_min_s},  # type: ignore[arg-type]
            notify=group,  # type: ignore[arg-type]
        )

    @contextlib.asynccontextmanager
    async def running(
        self, *, data: str = "data", log: EventLog | None = None, connect: bool = True, **options: Any
    ) -> AsyncIterator[ProductionWatcher]:
        """One life, the store's webhook led to it. `data` names its folder: another one is another watcher."""
        folder = self.folder / data
        await asyncio.to_thread(folder.mkdir, exist_ok=True)
        self.metrics = CollectorRegistry()
        settings = self.settings(**options)
        store = S3Store(
            S3Config(endpoint=self.minio.url, credentials=Credentials(self.minio.user, self.minio.password))
        )
        watcher = await open_watcher(
            settings, store=store, log=log or self.log, registry=self.registry, metrics=self.metrics, data=folder
        )
        ready = asyncio.Event()
        task = asyncio.create_task(watcher.run(ready), name="production-watcher")
        waiting = asyncio.create_task(ready.wait(), name="ready")
        try:
            if connect and settings.notify.webhook:
                await self._connect(watcher, task)
            await asyncio.wait({task, waiting}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
            assert ready.is_set(), task.exception() if task.done() else "the watcher is not ready"
            yield watcher
        finally:
            for one in (task, waiting):
                one.cancel()
            await asyncio.wait({task, waiting})
            if connect and settings.notify.webhook:
                await self.minio.send_webhooks_to(None)
            await watcher.close()
            await store.close()
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _connect(self, watcher: ProductionWatcher, task: asyncio.Task[None]) -> None:
        async def listens() -> bool:
            return bool(watcher.address) or task.done()

        await eventually("the webhook is served", listens)
        if watcher.address:
            host, _, port = watcher.address.rpartition(":")
            await self.minio.send_webhooks_to(Address(host, int(port)))

    async def put(self, key: str, data: bytes = b"x", **options: Any) -> ObjectInfo:
        return await self.store.write(self.bucket, key, data, **options)

    async def put_many(self, keys: list[str], *, at_once: int = 16) -> None:
        slots = asyncio.Semaphore(at_once)

        async def one(key: str) -> None:
            async with slots:
                await self.store.put(self.bucket, key, b"x")

        await asyncio.gather(*(one(key) for key in keys))

    async def events(self) -> list[BucketEvent]:
        return [event for event in await events_of(self.log) if event.bucket == self.bucket]

    async def until(self, condition: Callable[[list[BucketEvent]], bool], what: str = "the log has it") -> None:
        async def check() -> bool:
            return condition(await self.events())

        await eventually(what, check)

    async def listed(self, running: ProductionWatcher) -> None:
        """Return when no listing is asked for: what is uploaded from now on is told by an event or by nobody."""

        async def nothing_urgent() -> bool:
            scopes = running.watcher.reconciler._scopes.values()
            return bool(scopes) and all(scope.swept_ms and not scope.urgent for scope in scopes)

        await eventually("everything is listed", nothing_urgent)

    async def told(self, *keys: str) -> list[BucketEvent]:
        await self.until(lambda events: set(keys) <= {event.key for event in events})
        return await self.events()

    async def metric_is(self, name: str, wanted: Callable[[float], bool], **labels: str) -> None:
        async def check() -> bool:
            return wanted(self.metric(name, **labels))

        await eventually(f"{name} {labels}", check)

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.get_sample_value(f"penstock_watcher_{name}", labels) or 0.0


@contextlib.asynccontextmanager
async def opened_stage(minio: Minio, folder: Path, *, log: EventLog | None = None) -> AsyncIterator[Stage]:
    own = await SqliteEventLog.open(folder / "log.db") if log is None else None
    registry = await SqliteRegistry.open(folder / "registry.db")
    chosen = own or log
    assert chosen is not None
    stage = Stage(minio, chosen, registry, folder)
    try:
        yield stage
    finally:
        await stage.store.close()
        await registry.close()
        if own is not None:
            await own.close()
