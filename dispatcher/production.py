"""The dispatcher over a cluster and an object store: composed here for `python -m dispatcher` and for the one-process
edge profile alike. Which log it stands on, and whether a Lease decides who may act, is the caller's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CollectorRegistry

from dispatcher.demand import EVERY_S as DEMAND_EVERY_S
from dispatcher.demand import DemandPublisher, PodShape
from dispatcher.expiry import Expiry
from dispatcher.kubernetes import KubernetesRunner, KubernetesSettings, PodResults, ResultSource, StoreResults
from dispatcher.kubernetes.accounts import FunctionAccounts
from dispatcher.kubernetes.configuration import runner_settings, volume_settings
from dispatcher.kubernetes.readiness import ClusterPreparation
from dispatcher.kubernetes.reporting import EVERY_S as REPORT_EVERY_S
from dispatcher.kubernetes.reporting import Reporter
from dispatcher.metrics import DispatcherMetrics
from dispatcher.service import Dispatcher
from dispatcher.settings import DispatcherSettings
from penstock.adapters.kubernetes import KubernetesClient, KubernetesRegistry
from penstock.adapters.s3 import Credentials
from penstock.adapters.s3.accounts import MinioAccounts
from penstock.clock import now_ms
from penstock.errors import InvalidInput
from penstock.model import SYSTEM_BUCKET
from penstock.ports import EventLog, Ledger, ObjectStore
from penstock.settings import Settings
from penstock.tasks import Supervisor, every
from penstock.telemetry import Exporter, open_exporter


class ClusterDispatcher:
    """A dispatcher and what goes with it on a cluster; made by `open_dispatcher`."""

    def __init__(
        self,
        *,
        dispatcher: Dispatcher,
        runner: KubernetesRunner,
        store: ObjectStore,
        demand: DemandPublisher,
        reporter: Reporter,
        expiry: Expiry,
        expiry_s: float,
        exporter: Exporter | None,
    ) -> None:
        self.dispatcher = dispatcher
        self.runner = runner
        self._store = store
        self._demand = demand
        self._reporter = reporter
        self._expiry = expiry
        self._expiry_s = expiry_s
        self._exporter = exporter

    async def run(self, ready: asyncio.Event | None = None, *, epoch: int = 0) -> None:
        """Become active and work until cancelled; raises what stopped it: Fenced, Unavailable (while becoming active),
        Forbidden (a right is missing).
        """
        active = ready or asyncio.Event()
        await self._store.create_bucket(SYSTEM_BUCKET)
        await self.runner.start()
        supervisor = Supervisor()
        supervisor.start("dispatcher", self.dispatcher.run(active, epoch=epoch))
        supervisor.start("demand", self._publish_demand(active))
        supervisor.start("reporting", self._report(active))
        supervisor.start("expiry", self._expire(active))
        if self._exporter is not None:
            supervisor.start("telemetry", self._exporter.run(self.dispatcher.changes))
        try:
            await supervisor.run()
        finally:
            await supervisor.close()

    async def _publish_demand(self, active: asyncio.Event) -> None:
        async def turn() -> None:
            await self._demand.turn(await self.dispatcher.backlogs(), now_ms())

        await active.wait()
        await every(DEMAND_EVERY_S, turn)

    async def _expire(self, active: asyncio.Event) -> None:
        async def turn() -> None:
            await self._expiry.turn(now_ms())

        await active.wait()
        await every(self._expiry_s, turn)

    async def _report(self, active: asyncio.Event) -> None:
        async def turn() -> None:
            await self._reporter.turn(await self.dispatcher.function_statuses(), now_ms())

        await active.wait()
        await every(REPORT_EVERY_S, turn)


@asynccontextmanager
async def open_dispatcher(
    settings: Settings,
    *,
    store: ObjectStore,
    log: EventLog,
    ledger: Ledger,
    registry: KubernetesRegistry,
    client: KubernetesClient,
    credentials: Callable[[], Credentials] | None = None,
    metrics: DispatcherMetrics | CollectorRegistry | None = None,
    may_act: Callable[[], bool] = lambda: True,
) -> AsyncIterator[ClusterDispatcher]:
    """`ledger` may lag behind `log`: it is brought up to date before anything else. `credentials` = the store account
    below which functions get theirs; needed where `s3.accounts` is `minio`. `may_act` is asked before every change in
    the cluster. Nothing is connected before `run`. Raises InvalidInput.
    """
    jobs = runner_settings(settings)
    async with AsyncExitStack() as stack:
        runner = KubernetesRunner(
            client=client,
            settings=jobs,
            results=_results(settings, store),
            volumes=volume_settings(settings),
            archive=store,
            may_act=may_act,
        )
        stack.push_async_callback(runner.close)
        accounts = None
        if settings.s3.accounts == "minio":
            accounts = await _accounts(settings, client, credentials, stack)
        preparation = ClusterPreparation(
            registry=registry, store=store, accounts=accounts, default_image=settings.jobs.default_image
        )
        tuning = DispatcherSettings(**settings.dispatcher.model_dump())
        measured = (
            metrics if isinstance(metrics, DispatcherMetrics) else DispatcherMetrics(metrics or CollectorRegistry())
        )
        dispatcher = Dispatcher(
            log=log,
            ledger=ledger,
            registry=registry,
            runner=runner,
            store=store,
            settings=tuning,
            metrics=measured,
            preparation=preparation,
        )
        expiry = Expiry(event_log=log, ledger=ledger, store=store, forget=dispatcher.forget, settings=settings.history)
        yield ClusterDispatcher(
            dispatcher=dispatcher,
            runner=runner,
            store=store,
            demand=DemandPublisher(log, shape=pod_shape(jobs), settings=tuning),
            reporter=Reporter(registry.report, preparation.invalid),
            expiry=expiry,
            expiry_s=settings.history.interval_s,
            exporter=open_exporter(settings.telemetry, measured.traces_exported, measured.traces_dropped),
        )


def _results(settings: Settings, store: ObjectStore) -> ResultSource:
    return StoreResults(store) if settings.jobs.results == "store" else PodResults()


async def _accounts(
    settings: Settings,
    client: KubernetesClient,
    credentials: Callable[[], Credentials] | None,
    stack: AsyncExitStack,
) -> FunctionAccounts:
    if credentials is None:
        raise InvalidInput(
            "is minio, but this process has no store account below which functions could get theirs",
            where="s3.accounts",
        )
    admin = MinioAccounts(settings.s3.endpoint, credentials, ca_file=settings.s3.ca_file)
    stack.push_async_callback(admin.close)
    authorities = ""
    if settings.s3.ca_file is not None:
        authorities = await asyncio.to_thread(settings.s3.ca_file.read_text, encoding="ascii")
    return FunctionAccounts(
        admin=admin,
        client=client,
        namespace=settings.kubernetes.namespace,
        names={"in": settings.jobs.input_secret, "out": settings.jobs.output_secret},
        authorities=authorities,
    )


def pod_shape(jobs: KubernetesSettings) -> PodShape:
    """What every pod asks for beside its function, for the scaler. Pure."""
    return PodShape(
        default_cpu_millis=jobs.default_cpu_millis,
        default_memory_bytes=jobs.default_memory_bytes,
        extra_cpu_millis=2 * jobs.sidecar_cpu_millis,
        extra_memory_bytes=2 * jobs.sidecar_memory_bytes,
        gpu_resource=jobs.gpu_resource,
        node_selector=dict(jobs.node_selector),
        tolerations=tuple(dict(one) for one in jobs.tolerations),
    )
