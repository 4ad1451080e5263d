"""The scaler's control from another process: what the gateway mounts and what the command line calls.

It speaks the routes of `scaler.interface.api` through any client that can ask for JSON, and answers in the same types
as the HTTP interface.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from scaler.interface.answers import (
    ExplanationView,
    NodeList,
    NodeView,
    RequestDocument,
    RequestList,
    RequestView,
)
from scaler.interface.ledger import LedgerReport

T = TypeVar("T")


class Ask(Protocol):
    """One request: the answer as a type, failures as errors of `penstock.errors`."""

    async def __call__(
        self, method: str, path: str, kind: type[T], *, params: Mapping[str, str] | None = None, body: Any = None
    ) -> T: ...


class NodeCalls:
    """The routes of /v1/nodes, one method each. Raises as `scaler.control.Control`, and what `ask` raises."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def nodes(self) -> list[NodeView]:
        return (await self._ask("GET", "/v1/nodes", NodeList)).nodes

    async def node(self, name: str) -> NodeView:
        return await self._ask("GET", _path(name), NodeView)

    async def order(self, name: str, what: str, *, force: bool = False) -> NodeView:
        """`what` = on, off, enable, disable or reset; `force` for off alone."""
        params = {"force": "1"} if force else None
        return await self._ask("POST", f"{_path(name)}/{what}", NodeView, params=params)

    async def explain(self) -> ExplanationView:
        return await self._ask("GET", "/v1/nodes/-/explain", ExplanationView)

    async def submit(self, document: RequestDocument) -> RequestView:
        return await self._ask("POST", "/v1/nodes/-/requests", RequestView, body=document)

    async def requests(self) -> list[RequestView]:
        return (await self._ask("GET", "/v1/nodes/-/requests", RequestList)).requests

    async def request(self, id: str) -> RequestView:
        return await self._ask("GET", f"/v1/nodes/-/requests/{quote(id, safe='')}", RequestView)

    async def withdraw(self, id: str) -> RequestView:
        return await self._ask("DELETE", f"/v1/nodes/-/requests/{quote(id, safe='')}", RequestView)

    async def ledger(self, month: str = "") -> LedgerReport:
        return await self._ask("GET", "/v1/nodes/-/ledger", LedgerReport, params={"month": month} if month else None)


def _path(name: str) -> str:
    return f"/v1/nodes/{quote(name, safe='')}"
