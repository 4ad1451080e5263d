"""`/v1/changes`: server-sent events, one per change of phase."""

from __future__ import annotations

import asyncio

from aiohttp import web

from gateway.api import views, wire
from gateway.api.context import CALLER, SERVICES
from gateway.api.owned import sees_record
from penstock.errors import Closed

routes = web.RouteTableDef()

#: A comment this often finds out that a silent client is gone, and keeps proxies from closing the stream.
HEARTBEAT_S = 15.0


@routes.get("/v1/changes")
async def changes(request: web.Request) -> web.StreamResponse:
    """Changes from now on. A client that reads too slowly gets `gap` in place of what it missed, and lists again."""
    services = request.app[SERVICES]
    patience = services.settings.http.body_timeout_s
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    with services.changes.subscribe() as subscription:
        await response.prepare(request)
        await response.write(b": changes from now on\n\n")
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    record = await subscription.next()
            except Closed:
                break
            except TimeoutError:
                message = b": still here\n\n"
            else:
                if record is not None and not sees_record(services, request[CALLER], record):
                    continue
                data = b"{}" if record is None else wire.encode(views.invocation(record))
                message = b"event: %s\ndata: %s\n\n" % (b"gap" if record is None else b"invocation", data)
            try:
                async with asyncio.timeout(patience):
                    await response.write(message)
            except (ConnectionError, TimeoutError):
                break  # the client left, or reads nothing any more: nobody to tell
    return response
