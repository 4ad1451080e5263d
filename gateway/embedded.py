"""Embedded mode: the whole product in one process, put together here and nowhere else.

Order of start: data folder and its lock, listening socket (so that a taken port costs nothing), log, registry, ledger
with the log's tail applied, files given with `--apply`, runner (which takes over the processes of the previous life),
dispatcher, watcher, HTTP. Everything is closed in reverse, each step whatever the one before it did. `/ready` says yes
only when every part is up.
"""

from __future__ import annotations

import asyncio
import platform
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from dispatcher.expiry import Expiry
from dispatcher.metrics import DispatcherMetrics
from dispatcher.process_runner import ProcessRunner
from dispatcher.process_runner import Settings as RunnerSettings
from dispatcher.service import Dispatcher
from dispatcher.settings import DispatcherSettings
from gateway import datadir
from gateway.api.context import Services
from gateway.api.server import address_of, bind, serving
from gateway.bucket_book import BucketBook
from gateway.changes import ChangeHub
from gateway.datadir import Layout
from gateway.deploy import Deployer, ScriptFiles
from gateway.folders import folder_maker
from gateway.housekeeping import Housekeeping
from gateway.oidc.opening import open_verifier
from gateway.s3.access import S3Access, s3_access_of
from gateway.s3.service import S3Server, bind_s3
from gateway.s3.service import opened as s3_opened
from gateway.storage import open_storage
from gateway.table import FunctionTable
from gateway.tidy import tidy as tidy_gateway
from penstock import __version__
from penstock.clock import now_ms
from penstock.errors import InvalidInput
from penstock.observability import Metrics
from penstock.ports import ObjectStore, Registry
from penstock.settings import Settings
from penstock.tasks import Supervisor, every
from penstock.telemetry import open_exporter
from penstock.wiring import EmbeddedParts, embedded_parts
from watcher.metrics import WatcherMetrics
from watcher.schedule import Policy
from watcher.seen import SeenStore
from watcher.service import Watcher
from watcher.sources import open_directory_source

log = structlog.get_logger("gateway.embedded")

FIRST_TIDY_S = 60.0
#: A file counts as finished once it was unchanged for the whole settle time; a listing just then may be too early.
SETTLE_MARGIN_S = 0.5


