"""/v1/nodes in the gateway when the scaler runs in a process of its own: what comes is handed on, and the answer back.

Callers show the gateway their credential; the scaler is shown the gateway's own. Nothing is retried here: an order that
may have been obeyed is not given twice behind its caller's back. Of a request only its path, its query, its body and a
few headers go on, so that nothing a caller invents reaches another place than the scaler.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from aiohttp import web
from yarl import URL

from penstock.errors import InvalidInput, NotFound, Unavailable

#: Most bytes of a body; the scaler takes no more either.
MOST_BYTES = 64 * 1024
_PASSED_ON = ("Accept", "X-Request-Id")
_PASSED_BACK = ("Content-Type", "Location")
#: Every route of `scaler.interface.api`, as method and path.
ROUTES = (
    ("GET", "/v1/nodes"),
    ("GET", "/v1/nodes/-/explain"),
    ("GET", "/v1/nodes/-/ledger"),
    ("GET", "/v1/nodes/-/requests"),
    ("POST", "/v1/nodes/-/requests"),
    ("GET", "/v1/nodes/-/requests/{id}"),
    ("DELETE", "/v1/nodes/-/requests/{id}"),
    ("GET", "/v1/nodes/{name}"),
    *(("POST", f"/v1/nodes/{{name}}/{what}") for what in ("on", "off", "enable", "disable", "reset")),
)
Read = Callable[[web.Request], Awaitable[bytes]]


class NodeProxy:
    """`address` like http://penstock-scaler:9092; `token` = what the scaler wants now. Close it at the end."""

    def __init__(self, address: str, token: Callable[[], str], *, timeout_s: float = 30.0) -> None:
        """Raises InvalidInput when the address cannot be one."""
        self._address = _checked(address)
        self._token = token
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def handle(self, request: web.Request, body: bytes) -> web.Response:
        """Hand one request on. Raises InvalidInput, Unavailable when the scaler does not answer."""
        path, query = request.rel_url.raw_path, request.rel_url.raw_query_string
        if not (path.isascii() and query.isascii()):
            raise InvalidInput("characters beyond ASCII in an address must be percent-encoded")
        # As it came: names are percent-encoded once, and must stay so.
        url = URL(f"{self._address}{path}{f'?{query}' if query else ''}", encoded=True)
        headers = {name: value for name in _PASSED_ON if (value := _plain(request.headers.get(name, "")))}
        if token := self._token():
            headers["Authorization"] = f"Bearer {token}"
        if self._session is None:
            self._session = aiohttp.ClientSession(auto_decompress=False)
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


class TokenFile:
    """The word in a file, read each time: a mounted Secret changes while the process runs. None = no word."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    def __call__(self) -> str:
        try:
            return self._file.read_text(encoding="utf-8").strip() if self._file is not None else ""
        except (OSError, UnicodeDecodeError):
            return ""  # refused by whoever is shown it, and refuses whoever is asked for it


def add_node_proxy(app: web.Application, proxy: NodeProxy | None, *, read: Read | None = None) -> None:
    """Serve /v1/nodes and all below it by handing on; `read` reads a body, bounded. None = there is no scaler, which
    every route then says.
    """
    read = read or read_body

    async def handler(request: web.Request) -> web.Response:
        if proxy is None:
            raise NotFound(
                "this server switches no nodes: it knows of no scaler (gateway.scaler in docs/operations/scaler.md)"
            )
        return await proxy.handle(request, await read(request) if request.method == "POST" else b"")

    for method, path in ROUTES:
        if method == "GET":
            app.router.add_get(path, handler)
        else:
            app.router.add_route(method, path, handler)


async def read_body(request: web.Request) -> bytes:
    """A body of at most `MOST_BYTES`, whether or not it says its length. Raises InvalidInput."""
    body = b""
    async for chunk in request.content.iter_chunked(MOST_BYTES):
        body += chunk
        if len(body) > MOST_BYTES:
            raise InvalidInput(f"is larger than {MOST_BYTES} bytes", where="request body")
    return body


def _plain(value: str) -> str:
    """A header that any server takes; else "", which is as good as not said."""
    return value if value.isascii() and value.isprintable() else ""


def _checked(address: str) -> str:
    wrong = InvalidInput(f"{address[:80]!r} is no address; give one like http://HOST:9092", where="gateway.scaler")
    try:
        url = URL(address)
        known = url.port
    except ValueError as error:
        raise wrong from error
    extras = url.user is not None or url.path not in {"", "/"} or url.query_string or url.fragment
    if url.scheme not in {"http", "https"} or not url.host or not known or extras:
        raise wrong
    return str(url.origin())
