"""A control in memory for tests of what stands in front of it: it keeps nodes and requests, and what it was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec.structs import replace

from penstock.errors import Conflict, NotFound
from scaler.control import Explanation, NodeInfo, RequestInfo, RequestSpec, RequestState
from scaler.model import NodeState, PodSpec, Request

S = NodeState


class Desk:
    """Implements `scaler.control.Control`."""

    def __init__(self, *nodes: NodeInfo, explanation: Explanation | None = None) -> None:
        self.known = {node.name: node for node in nodes}
        self.asked: dict[str, RequestInfo] = {}
        self.explanation = explanation or Explanation(plan=None, blocked="nothing was looked at yet")
        self.calls: list[str] = []

    async def nodes(self) -> list[NodeInfo]:
        return list(self.known.values())

    async def node(self, name: str) -> NodeInfo:
        if name not in self.known:
            raise NotFound(f"there is no node {name!r}")
        return self.known[name]

    async def explain(self) -> Explanation:
        return self.explanation

    async def _set(self, call: str, name: str, **changes: object) -> NodeInfo:
        node = await self.node(name)
        self.calls.append(f"{call} {name}")
        self.known[name] = replace(node, **changes)
        return self.known[name]

    async def on(self, name: str) -> NodeInfo:
        return await self._set("on", name, state=S.STARTING)

    async def off(self, name: str, *, force: bool = False) -> NodeInfo:
        node = await self.node(name)
        if node.pods and not force:
            raise Conflict(f"{node.pods} pods run on node {name}; force waits for their end")
        return await self._set("off force" if force else "off", name, state=S.DRAINING)

    async def enable(self, name: str) -> NodeInfo:
        return await self._set("enable", name, enabled=True)

    async def disable(self, name: str) -> NodeInfo:
        return await self._set("disable", name, enabled=False)

    async def reset(self, name: str) -> NodeInfo:
        return await self._set("reset", name, failures_on=0, failures_off=0)

    async def submit(self, spec: RequestSpec) -> RequestInfo:
        pod = PodSpec(requests=spec.requests, selector=spec.selector, affinity=spec.affinity)
        id_ = f"r{len(self.asked) + 1}"
        request = Request(id=id_, spec=pod, tasks=spec.tasks, per_node=spec.per_node, until_ms=spec.hold_ms)
        self.asked[id_] = RequestInfo(request=request, state=RequestState.WAITING, reason="2 nodes are coming")
        return self.asked[id_]

    async def request(self, id: str) -> RequestInfo:
        if id not in self.asked:
            raise NotFound(f"there is no request {id!r}")
        return self.asked[id]

    async def requests(self) -> list[RequestInfo]:
        return list(self.asked.values())

    async def withdraw(self, id: str) -> RequestInfo:
        self.asked[id] = replace(await self.request(id), state=RequestState.OVER)
        return self.asked[id]


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    """(address without its last slash, session) of the application on a real socket."""
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        yield str(server.make_url("")).rstrip("/"), session
