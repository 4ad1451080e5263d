"""What watches over the gateway: health, readiness and metrics on an address of its own (`service.listen`).

The interface answers the same paths on the users' address, where metrics want the administrator's credential. A
Prometheus in the cluster should not need one, as it needs none for the other services; and a kubelet's probe should not
depend on the users' certificates.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest

from gateway.api.context import Services
from gateway.api.health import measure
from penstock import __version__
from penstock.collectors import ServiceCollector


class Probes:
    """`waits` says why there are no services yet; once they are there, `services` is set."""

    def __init__(self, service: str, waits: Callable[[], str]) -> None:
        self.services: Services | None = None
        self._waits = waits
        #: Told until the services bring a registry of their own.
        self._early = CollectorRegistry()
        self._early.register(ServiceCollector(service, __version__, self.waiting_for))

    def waiting_for(self) -> Sequence[str]:
        """Why the gateway cannot do its work now; none = it can."""
        if self.services is None:
            return [self._waits()]
        return ["the end: the server is stopping"] if self.services.stopping() else self.services.waiting_for()

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _ready(self, _: web.Request) -> web.Response:
        reasons = self.waiting_for()
        if reasons:
            return web.Response(status=503, text="".join(f"{reason}\n" for reason in reasons))
        return web.Response(text="ready\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        if self.services is None:
            text = generate_latest(self._early)
        else:
            await measure(self.services)
            text = await asyncio.to_thread(self.services.metrics.text)
        return web.Response(body=text, content_type="text/plain", charset="utf-8")
