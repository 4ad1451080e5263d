"""`/v1/nodes`: the machines that the scaler switches. The scaler is another process; its answers are handed on."""

from __future__ import annotations

from aiohttp import web

from gateway.api import wire
from scaler.interface.proxy import MOST_BYTES, NodeProxy, add_node_proxy


def add(app: web.Application, proxy: NodeProxy | None) -> None:
    """Serve them; without a proxy each says that there is no scaler."""
    add_node_proxy(app, proxy, read=_body)


async def _body(request: web.Request) -> bytes:
    return await wire.read_body(request, MOST_BYTES, what="the request")
