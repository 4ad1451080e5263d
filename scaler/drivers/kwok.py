"""Nodes that exist only in the API server and are kept alive by KWOK: a real cluster without machines.

What is made is the node object itself, so scheduler, controllers and scaler meet it as they meet any other. A host of a
pool is off when its object is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from penstock.adapters.kubernetes import KubernetesClient
from penstock.adapters.kubernetes.client import META_LIST, encode
from penstock.adapters.kubernetes.watching import ListMeta
from penstock.errors import AlreadyExists, Closed, Conflict, Corrupt, NotFound, Unsupported
from penstock.ports import (
    NodeAdd,
    NodeTarget,
    OrderAnswer,
    Outcome,
    ProviderCapabilities,
    ProviderNode,
    ProviderState,
    StopHow,
)
from penstock.quantity import format_cpu
from scaler.observe import POOL_LABEL
from scaler.pools import Pool

NODES = "/api/v1/nodes"
DRIVER_LABEL = "penstock.dev/driver"
KEY_ANNOTATION = "penstock.dev/order"
_PLAYED = {"kwok.x-k8s.io/node": "fake"}
_PAGE = 1000


class _Meta(msgspec.Struct):
    name: str
    uid: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    creationTimestamp: datetime | None = None  # noqa: N815 - the API's name


class _Object(msgspec.Struct):
    metadata: _Meta


class _Page(msgspec.Struct):
    metadata: ListMeta
    #: The API server writes null for none here.
    items: list[_Object] | None = None


class KwokProvider:
    """`name` tells this driver's nodes from those of another."""

    def __init__(self, client: KubernetesClient, pools: Sequence[Pool], *, name: str = "kwok") -> None:
        self._client = client
        self._pools = {pool.name: pool for pool in pools}
        self._hosts = {host: pool for pool in pools for host in pool.hosts}
        self._name = name
        self._closed = False
        self._decode_page = msgspec.json.Decoder(_Page).decode
        self._decode = msgspec.json.Decoder(_Object).decode

    @property
    def capabilities(self) -> ProviderCapabilities:
        return ProviderCapabilities(add_remove=True, start_stop=True)

    async def add(self, nodes: Sequence[NodeAdd]) -> list[OrderAnswer]:
        """As `NodeProvider.add`."""
        self._check()
        return list(await asyncio.gather(*(self._add(node.key, node.name, node.pool) for node in nodes)))

    async def _add(self, key: str, name: str, pool_name: str) -> OrderAnswer:
        pool = self._pools.get(pool_name)
        if pool is None:
            return OrderAnswer(key=key, outcome=Outcome.CONFIGURATION, message=f"there is no pool {pool_name}")
        try:
            await self._client.request("POST", NODES, encode(self._document(name, pool, key)))
        except AlreadyExists:
            found = await self._meta(name)
            if found is None or found.annotations.get(KEY_ANNOTATION) != key:
                return OrderAnswer(key=key, outcome=Outcome.CONFLICT, message=f"{name} exists by another order")
        return OrderAnswer(key=key, outcome=Outcome.ACCEPTED, id=name)

    def _document(self, name: str, pool: Pool, key: str) -> dict[str, Any]:
        amounts = {
            resource: format_cpu(amount) if resource == "cpu" else str(amount) for resource, amount in pool.resources
        }
        labels = {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            **dict(pool.labels),
            POOL_LABEL: pool.name,
            DRIVER_LABEL: self._name,
        }
        taints = [msgspec.to_builtins(taint) for taint in pool.taints]
        return {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": labels, "annotations": _PLAYED | {KEY_ANNOTATION: key}},
            "spec": {"taints": taints} if taints else {},
            "status": {"capacity": amounts, "allocatable": amounts},
        }

    async def _meta(self, name: str) -> _Meta | None:
        try:
            return self._decode(await self._client.request("GET", f"{NODES}/{name}")).metadata
        except NotFound:
            return None

    async def remove(self, nodes: Sequence[NodeTarget]) -> list[OrderAnswer]:
        """As `NodeProvider.remove`. A node that this driver did not make is refused."""
        self._check()
        return list(await asyncio.gather(*(self._remove(node) for node in nodes)))

    async def _remove(self, node: NodeTarget) -> OrderAnswer:
        found = await self._meta(node.id or node.name)
        if found is not None:
            if found.labels.get(DRIVER_LABEL) != self._name:
                message = f"{found.name} was not made by driver {self._name}"
                return OrderAnswer(key=node.key, outcome=Outcome.CONFIGURATION, message=message)
            try:
                body = encode({"preconditions": {"uid": found.uid}})
                await self._client.request("DELETE", f"{NODES}/{found.name}", body)
            except NotFound:
                pass
            except Conflict:
                message = f"{found.name} was made anew meanwhile"
                return OrderAnswer(key=node.key, outcome=Outcome.CONFLICT, message=message)
        return OrderAnswer(key=node.key, outcome=Outcome.ACCEPTED, id=node.id)

    async def start(self, nodes: Sequence[NodeTarget]) -> list[OrderAnswer]:
        """As `NodeProvider.start`: a host's object is made."""
        self._check()
        return list(await asyncio.gather(*(self._start(node) for node in nodes)))

    async def _start(self, node: NodeTarget) -> OrderAnswer:
        pool = self._hosts.get(node.id or node.name)
        if pool is None:
            message = f"{node.name} is no host of a pool of driver {self._name}"
            return OrderAnswer(key=node.key, outcome=Outcome.CONFIGURATION, message=message)
        found = await self._meta(node.id or node.name)
        if found is not None and found.labels.get(DRIVER_LABEL) == self._name:
            return OrderAnswer(key=node.key, outcome=Outcome.ACCEPTED, id=found.name)
        return await self._add(node.key, node.id or node.name, pool.name)

    async def stop(self, nodes: Sequence[NodeTarget], *, how: StopHow = StopHow.SOFT) -> list[OrderAnswer]:
        """As `NodeProvider.stop`. Raises Unsupported for suspending: there is nothing to keep."""
        if how is StopHow.SUSPEND:
            raise Unsupported("a simulated node has no memory or disk to suspend")
        return await self.remove(nodes)

    def _check(self) -> None:
        if self._closed:
            raise Closed("the driver was closed")

    async def close(self) -> None:
        """As `NodeProvider.close`. The client belongs to whoever made it."""
        self._closed = True

    async def list(self) -> list[ProviderNode]:
        """As `NodeProvider.list`."""
        self._check()
        found: dict[str, ProviderNode] = {}
        after = ""
        while True:
            params = {"labelSelector": f"{DRIVER_LABEL}={self._name}", "limit": str(_PAGE)}
            if after:
                params["continue"] = after
            data = await self._client.request("GET", NODES, params=params, accept=META_LIST)
            try:
                page = self._decode_page(data)
            except msgspec.DecodeError as error:
                raise Corrupt(f"the list of nodes cannot be read: {error}") from error
            for one in page.items or ():
                found[one.metadata.name] = _node(one.metadata)
            after = page.metadata.continue_
            if not after:
                break
        off = [
            ProviderNode(id=host, name=host, pool=pool.name, state=ProviderState.OFF, ours=True)
            for host, pool in self._hosts.items()
            if host not in found
        ]
        return [*found.values(), *off]


def _node(meta: _Meta) -> ProviderNode:
    created = meta.creationTimestamp
    return ProviderNode(
        id=meta.name,
        name=meta.name,
        pool=meta.labels.get(POOL_LABEL, ""),
        state=ProviderState.ON,
        key=meta.annotations.get(KEY_ANNOTATION, ""),
        created_ms=0 if created is None else int(created.timestamp() * 1000),
        ours=True,
    )
