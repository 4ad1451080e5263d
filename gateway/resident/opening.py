"""Synchronous runs composed: for the gateway as a process of its own, and for the one process of the edge profile."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog

from dispatcher.kubernetes.configuration import runner_settings
from gateway.resident.cluster import ResidentApi
from gateway.resident.history import History, Written
from gateway.resident.http import SynchronousRuns
from gateway.resident.keeper import Keeper
from gateway.resident.knative_runs import KnativeRuns, installed
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
) -> AsyncIterator[tuple[SynchronousRuns, Loops]]:
    """What runs, and the loops that keep it going. `functions` = all there are now, None = not known yet; `written`
    hears of records that are durable. Raises InvalidInput, Unavailable.
    """
    jobs = runner_settings(settings)
    shape = Shape(slots=settings.sync.pod_slots, longest_s=settings.http.run_timeout_s)
    api = ResidentApi(client, jobs, shape)
    history = History(event_log, store, written)
    async with AsyncExitStack() as stack:
        pods = await stack.enter_async_context(PodClient())
        runs: SynchronousRuns
        loops: Loops = {"synchronous history": history.run()}
        stack.push_async_callback(_flush, history)
        for_knative = settings.sync.backend == "knative" or (
            settings.sync.backend == "auto" and await installed(client, settings.kubernetes.namespace)
        )
        if for_knative:
            log.info("synchronous runs go to Knative Services", action="start")
            runs = served = KnativeRuns(
                client=client, api=api, pods=pods, history=history, jobs=jobs, shape=shape, settings=settings.sync
            )
            loops["knative keeper"] = served.keep(functions)
        else:
            runs = resident = ResidentRuns(api=api, client=pods, history=history, settings=settings.sync)
            stack.callback(resident.close)
            lease = LeaderLease(
                client,
                namespace=settings.kubernetes.lease_namespace or settings.kubernetes.namespace,
                name=LEASE,
                identity=f"{socket.gethostname()}-{secrets.token_hex(6)}",
            )
            keeper = Keeper(
                runs=resident, api=api, client=pods, lease=lease, functions=functions, settings=settings.sync
            )
            loops |= {
                "resident pods": resident.follow_pods(),
                "resident deployments": resident.follow_deployments(),
                "resident keeper": keeper.run(),
            }
        try:
            yield runs, loops
        finally:
            for loop in loops.values():
                loop.close()


async def _flush(history: History) -> None:
    try:
        async with asyncio.timeout(FLUSH_S):
            await history.flush()
    except (PenstockError, TimeoutError) as error:
        log.error("the last synchronous runs are not in the history", action="lost", error=str(error))