class Embedded:
    """An async context manager: inside the block the platform is open; `run` keeps it going."""

    def __init__(self, settings: Settings, *, apply: tuple[Path, ...] = ()) -> None:
        self._settings = settings
        self._apply = apply
        self._stack = AsyncExitStack()
        self._supervisor = Supervisor()
        self._parts_up: dict[str, asyncio.Event] = {}
        self._stopping = False
        #: Set while nobody is in `run`.
        self._idle = asyncio.Event()
        self._idle.set()
        self._began = time.monotonic()
        self._address = ""
        self._layout: Layout | None = None
        self._dispatcher: Dispatcher | None = None
        self._services: Services | None = None
        self._s3: S3Server | None = None

    # ---- what others ask

    @property
    def address(self) -> str:
        """http://HOST:PORT of the running server."""
        return self._address

    @property
    def data(self) -> Path:
        assert self._layout is not None, "not open"
        return self._layout.root

    @property
    def services(self) -> Services:
        assert self._services is not None, "not open"
        return self._services

    @property
    def s3_pid(self) -> int | None:
        """The process that serves S3; None where and while there is none."""
        return self._s3.pid if self._s3 is not None else None

    def waiting_for(self) -> list[str]:
        return [name for name, event in self._parts_up.items() if not event.is_set()]

    # ---- life

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        if not self._idle.is_set():
            self._supervisor.stop()
            await self._idle.wait()
        await self._stack.aclose()

    async def run(self) -> None:
        """Until closed or cancelled; raises what stopped a part. Ends all parts before it returns."""
        self._idle.clear()
        try:
            await self._supervisor.run()
        finally:
            self._idle.set()

    async def ready(self) -> None:
        """Return once every part is up."""
        for event in list(self._parts_up.values()):
            await event.wait()

    async def drain(self, seconds: float) -> bool:
        """Take nothing new and wait for what runs; True = everything ended in time."""
        self._stopping = True
        log.info("stopping: running items may end", action="drain", seconds=seconds)
        assert self._dispatcher is not None, "not open"
        ended = await self._dispatcher.drain(seconds)
        if not ended:
            log.warning("running items did not end in time and are killed", action="drain_timeout", seconds=seconds)
        return ended

    # ---- start

    async def _open(self) -> None:
        settings, stack = self._settings, self._stack
        layout = self._layout = stack.enter_context(datadir.opened(settings.up.data))
        known = datadir.read_credentials(layout.credentials)
        sock = stack.enter_context(_closing(bind(settings.http.listen, allow_remote=settings.http.allow_remote)))
        self._address, port = address_of(sock)
        s3_socket = self._bind_s3()
        s3_endpoint = address_of(s3_socket)[0] if s3_socket is not None else ""
        credentials = datadir.keep_credentials(layout.credentials, self._address, known, s3_endpoint=s3_endpoint)
        s3_access = s3_access_of(s3_endpoint, credentials)
        metrics = Metrics()
        metrics.build.labels("embedded", __version__).set(1)
        parts = await stack.enter_async_context(
            embedded_parts(buckets=layout.buckets, databases=layout.db, settle_s=settings.watcher.settle_s)
        )
        await self._deploy_files(parts)
        runner = await self._open_runner(parts, layout)
        measured = DispatcherMetrics(metrics.registry)
        dispatcher = Dispatcher(
            log=parts.log,
            ledger=parts.ledger,
            registry=parts.registry,
            runner=runner,
            store=parts.store,
            settings=DispatcherSettings(**settings.dispatcher.model_dump()),
            metrics=measured,
        )
        self._dispatcher = dispatcher
        exporter = open_exporter(settings.telemetry, measured.traces_exported, measured.traces_dropped)
        if exporter is not None:
            self._supervisor.start("telemetry", exporter.run(dispatcher.changes))
        changes = ChangeHub(metrics, buffer=settings.http.changes_buffer)
        table = FunctionTable(parts.registry)
        oidc = await stack.enter_async_context(open_verifier(settings.gateway))
        self._services = services = Services(
            settings=settings,
            credentials=credentials,
            store=parts.store,
            browse=parts.browse,
            settle_s=settings.watcher.settle_s,
            log=parts.log,
            ledger=parts.ledger,
            registry=table,
            runner=runner,
            dispatcher=dispatcher,
            book=BucketBook(parts.store),
            storage=open_storage(s3_access, lambda: self._address),
            oidc=oidc,
            make_folder=folder_maker(layout.buckets),
            changes=changes,
            metrics=metrics,
            data=layout.root,
            uptime=lambda: time.monotonic() - self._began,
            waiting_for=self.waiting_for,
            stopping=lambda: self._stopping,
            s3=s3_access,
        )
        watcher = await self._open_watcher(services, parts, layout)
        stack.push_async_callback(self._supervisor.close)
        self._start_parts(services, watcher)
        if s3_socket is not None and s3_access is not None:
            await self._open_s3(s3_socket, layout, s3_access)
        await stack.enter_async_context(serving(services, sock))
        stack.enter_context(datadir.announced(port, self._address, layout.credentials))

    def _start_parts(self, services: Services, watcher: Watcher) -> None:
        supervisor, settings = self._supervisor, self._settings
        dispatcher_up = self._parts_up["dispatcher"] = asyncio.Event()
        watcher_up = self._parts_up["watcher"] = asyncio.Event()
        assert self._dispatcher is not None, "not open"
        housekeeping = Housekeeping(
            event_log=services.log,
            ledger=services.ledger,
            settings=settings.history,
            metrics=services.metrics,
            expiry=Expiry(
                event_log=services.log,
                ledger=services.ledger,
                store=services.store,
                forget=self._dispatcher.forget,
                settings=settings.history,
            ),
        )

        async def tidy() -> None:
            # Not while recovery reads the same tables, nor in the first minute, when there is catching up to do.
            await self.ready()
            await asyncio.sleep(min(FIRST_TIDY_S, settings.history.interval_s))
            await every(settings.history.interval_s, lambda: housekeeping.turn(now_ms()))

        dispatcher = self._dispatcher
        assert dispatcher is not None, "not open"
        supervisor.start("functions", services.registry.run())
        supervisor.start("changes", services.changes.run(dispatcher.changes()))
        supervisor.start("dispatcher", dispatcher.run(dispatcher_up))
        supervisor.start("watcher", watcher.run(watcher_up))
        supervisor.start("housekeeping", tidy())
        deployer = self._deployer(services.registry, services.store)
        turn = settings.history.interval_s
        keep = settings.history
        supervisor.start("tidy", every(turn, lambda: tidy_gateway(deployer, services.store, keep, now_ms())))

    async def _open_runner(self, parts: EmbeddedParts, layout: Layout) -> ProcessRunner:
        runner = await ProcessRunner.open(
            store=parts.store,
            workdir=layout.work,
            volumes=layout.volumes,
            node=platform.node() or "localhost",
            settings=RunnerSettings(grace_s=self._settings.runner.grace_s, log_limit=self._settings.runner.log_bytes),
        )
        # Whatever was to be waited for was waited for in `drain`: what still runs here is killed with its children.
        self._stack.push_async_callback(runner.close, drain_s=0.0)
        return runner

    def _bind_s3(self) -> socket.socket | None:
        """The port of S3 when it is wanted, bound as early as the other one."""
        wanted = self._settings
        if not wanted.up.s3:
            return None
        sock = bind_s3(wanted.up.s3_listen, allow_remote=wanted.http.allow_remote)
        return self._stack.enter_context(_closing(sock))

    async def _open_s3(self, sock: socket.socket, layout: Layout, access: S3Access) -> None:
        server = self._s3 = await self._stack.enter_async_context(s3_opened(sock, layout.buckets, access))
        self._stack.push_async_callback(self._supervisor.close)
        up = self._parts_up["s3"] = asyncio.Event()
        self._supervisor.start("s3", server.run(up))

    async def _open_watcher(self, services: Services, parts: EmbeddedParts, layout: Layout) -> Watcher:
        wanted = self._settings.watcher
        source = open_directory_source(parts.store)
        self._stack.push_async_callback(source.close)
        seen = SeenStore(layout.db / "seen.sqlite")
        self._stack.push_async_callback(seen.close)
        return Watcher(
            store=parts.store,
            source=source,
            log=parts.log,
            registry=parts.registry,
            seen=seen,
            metrics=WatcherMetrics(services.metrics.registry),
            policy=Policy(
                share=wanted.listing_share,
                min_interval_s=wanted.listing_min_s,
                max_interval_s=wanted.listing_max_s,
                settle_s=wanted.settle_s + SETTLE_MARGIN_S if wanted.settle_s else 0.0,
            ),
        )

    def _deployer(self, registry: Registry, store: ObjectStore) -> Deployer:
        assert self._layout is not None, "not open"
        return Deployer(
            registry=registry,
            store=store,
            make_folder=folder_maker(self._layout.buckets),
            settings=self._settings.gateway,
        )

    async def _deploy_files(self, parts: EmbeddedParts) -> None:
        """The files of `--apply`, before anything can be routed by an older definition."""
        deployer = self._deployer(parts.registry, parts.store)
        # Nobody else deploys here: whatever is not finished was cut off by the end of the previous life.
        await deployer.recover(older_s=0)
        for path in self._apply:
            try:
                text = path.read_text(encoding="utf-8")
            except OSError as error:
                raise datadir.translated(error, path, "the file cannot be read") from error
            except UnicodeDecodeError as error:
                raise InvalidInput("the file is not UTF-8 text", where=str(path)) from error
            try:
                plan = await deployer.plan(text, ScriptFiles(path.parent))
            except InvalidInput as error:
                raise InvalidInput(error.message, where=str(path)) from error
            done = await deployer.apply(plan)
            for warning in plan.warnings:
                log.warning(warning, action="apply_warning", file=str(path))
            for one in done.functions:
                log.info("function deployed", action="apply", function=one.name, result=one.action)


@contextmanager
def _closing(sock: socket.socket) -> Iterator[socket.socket]:
    try:
        yield sock
    finally:
        sock.close()
