"""Machines and pods as `/system/status` shows them: this machine, or in production the cluster's nodes."""

from __future__ import annotations

import os
import platform
from typing import Protocol

import msgspec


class NodeFacts(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    ready: bool
    cpu_millis: int
    memory_bytes: int
    cpu_millis_used: int = 0
    memory_bytes_used: int = 0
    cpu_millis_requested: int = 0
    memory_bytes_requested: int = 0
    gpus: int = 0
    virtual: bool = False
    conditions: tuple[tuple[str, bool], ...] = ()


class ClusterFacts(msgspec.Struct, frozen=True, kw_only=True):
    nodes: tuple[NodeFacts, ...] = ()
    #: Pods by phase.
    pods: dict[str, int] = {}
    #: "" = there is no Kubernetes here.
    kubernetes_version: str = ""
    namespace: str = ""


class ClusterView(Protocol):
    async def facts(self) -> ClusterFacts:
        """Raises Unavailable."""
        ...


class ThisMachine:
    """The machine that this process runs on."""

    async def facts(self) -> ClusterFacts:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        processors = os.cpu_count() or 1
        busy = min(os.getloadavg()[0], processors)
        node = NodeFacts(
            name=platform.node() or "localhost",
            ready=True,
            cpu_millis=1000 * processors,
            memory_bytes=pages,
            cpu_millis_used=int(1000 * busy),
            memory_bytes_used=pages - free,
            conditions=(("Ready", True),),
        )
        return ClusterFacts(nodes=(node,))
