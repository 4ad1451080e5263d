"""Synchronous runs composed: for the gateway as a process of its own, and for the one process of the edge profile."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import structlog

from dispatcher.kubernetes.configuration import runner_settings
from gateway.resident.cluster import ResidentApi
from gateway.resident.history import History, Written
from gateway.resident.keeper import Keeper
from gateway.resident.manifest import Shape
from gateway.resident.pod_client import PodClient
from gateway.resident.runs import ResidentRuns
from penstock.adapters.kubernetes import KubernetesClient, LeaderLease
from penstock.errors import PenstockError
from penstock.model import Function
from penstock.ports import EventLog, ObjectStore
from penstock.settings import Settings

log = structlog.get_logger("gateway.resident")

LEASE = "penstock-gateway"
#: At a stop: for what has ended to become history.
FLUSH_S = 5.0

Loops = dict[str, Coroutine[Any, Any, None]]


@asynccontextmanager
async def open_resident(
    settings: Settings,
    *,
    client: KubernetesClient,
    event_log: EventLog,
    store: ObjectStore,
    functions: Callable[[], list[Function] | None],
    written: Written,
) -> AsyncIterator[tuple[ResidentRuns, Loops]]:
    """What runs, and the loops that keep it going. `functions` = all there are now, None = not known yet; `written`
    hears of records that are durable. Nothing is connected before the loops run. Raises InvalidInput.
    """
    jobs = runner_settings(settings)
    shape = Shape(slots=settings.sync.pod_slots, longest_s=settings.http.run_timeout_s)
    api = ResidentApi(client, jobs, shape)
    history = History(event_log, store, written)
    async with PodClient() as pods:
        runs = ResidentRuns(api=api, client=pods, history=history, settings=settings.sync)
        lease = LeaderLease(
            client,
            namespace=settings.kubernetes.lease_namespace or settings.kubernetes.namespace,
            name=LEASE,
            identity=f"{socket.gethostname()}-{secrets.token_hex(6)}",
        )
        keeper = Keeper(runs=runs, api=api, client=pods, lease=lease, functions=functions, settings=settings.sync)
        loops: Loops = {
            "resident pods": runs.follow_pods(),
            "resident deployments": runs.follow_deployments(),
            "resident keeper": keeper.run(),
            "synchronous history": history.run(),
        }
        try:
            yield runs, loops
        finally:
            for loop in loops.values():
                loop.close()
            runs.close()
            try:
                async with asyncio.timeout(FLUSH_S):
                    await history.flush()
            except (PenstockError, TimeoutError) as error:
                log.error("the last synchronous runs are not in the history", action="lost", error=str(error))
