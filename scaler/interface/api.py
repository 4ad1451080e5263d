"""REST for nodes, under /v1/nodes: list, show, switch, ask for room, and why everything is as it is.

The handlers are written against `scaler.control.Control`, so the same routes serve in the scaler's own process and in
the gateway, where the control is a `RemoteControl`. What is no node stands under "-", which no node can be called.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec
import structlog
from aiohttp import web

from penstock.codec import decode_body
from penstock.errors import InvalidInput, PenstockError
from scaler.control import Control, NodeInfo
from scaler.interface.answers import (
    NodeList,
    RequestDocument,
    RequestList,
    explanation_view,
    node_view,
    request_spec,
    request_view,
)
from scaler.interface.ledger import LedgerReport
from scaler.interface.proxy import MOST_BYTES, read_body

log = structlog.get_logger("scaler.interface")

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_STATUS = {
    "invalid": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "already_exists": 409,
    "conflict": 409,
    "unsupported": 422,
    "unavailable": 503,
    "fenced": 503,
    "closed": 503,
    "out_of_space": 507,
}


class LedgerSource(Protocol):
    """Whoever keeps the books."""

    async def ledger(self, month: str) -> LedgerReport:
        """The figures of a month such as "2026-11"; "" = the present one."""
        ...


class Unauthenticated(PenstockError):
    """No credential, or not the right one."""

    code = "unauthenticated"


def add_node_routes(app: web.Application, control: Control, ledger: LedgerSource | None = None) -> None:
    """Serve /v1/nodes in an application that turns `PenstockError` into answers and knows its callers."""
    app.router.add_routes(node_routes(control, ledger))


def node_routes(control: Control, ledger: LedgerSource | None = None) -> list[web.RouteDef]:
    nodes, requests = _Nodes(control), _Requests(control)
    routes = [
        web.get("/v1/nodes", nodes.all),
        web.get("/v1/nodes/-/explain", nodes.explain),
        web.get("/v1/nodes/-/requests", requests.all),
        web.post("/v1/nodes/-/requests", requests.submit),
        web.get("/v1/nodes/-/requests/{id}", requests.one),
        web.delete("/v1/nodes/-/requests/{id}", requests.withdraw),
        web.get("/v1/nodes/{name}", nodes.one),
        web.post("/v1/nodes/{name}/on", nodes.order("on", lambda name, _: control.on(name))),
        web.post(
            "/v1/nodes/{name}/off",
            nodes.order("off", lambda name, query: control.off(name, force=_flag(query, "force")), "force"),
        ),
        web.post("/v1/nodes/{name}/enable", nodes.order("enable", lambda name, _: control.enable(name))),
        web.post("/v1/nodes/{name}/disable", nodes.order("disable", lambda name, _: control.disable(name))),
        web.post("/v1/nodes/{name}/reset", nodes.order("reset", lambda name, _: control.reset(name))),
    ]
    if ledger is not None:
        routes.insert(1, web.get("/v1/nodes/-/ledger", _Books(ledger).month))
    return routes


def make_node_app(control: Control, *, token: Callable[[], str], ledger: LedgerSource | None = None) -> web.Application:
    """The interface in the scaler's own process. `token` = what callers must show now; "" refuses everybody."""
    app = web.Application(middlewares=[_errors, _authenticated(token)], client_max_size=MOST_BYTES)
    add_node_routes(app, control, ledger)
    return app


class _Nodes:
    def __init__(self, control: Control) -> None:
        self._control = control

    async def all(self, request: web.Request) -> web.Response:
        """GET /v1/nodes."""
        _known_only(request.query)
        return _json(NodeList([node_view(node) for node in await self._control.nodes()]))

    async def one(self, request: web.Request) -> web.Response:
        """GET /v1/nodes/{name}."""
        _known_only(request.query)
        return _json(node_view(await self._control.node(request.match_info["name"])))

    async def explain(self, request: web.Request) -> web.Response:
        """GET /v1/nodes/-/explain."""
        _known_only(request.query)
        return _json(explanation_view(await self._control.explain()))

    def order(self, what: str, obey: Callable[[str, Mapping[str, str]], Awaitable[NodeInfo]], *known: str) -> Handler:
        """POST /v1/nodes/{name}/WHAT: 202, since a node takes minutes to follow."""

        async def handler(request: web.Request) -> web.Response:
            _known_only(request.query, *known)
            name = request.match_info["name"]
            node = await obey(name, request.query)
            # Whoever switches a machine by hand is written down; the request's id ties it to its caller.
            log.info("a person switched a node", action="node_ordered", order=what, node=name, state=node.state.value)
            return _json(node_view(node), status=202)

        return handler


class _Requests:
    def __init__(self, control: Control) -> None:
        self._control = control

    async def all(self, request: web.Request) -> web.Response:
        """GET /v1/nodes/-/requests."""
        _known_only(request.query)
        return _json(RequestList([request_view(one) for one in await self._control.requests()]))

    async def one(self, request: web.Request) -> web.Response:
        """GET /v1/nodes/-/requests/{id}."""
        _known_only(request.query)
        return _json(request_view(await self._control.request(request.match_info["id"])))

    async def submit(self, request: web.Request) -> web.Response:
        """POST /v1/nodes/-/requests."""
        _known_only(request.query)
        found = await self._control.submit(request_spec(await _document(request, RequestDocument)))
        location = f"/v1/nodes/-/requests/{found.request.id}"
        return _json(request_view(found), status=201, headers={"Location": location})

    async def withdraw(self, request: web.Request) -> web.Response:
        """DELETE /v1/nodes/-/requests/{id}."""
        _known_only(request.query)
        return _json(request_view(await self._control.withdraw(request.match_info["id"])))


class _Books:
    def __init__(self, ledger: LedgerSource) -> None:
        self._ledger = ledger

    async def month(self, request: web.Request) -> web.Response:
        """GET /v1/nodes/-/ledger?month=2026-11."""
        _known_only(request.query, "month")
        return _json(await self._ledger.ledger(request.query.get("month", "")))


def _json(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        status=status, body=msgspec.json.encode(value), content_type="application/json", headers=headers
    )


async def _document(request: web.Request, kind: type[T]) -> T:
    return decode_body(await read_body(request), kind)


def _flag(query: Mapping[str, str], name: str) -> bool:
    value = query.get(name, "0").lower()
    if value not in {"", "0", "1", "true", "false"}:
        raise InvalidInput(f"give 1 or 0, not {value[:40]!r}", where=f"?{name}")
    return value in {"", "1", "true"}


def _known_only(query: Mapping[str, str], *names: str) -> None:
    for name in query:
        if name not in names:
            known = ", ".join(names) or "none"
            raise InvalidInput(f"there is no parameter of this name here; known are: {known}", where=f"?{name[:40]}")


def _authenticated(token: Callable[[], str]) -> Any:
    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
        expected = token()
        same = hmac.compare_digest(shown.strip().encode("utf-8", "replace"), expected.encode())
        if not (expected and same and scheme.lower() == "bearer"):
            raise Unauthenticated("the scaler wants its token with Bearer; ask through the gateway, which knows it")
        return await handler(request)

    return middleware


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except PenstockError as error:
        status = _STATUS.get(error.code, 500)
        where = error.where if isinstance(error, InvalidInput) else ""
        if "application/json" not in request.headers.get("Accept", ""):
            return web.Response(status=status, text=f"{error.message}\n")
        return _json({"error": {"code": error.code, "message": error.message, "where": where}}, status=status)
