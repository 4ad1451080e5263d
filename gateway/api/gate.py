"""Who may connect: a bound on connections, and on the time a new one takes to say what it wants.

aiohttp bounds the size of a request's head and idle connections between requests, but waits for a first head for ever;
a handful of silent connections per second would use up the process's file handles.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from gateway.api.context import GATE
from gateway.api.errors import RETRY_AFTER_S, Handler
from penstock.observability import Metrics

_BUSY = b"too many connections; try again in a moment\n"
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Retry-After: %d\r\nContent-Length: %d\r\n\r\n%s" % (RETRY_AFTER_S, len(_BUSY), _BUSY)
)


class _Refusal(asyncio.Protocol):
    """Answers 503 without reading and hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(_REFUSAL)
        transport.close()


class Gate:
    """Makes the protocol of each connection; `attach` gives it the server it guards."""

    def __init__(self, metrics: Metrics, *, most: int, patience_s: float) -> None:
        self._metrics = metrics
        self._most = most
        self._patience_s = patience_s
        self._server: web.Server | None = None
        self._silent: dict[int, asyncio.TimerHandle] = {}

    def attach(self, server: web.Server) -> None:
        self._server = server

    def __call__(self) -> asyncio.Protocol:
        assert self._server is not None, "attach a server first"
        if len(self._server.connections) >= self._most:
            self._metrics.http_refused.labels("too_many").inc()
            return _Refusal()
        protocol = self._server()
        timer = asyncio.get_running_loop().call_later(self._patience_s, self._give_up, protocol)
        self._silent[id(protocol)] = timer
        return protocol

    def spoke(self, protocol: object) -> None:
        """The head of a request arrived on this connection."""
        if (timer := self._silent.pop(id(protocol), None)) is not None:
            timer.cancel()

    def close(self) -> None:
        for timer in self._silent.values():
            timer.cancel()
        self._silent.clear()

    def _give_up(self, protocol: web.RequestHandler) -> None:
        self._silent.pop(id(protocol), None)
        if protocol.transport is not None:
            self._metrics.http_refused.labels("silent").inc()
            protocol.transport.abort()


@web.middleware
async def let_in(request: web.Request, handler: Handler) -> web.StreamResponse:
    request.app[GATE].spoke(request.protocol)
    return await handler(request)
