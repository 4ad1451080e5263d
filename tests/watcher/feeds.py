"""Sources of the production watcher, fed with what a real MinIO sends, for the contract suite.

MinIO's webhook leads to a small receiver that hands each notification on as the source's own server would: by HTTP, as
an entry of a topic, or as a line of a listen stream (played, since MinIO of 2026 holds those back). Without a MinIO the
sources are made all the same, which is enough for the suite that only asks of what class they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import unquote_plus

from aiohttp import web
from prometheus_client import CollectorRegistry

from penstock.adapters.s3 import Credentials, S3Config, S3Store
from penstock.adapters.s3.notifications import Notifications
from penstock.adapters.sqlite import SqliteEventLog
from penstock.ports import LogEntry, Source
from penstock.probes import serving
from tests.testbed.links import Address
from tests.testbed.minio import Minio
from watcher.metrics import WatcherMetrics
from watcher.quarantine import Quarantine
from watcher.sources.joined import JoinedSource
from watcher.sources.listen import ListenSource
from watcher.sources.topic import TopicSource
from watcher.sources.webhook import WebhookSource

#: The session's MinIO; set by the fixture of the contract suite.
MINIO: list[Minio] = []
RAW = "penstock.raw"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def receiving(handler: Handler) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_post("/{path:.*}", handler)
    async with serving(app, "127.0.0.1:0") as address:
        host, _, port = address.rpartition(":")
        for minio in MINIO:
            await minio.send_webhooks_to(Address(host, int(port)))
        try:
            yield
        finally:
            for minio in MINIO:
                await minio.send_webhooks_to(None)


@contextlib.asynccontextmanager
async def quarantine(folder: Path) -> AsyncIterator[tuple[SqliteEventLog, WatcherMetrics]]:
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    log = await SqliteEventLog.open(folder / "log.db")
    try:
        yield log, WatcherMetrics(CollectorRegistry())
    finally:
        await log.close()


@contextlib.asynccontextmanager
async def webhook_source(folder: Path) -> AsyncIterator[Source]:
    async with quarantine(folder) as (log, metrics):
        source = WebhookSource(quarantine=Quarantine(log, metrics), metrics=metrics, answer_s=30.0)
        async with receiving(source.handle):
            try:
                yield source
            finally:
                await source.close()


@contextlib.asynccontextmanager
async def topic_source(folder: Path) -> AsyncIterator[Source]:
    async with quarantine(folder) as (log, metrics):
        source = TopicSource(log=log, topic=RAW, group="g", quarantine=Quarantine(log, metrics), metrics=metrics)

        async def append(request: web.Request) -> web.StreamResponse:
            await log.append(RAW, [LogEntry("k", await request.read())])
            return web.Response()

        async with receiving(append):
            try:
                yield source
            finally:
                await source.close()


class Stream:
    """The listening side of an object store that tells at once what happens."""

    def __init__(self) -> None:
        self._listeners: list[web.StreamResponse] = []
        self._ended = asyncio.Event()

    async def take(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read())
        for record in body["Records"]:
            record["s3"]["object"]["key"] = unquote_plus(record["s3"]["object"]["key"])
        for listener in self._listeners:
            await listener.write(json.dumps({"Records": body["Records"]}).encode() + b"\n")
        return web.Response()

    async def listen(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        self._listeners.append(answer)
        while not self._ended.is_set():
            await answer.write(b'{"Records":null}\n')
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._ended.wait()
        return answer

    def end(self) -> None:
        self._ended.set()


@contextlib.asynccontextmanager
async def listen_source(folder: Path) -> AsyncIterator[Source]:
    stream = Stream()
    app = web.Application()
    app.router.add_get("/", stream.listen)
    async with serving(app, "127.0.0.1:0") as address, receiving(stream.take):
        store = S3Store(S3Config(endpoint=f"http://{address}", credentials=Credentials("a", "s")))
        source = ListenSource(Notifications(store.client), metrics=WatcherMetrics(CollectorRegistry()))
        try:
            yield source
        finally:
            await source.close()
            stream.end()
            await store.close()


@contextlib.asynccontextmanager
async def joined_source(folder: Path) -> AsyncIterator[Source]:
    """The same events by two ways at once."""
    async with quarantine(folder) as (log, metrics):
        aside = Quarantine(log, metrics)
        webhook = WebhookSource(quarantine=aside, metrics=metrics, answer_s=30.0)
        topic = TopicSource(log=log, topic=RAW, group="g", quarantine=aside, metrics=metrics)
        source = JoinedSource({"webhook": webhook, "topic": topic})

        async def both(request: web.Request) -> web.StreamResponse:
            await log.append(RAW, [LogEntry("k", await request.read())])
            return await webhook.handle(request)

        async with receiving(both):
            try:
                yield source
            finally:
                await source.close()
