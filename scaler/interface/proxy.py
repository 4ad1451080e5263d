"""/v1/nodes in the gateway when the scaler runs in a process of its own: what comes is handed on, and the answer back.

Callers show the gateway their credential; the scaler is shown the gateway's own. Nothing is retried here: an order that
may have been obeyed is not given twice behind its caller's back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import aiohttp
from aiohttp import web
from yarl import URL

from penstock.errors import InvalidInput, Unavailable

_MOST_BYTES = 64 * 1024
_PASSED_ON = ("Accept", "Content-Type", "X-Request-Id")
_PASSED_BACK = ("Content-Type", "Location")


class NodeProxy:
    """`address` like http://penstock-scaler:9090; `token` = what the scaler wants now. Close it at the end."""

    def __init__(self, address: str, token: Callable[[], str], *, timeout_s: float = 30.0) -> None:
        self._address = address.rstrip("/")
        self._token = token
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def handle(self, request: web.Request) -> web.Response:
        """Hand one request on. Raises Unavailable when the scaler does not answer."""
        body = b""
        async for chunk in request.content.iter_chunked(_MOST_BYTES):
            body += chunk
            if len(body) > _MOST_BYTES:
                raise InvalidInput(f"is larger than {_MOST_BYTES} bytes", where="request body")
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        headers["Authorization"] = f"Bearer {self._token()}"
        if self._session is None:
            self._session = aiohttp.ClientSession(auto_decompress=False)
        # The path as it came: names are percent-encoded once, and must stay so.
        url = URL(self._address + request.raw_path, encoded=True)
        try:
            async with self._session.request(
                request.method, url, data=body or None, headers=headers, timeout=self._timeout, allow_redirects=False
            ) as answer:
                text = await answer.read()
                status = answer.status
                back = {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"the scaler does not answer: {str(error) or type(error).__name__}") from error
        if status == 401:
            # The caller's own credential was fine; his client must not ask him for another.
            raise Unavailable("the scaler does not take the gateway's token; give both the same")
        return web.Response(status=status, body=text, headers=back)


def add_node_proxy(app: web.Application, proxy: NodeProxy) -> None:
    """Serve /v1/nodes and all below it by handing on."""
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]] = proxy.handle
    app.router.add_get("/v1/nodes", handler)
    app.router.add_route("*", "/v1/nodes/{rest:.+}", handler)
