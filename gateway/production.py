"""The gateway over a cluster, an object store and a log: composed here for `python -m gateway` and the edge profile.

In production the dispatcher is another process: the gateway follows the history into a ledger of its own and shows what
it sees there. In the edge profile everything is this process, over a log in a file; what differs is who runs the work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dispatcher.production import open_dispatcher
from gateway.admin import admin_of
from gateway.api.context import Services
from gateway.bucket_book import BucketBook
from gateway.changes import ChangeHub
from gateway.deploy import Deployer
from gateway.housekeeping import Housekeeping
from gateway.oidc.opening import open_verifier
from gateway.pods import KubernetesCluster, PodLogs
from gateway.remote import DemandView, RemoteWork
from gateway.resident.history import Written
from gateway.resident.http import SynchronousRuns
from gateway.resident.opening import Loops, open_resident
from gateway.table import FunctionTable
from gateway.tidy import tidy
from gateway.user_accounts import MinioUsers
from gateway.work import LiveLogs, WorkView
from penstock import __version__
from penstock.adapters.kubernetes import KubernetesClient, KubernetesRegistry
from penstock.adapters.s3 import S3Config, S3Store, Style
from penstock.adapters.s3.accounts import MinioAccounts
from penstock.adapters.sqlite import SqliteLedger, open_view
from penstock.clock import now_ms
from penstock.collectors import KubernetesCollector
from penstock.follow import RecordFollower
from penstock.model import SYSTEM_BUCKET, Record
from penstock.observability import Metrics
from penstock.ports import EventLog
from penstock.production import file_log, kubernetes_client, s3_credentials, s3_store, state_folder
from penstock.settings import Settings
from penstock.tasks import every
from scaler.interface.proxy import NodeProxy, TokenFile
from watcher.production import open_watcher

LEDGER = "gateway.sqlite"
EDGE_LEDGER = "ledger.sqlite"


@dataclass
class Opened:
    """A composed gateway: what it serves with, and the loops that keep it going."""

    services: Services
    loops: dict[str, Coroutine[Any, Any, None]]
    #: Names of what is not up yet; each loop that has an event sets it.
    up: dict[str, asyncio.Event] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Base:
    """What both profiles open first."""

    settings: Settings
    store: S3Store
    client: KubernetesClient
    registry: KubernetesRegistry
    log: EventLog
    ledger: SqliteLedger
    metrics: Metrics
    folder: Path
    stopping: Callable[[], bool]
    began: float = field(default_factory=time.monotonic)


@asynccontextmanager
async def open_gateway(settings: Settings, *, stopping: Callable[[], bool]) -> AsyncIterator[Opened]:
    """The gateway as a process beside the others. Raises InvalidInput, Unavailable, Forbidden."""
    async with _based(settings, stopping, edge=False) as base:
        changes = ChangeHub(base.metrics, buffer=settings.http.changes_buffer)
        table = FunctionTable(base.registry)
        follower = RecordFollower(base.log, base.ledger, on_change=changes.publish)
        demand = DemandView(base.log)
        work = RemoteWork(event_log=base.log, ledger=base.ledger, registry=table, follower=follower, demand=demand)
        logs = PodLogs(base.client, settings.kubernetes.namespace)
        trouble: list[Callable[[], str]] = [lambda: follower.trouble]
        async with (
            _resident(base, table, _followed) as (runs, loops),
            _services(
                base, table=table, changes=changes, work=work, logs=logs, trouble=trouble, synchronous=runs
            ) as opened,
        ):
            caught_up = opened.up["history"] = asyncio.Event()

            async def follow() -> None:
                await follower.catch_up()
                caught_up.set()
                await follower.run()

            opened.loops |= {"history": follow(), "demand": demand.run(), **loops}
            yield opened


@asynccontextmanager
async def open_edge(settings: Settings, *, stopping: Callable[[], bool]) -> AsyncIterator[Opened]:
    """Watcher, dispatcher and gateway in one process over a log in a file. Raises as `open_gateway`, and AlreadyExists:
    another process has the folder.
    """
    async with _based(settings, stopping, edge=True) as base, AsyncExitStack() as stack:
        changes = ChangeHub(base.metrics, buffer=settings.http.changes_buffer)
        table = FunctionTable(base.registry)
        active = await stack.enter_async_context(
            open_dispatcher(
                settings,
                store=base.store,
                log=base.log,
                ledger=base.ledger,
                registry=base.registry,
                client=base.client,
                credentials=s3_credentials(settings),
                metrics=base.metrics.registry,
            )
        )
        watcher = await open_watcher(
            settings,
            store=base.store,
            log=base.log,
            registry=base.registry,
            metrics=base.metrics.registry,
            data=base.folder,
        )
        stack.push_async_callback(watcher.close)
        work: WorkView = active.dispatcher

        async def written(records: Sequence[Record]) -> None:
            for record in await base.ledger.apply(records, {}):
                changes.publish(record)

        async with (
            _resident(base, table, written) as (runs, loops),
            _services(
                base, table=table, changes=changes, work=work, logs=active.runner, trouble=[], synchronous=runs
            ) as opened,
        ):
            opened.loops |= loops
            keeping = Housekeeping(
                event_log=base.log,
                ledger=base.ledger,
                settings=settings.history,
                metrics=base.metrics,
            )
            opened.up |= {"dispatcher": asyncio.Event(), "watcher": asyncio.Event()}
            opened.loops |= {
                "changes": changes.run(active.dispatcher.changes()),
                "dispatcher": active.run(opened.up["dispatcher"]),
                "watcher": watcher.run(opened.up["watcher"]),
                "housekeeping": _after(opened, every(settings.history.interval_s, lambda: keeping.turn(now_ms()))),
            }
            yield opened


async def _after(opened: Opened, loop: Coroutine[Any, Any, None]) -> None:
    """Not while recovery reads the same tables."""
    try:
        for event in opened.up.values():
            await event.wait()
        await loop
    finally:
        loop.close()


@asynccontextmanager
async def _based(settings: Settings, stopping: Callable[[], bool], *, edge: bool) -> AsyncIterator[_Base]:
    folder = state_folder(settings)
    metrics = Metrics()
    metrics.build.labels("edge" if edge else "gateway", __version__).set(1)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(s3_store(settings))
        client = await stack.enter_async_context(kubernetes_client(settings))
        metrics.registry.register(KubernetesCollector(client.use, lambda: client.pressure.allowed))
        log: EventLog = await stack.enter_async_context(file_log(settings) if edge else _kafka(settings))
        ledger = await open_view(folder / (EDGE_LEDGER if edge else LEDGER), log)
        stack.push_async_callback(ledger.close)
        registry = KubernetesRegistry(client, namespace=settings.kubernetes.namespace)
        stack.push_async_callback(registry.close)
        await store.create_bucket(SYSTEM_BUCKET)
        yield _Base(
            settings=settings,
            store=store,
            client=client,
            registry=registry,
            log=log,
            ledger=ledger,
            metrics=metrics,
            folder=folder,
            stopping=stopping,
        )


@asynccontextmanager
async def _kafka(settings: Settings) -> AsyncIterator[EventLog]:
    from penstock.production import shared_log  # noqa: PLC0415 - only this profile needs Kafka's library

    async with shared_log(settings) as log:
        yield log


async def _followed(_: Sequence[Record]) -> None:
    """They come back from the log, like all others."""


def _resident(
    base: _Base, table: FunctionTable, written: Written
) -> AbstractAsyncContextManager[tuple[SynchronousRuns, Loops]]:
    return open_resident(
        base.settings,
        client=base.client,
        event_log=base.log,
        store=base.store,
        functions=lambda: table.known() if table.synced.is_set() else None,
        written=written,
    )


@asynccontextmanager
async def _services(
    base: _Base,
    *,
    table: FunctionTable,
    changes: ChangeHub,
    work: WorkView,
    logs: LiveLogs,
    trouble: list[Callable[[], str]],
    synchronous: SynchronousRuns,
) -> AsyncIterator[Opened]:
    settings, store = base.settings, base.store
    admin = admin_of(settings.gateway)
    up: dict[str, asyncio.Event] = {"functions": table.synced}
    book = BucketBook(store)

    def waiting_for() -> list[str]:
        missing = [name for name, event in up.items() if not event.is_set()]
        return missing + [said for ask in trouble if (said := ask())]

    async with AsyncExitStack() as stack:
        oidc = await stack.enter_async_context(open_verifier(settings.gateway))
        storage = await _storage(settings, store, book, stack)
        nodes = _nodes(settings, stack)
        services = Services(
            settings=settings,
            credentials=admin(),
            admin=admin,
            store=store,
            browse=store,
            log=base.log,
            ledger=base.ledger,
            registry=table,
            runner=logs,
            dispatcher=work,
            book=book,
            storage=storage,
            oidc=oidc,
            nodes=nodes,
            cluster=KubernetesCluster(base.client, settings.kubernetes.namespace),
            synchronous=synchronous,
            make_folder=None,
            changes=changes,
            metrics=base.metrics,
            data=base.folder,
            uptime=lambda: time.monotonic() - base.began,
            waiting_for=waiting_for,
            stopping=base.stopping,
            require_image=not settings.jobs.default_image,
        )
        deployer = Deployer(registry=table, store=store, book=book, settings=settings.gateway)
        clear = every(settings.history.interval_s, lambda: tidy(deployer, store, settings.history, now_ms()))
        yield Opened(services=services, loops={"functions": table.run(), "tidy": clear}, up=up)


def _nodes(settings: Settings, stack: AsyncExitStack) -> NodeProxy | None:
    group = settings.gateway
    if not group.scaler:
        return None
    proxy = NodeProxy(group.scaler, TokenFile(group.scaler_token_file))
    stack.push_async_callback(proxy.close)
    return proxy


async def _storage(settings: Settings, store: S3Store, book: BucketBook, stack: AsyncExitStack) -> MinioUsers:
    group, credentials = settings.s3, s3_credentials(settings)
    admin = None
    if group.accounts == "minio":
        admin = MinioAccounts(group.endpoint, credentials, ca_file=group.ca_file)
        stack.push_async_callback(admin.close)
    public = S3Config(
        endpoint=group.public_endpoint or group.endpoint,
        credentials=credentials,
        region=group.region,
        style=Style(group.style),
        any_key=group.any_key,
    )
    return MinioUsers(store=store, book=book, admin=admin, credentials=credentials, public=public)
