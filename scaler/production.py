"""Composes the running scaler: cluster, drivers, backlog, leadership, hooks, books and interface around the service."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import structlog

from penstock.adapters.kubernetes import KubernetesClient, LeaderLease
from penstock.errors import InvalidInput, Unavailable
from penstock.ports import EventLog
from penstock.probes import serving, split_address
from penstock.production import check_service
from penstock.settings import Settings
from penstock.tasks import Supervisor, every
from scaler.backlog import Backlog
from scaler.desk import Desk
from scaler.drivers.configuration import Configuration, Parts
from scaler.interface.api import make_node_app
from scaler.interface.bookkeeping import Bookkeeper, ConfigMapBooks
from scaler.interface.hooks import HookOptions, ProgramHooks, read_options
from scaler.interface.metrics import InterfaceCollector
from scaler.interface.proxy import TokenFile
from scaler.machines import Machines
from scaler.metrics import ScalerMetrics
from scaler.service import ScalerService
from scaler.store import ConfigMapStore
from scaler.timing import Timing
from scaler.window import Window
from scaler.world import KubernetesWorld

log = structlog.get_logger("scaler")


def now_ms() -> int:
    """Wall time, which is what Kubernetes, clouds and people speak of."""
    return time.time_ns() // 1_000_000


class Running:
    """All parts of one life. `waiting_for` and `run` are what the process needs of it."""

    def __init__(
        self, settings: Settings, configuration: Configuration, client: KubernetesClient, events: EventLog | None
    ) -> None:
        group = settings.scaler
        namespace = settings.kubernetes.lease_namespace or settings.kubernetes.namespace
        identity = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._settings = settings
        self._supervisor = Supervisor()
        self._active = asyncio.Event()
        self._world = KubernetesWorld(client, clock=now_ms)
        self._lease = (
            LeaderLease(client, namespace=namespace, name=group.state, identity=identity) if group.lease else None
        )
        self.metrics = ScalerMetrics()
        self.hooks = ProgramHooks(hook_options(settings))
        backlog = Backlog(events, changed=self._changed) if events is not None else None
        parts = Parts(now_ms, client)
        self.drivers = [
            Machines(driver.name, driver.make(parts), clock=now_ms, changed=self._changed)
            for driver in configuration.drivers
        ]
        self.service = ScalerService(
            fleet=configuration.fleet,
            store=ConfigMapStore(client, namespace=namespace, name=group.state),
            world=self._world,
            drivers=self.drivers,
            clock=now_ms,
            backlog=backlog,
            hooks=self.hooks,
            leads=self._leads,
            metrics=self.metrics,
            timing=Timing(
                settle_ms=round(group.settle_s * 1000),
                evict_ms=round(group.evict_s * 1000),
                hook_s=settings.hooks.timeout_s + 5,
            ),
            window=Window(idle_ms=round(group.batch_idle_s * 1000), most_ms=round(group.batch_max_s * 1000)),
        )
        self.desk = Desk(self.service, clock=now_ms)
        books = ConfigMapBooks(client, namespace=namespace, name=f"{group.state}-books")
        self.books = Bookkeeper(
            self.desk, configuration.fleet, books, clock=now_ms, leads=self._leads, energy_price=group.energy_price
        )
        self._backlog = backlog
        self.metrics.registry.register(InterfaceCollector(self.books.books, self.hooks))

    def _changed(self) -> None:
        self.service.changed()

    def _leads(self) -> bool:
        return self._lease is None or self._lease.held

    def waiting_for(self) -> list[str]:
        """Why nothing can be decided now; a standby waits for its turn."""
        why = self.service.blocked()
        return [why] if why else []

    async def run(self) -> None:
        """Until a part fails; raises what it failed with."""
        supervisor = self._supervisor
        for name, loop in self._world.loops().items():
            supervisor.start(name, loop)
        supervisor.start("hooks", self.hooks.run())
        if self._backlog is not None:
            supervisor.start("backlog", every(0.0, self._backlog.turn))
        if self._settings.scaler.ledger:
            supervisor.start("books", self.books.run())
        try:
            if self._lease is not None:
                supervisor.start("lease", self._hold(self._lease))
            supervisor.start("scaler", self._scale())
            await supervisor.run()
        finally:
            await self.service.close()
            if self._lease is not None:
                with contextlib.suppress(asyncio.CancelledError):
                    await self._lease.step_down()

    async def _hold(self, lease: LeaderLease) -> None:
        """Raises Unavailable when the lease is lost: the process ends then, and the next life begins as a standby."""
        await lease.acquire()
        self._active.set()
        await lease.hold()
        raise Unavailable(
            "the Lease was not renewed in time, so another scaler may lead by now: start again, as a standby; when it "
            "happens often, the API server or this process is too busy"
        )

    async def _scale(self) -> None:
        """Nothing is read of the stored state before this is the one that writes it."""
        if self._lease is not None:
            await self._active.wait()
        await self.service.run()


@asynccontextmanager
async def opened(
    settings: Settings, configuration: Configuration, client: KubernetesClient, events: EventLog | None
) -> AsyncIterator[Running]:
    """Everything but the loops. Raises InvalidInput, Unavailable, AlreadyExists (the interface's port)."""
    running = Running(settings, configuration, client, events)
    group = settings.scaler
    async with AsyncExitStack() as stack:
        if group.listen:
            app = make_node_app(running.desk, token=_token(settings), ledger=running.books)
            address = await stack.enter_async_context(serving(app, group.listen))
            log.info("the interface for nodes is up", action="listening", address=address)
        yield running


def check(settings: Settings) -> None:
    """Refuse what can never work, pools apart. Raises InvalidInput naming the setting."""
    group = settings.scaler
    if group.backlog and not settings.kafka.servers.strip():
        raise InvalidInput(
            "names no broker, and the backlog is read from Kafka: name one, or set scaler.backlog = false",
            where="kafka.servers",
        )
    check_service(settings, store=False, brokers=group.backlog)
    if group.listen:
        split_address(group.listen, where="scaler.listen")
        _token(settings)
    hook_options(settings)


def _token(settings: Settings) -> TokenFile:
    if settings.scaler.token_file is None:
        raise InvalidInput("is missing; callers of scaler.listen must show its word", where="scaler.token_file")
    return TokenFile(settings.scaler.token_file)


def hook_options(settings: Settings) -> HookOptions:
    """Raises InvalidInput: a command line that cannot be read, a program that is not there."""
    group = settings.hooks
    commands = group.model_dump(exclude={"timeout_s", "folder", "workers", "waiting"})
    return read_options(
        commands, timeout_s=group.timeout_s, folder=group.folder, workers=group.workers, waiting=group.waiting
    )
