"""What several of these tests need: a receiver of webhooks, a pod's document, waiting for a condition."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.testbed.links import Address

Json = dict[str, Any]


class Sink:
    """An HTTP server that remembers the documents it was sent."""

    def __init__(self) -> None:
        self.received: list[Json] = []
        self.address = Address("127.0.0.1", 0)
        self._news = asyncio.Condition()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if body:
            async with self._news:
                self.received.append(json.loads(body))
                self._news.notify_all()
        return web.Response()

    async def until(self, count: int, seconds: float = 15) -> list[Json]:
        async with asyncio.timeout(seconds), self._news:
            await self._news.wait_for(lambda: len(self.received) >= count)
        return self.received

    @property
    def keys(self) -> list[str]:
        return [event["Key"] for event in self.received]


@asynccontextmanager
async def sink() -> AsyncIterator[Sink]:
    """A `Sink` that listens."""
    receiver = Sink()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.address = Address("127.0.0.1", runner.addresses[0][1])
    try:
        yield receiver
    finally:
        await runner.cleanup()


async def until(what: str, check: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    """Ask until the answer is yes."""
    deadline = time.monotonic() + seconds
    while not await check():
        assert time.monotonic() < deadline, f"after {seconds} s still not so: {what}"
        await asyncio.sleep(0.05)


def pod(name: str, image: str, *commands: str, **spec: Any) -> Json:
    """A pod with one container per shell command, named c0, c1, ..."""
    containers = [
        {"name": f"c{number}", "image": image, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", command]}
        for number, command in enumerate(commands)
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"restartPolicy": "Never", "containers": containers, **spec},
    }


def job(name: str, image: str, *commands: str) -> Json:
    """A Job with one such pod, which is not tried again."""
    spec = pod(name, image, *commands)["spec"]
    template = {"metadata": {"labels": {"app": name}}, "spec": spec}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": template},
    }
