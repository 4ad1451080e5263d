"""`/v1/status`: what every function has done, what waits, and why."""

from __future__ import annotations

import msgspec
from aiohttp import web

from gateway.access import may_see
from gateway.api import views, wire
from gateway.api.context import CALLER, SERVICES
from penstock import __version__, answers

routes = web.RouteTableDef()


@routes.get("/v1/status")
async def status(request: web.Request) -> web.Response:
    services = request.app[SERVICES]
    told = await services.dispatcher.status()
    by_uid = {one.uid: one for one in told.functions}
    functions = []
    # By the registry's list, so that a function deployed a moment ago is there.
    for function in await services.registry.list():
        if not may_see(request[CALLER], function):
            continue
        known = by_uid.get(function.uid)
        shown = views.counts(function, known.phases if known is not None else {})
        if known is not None:
            shown = msgspec.structs.replace(shown, waiting_for=known.waiting_for or None, batch=known.batch)
        functions.append(shown)
    if told.trouble:
        functions = [
            msgspec.structs.replace(one, waiting_for=f"nothing can be recorded: {told.trouble}") for one in functions
        ]
    return wire.json_answer(
        answers.Status(
            version=__version__,
            uptime_s=round(services.uptime(), 3),
            data=str(services.data) if request[CALLER].admin else "",
            functions=tuple(functions),
            slots=answers.Slots(cpu_millis_total=told.cpu_millis_total or 0, cpu_millis_used=told.cpu_millis_used),
            backlog=sum(one.queued for one in functions),
            events_pending=told.events_pending,
        )
    )
