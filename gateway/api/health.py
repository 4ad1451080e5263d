"""`/health`, `/ready`, `/metrics`: what probes ask, without a credential."""

from __future__ import annotations

import asyncio

from aiohttp import web

from gateway.api import wire
from gateway.api.context import SERVICES, Services
from penstock.model import Phase


async def health(_request: web.Request) -> web.Response:
    """The process answers; nothing else is said."""
    return web.Response(text="Ok")


async def ready(request: web.Request) -> web.Response:
    """200 once every part is up and no stop was asked for."""
    services = request.app[SERVICES]
    missing = ["the end: the server is stopping"] if services.stopping() else services.waiting_for()
    if missing:
        return wire.json_answer({"ready": False, "waiting_for": missing}, status=503)
    return wire.json_answer({"ready": True})


async def metrics(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    await measure(services)
    text = await asyncio.to_thread(services.metrics.text)
    return web.Response(body=text, content_type="text/plain", charset="utf-8")


async def measure(services: Services) -> None:
    """Set the gauges that are only read when somebody looks."""
    gauges = services.metrics
    functions = {function.uid: function.name for function in await services.registry.list()}
    gauges.invocations.clear()
    for name in functions.values():
        # Told as 0 from the beginning: what appears at 1 is no change to those who look for one.
        for phase in (Phase.SUCCEEDED, Phase.FAILED, Phase.DEAD):
            gauges.invocations.labels(name, phase.value).set(0)
    for uid, phases in (await services.ledger.counts()).items():
        if uid in functions:
            for phase, count in phases.items():
                gauges.invocations.labels(functions[uid], phase.value).set(count)
    told = await services.dispatcher.status()
    gauges.events_pending.set(told.events_pending)
    gauges.cpu_total.set(told.cpu_millis_total or 0)
    gauges.cpu_used.set(told.cpu_millis_used)
    gauges.ready.set(0 if services.waiting_for() or services.stopping() else 1)
