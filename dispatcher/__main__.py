"""`python -m dispatcher`: from the log to Jobs on a cluster, as one of several processes that take turns.

Nothing that is away at the start ends it: it says in `/ready` what it waits for and tries again. It exits with 0 after
SIGTERM or SIGINT, with 1 when only a person can mend what is wrong, and with 2 for settings that cannot work.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Sequence

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector

from dispatcher.kubernetes.configuration import runner_settings
from dispatcher.leadership import RETRY_S, Leadership
from dispatcher.metrics import DispatcherMetrics
from dispatcher.production import ClusterDispatcher, open_dispatcher
from penstock import __version__
from penstock.adapters.kafka import KafkaEventLog
from penstock.adapters.kubernetes import KubernetesClient, KubernetesRegistry
from penstock.adapters.s3 import S3Store
from penstock.adapters.sqlite import SqliteLedger, open_view
from penstock.collectors import KubernetesCollector
from penstock.errors import Unavailable
from penstock.probes import add_probes, serving
from penstock.production import check_service, kafka_log, kubernetes_client, s3_credentials, s3_store, state_folder
from penstock.program import Program, Work, cut_short, until_signal
from penstock.settings import Settings

log = structlog.get_logger("dispatcher")

LEDGER = "dispatcher.sqlite"

PROGRAM = Program(
    module="dispatcher",
    description="Turns what is in the log into Jobs on a Kubernetes cluster, and their ends into history.",
    examples=(
        "python -m dispatcher --config /etc/penstock/penstock.toml",
        "python -m dispatcher --config penstock.toml --check",
        (
            "PENSTOCK_S3_ENDPOINT=http://minio:9000 PENSTOCK_KAFKA_SERVERS=kafka:9092 \\\n"
            "    PENSTOCK_S3_CREDENTIALS_DIR=/run/secrets/store python -m dispatcher"
        ),
    ),
    pages="Several may run: one is active, the others stand by. The rights that it needs:\n"
    "docs/operations/dispatcher.md. Settings: docs/reference/settings.md.",
)


class Service:
    """The process: its probes from the first moment on, its parts as they become available."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._collector = CollectorRegistry()
        self._metrics = DispatcherMetrics(self._collector)
        with contextlib.suppress(ValueError):  # no /proc on this system
            ProcessCollector(registry=self._collector)
        self._stopping = asyncio.Event()
        self._waits = "it is starting"
        self._log: KafkaEventLog | None = None
        self._leadership: Leadership | None = None

    def stop(self) -> None:
        self._stopping.set()
        if self._leadership is not None:
            self._leadership.stop()

    def waiting_for(self) -> Sequence[str]:
        """For `/ready`."""
        reasons = [self._waits] if self._waits else []
        if self._log is not None and not self._log.health.ok:
            reasons.append(f"the log: {self._log.health.reason}")
        if self._leadership is not None:
            reasons += self._leadership.waiting_for()
        return reasons

    async def run(self) -> None:
        """Until `stop`. Raises InvalidInput (settings), and what only a person can mend."""
        app = web.Application()
        add_probes(app, registry=self._collector, waiting_for=self.waiting_for, service="dispatcher")
        settings = self._settings
        async with serving(app, settings.service.listen) as address:
            log.info("the dispatcher starts", action="start", version=__version__, probes=address)
            async with s3_store(settings) as store, kubernetes_client(settings) as client, self._opened() as parts:
                if parts is not None:
                    await self._lead(store, client, *parts)

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[tuple[KafkaEventLog, SqliteLedger] | None]:
        """Log and ledger, however long the brokers are away; None = it is time to stop."""
        async with contextlib.AsyncExitStack() as stack:
            parts: tuple[KafkaEventLog, SqliteLedger] | None = None
            while parts is None and not self._stopping.is_set():
                try:
                    async with cut_short(self._stopping):
                        parts = await self._open(stack)
                except Unavailable as error:
                    self._waits = error.message
                    log.warning("the log is not there yet", action="start_delayed", error=error.message)
                    await stack.aclose()
                    await self._pause()
            yield parts

    async def _open(self, stack: contextlib.AsyncExitStack) -> tuple[KafkaEventLog, SqliteLedger]:
        event_log = await stack.enter_async_context(kafka_log(self._settings, writer=True))
        self._waits = "its ledger is being brought up to date"
        ledger = await open_view(state_folder(self._settings) / LEDGER, event_log)
        stack.push_async_callback(ledger.close)
        self._waits, self._log = "", event_log
        return event_log, ledger

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETRY_S):
                await self._stopping.wait()

    async def _lead(
        self, store: S3Store, client: KubernetesClient, event_log: KafkaEventLog, ledger: SqliteLedger
    ) -> None:
        settings, group = self._settings, self._settings.kubernetes
        self._collector.register(KubernetesCollector(client.use, lambda: client.pressure.allowed))
        credentials = s3_credentials(settings)

        @contextlib.asynccontextmanager
        async def opened(may_act: Callable[[], bool]) -> AsyncIterator[ClusterDispatcher]:
            registry = KubernetesRegistry(client, namespace=group.namespace)
            try:
                async with open_dispatcher(
                    settings,
                    store=store,
                    log=event_log,
                    ledger=ledger,
                    registry=registry,
                    client=client,
                    credentials=credentials,
                    metrics=self._metrics,
                    may_act=may_act,
                ) as active:
                    yield active
            finally:
                await registry.close()

        self._leadership = Leadership(
            client=client,
            namespace=group.lease_namespace or group.namespace,
            event_log=event_log,
            ledger=ledger,
            open_dispatcher=opened,
            take_over=event_log.take_over,
            metrics=self._metrics,
        )
        if self._stopping.is_set():
            return
        await self._leadership.run()


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, and finish what is under way; a second signal cuts that short."""
    service = Service(settings)
    await until_signal(service.run(), service.stop)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""

    def prepare(settings: Settings) -> Work:
        check_service(settings)
        runner_settings(settings)
        return Work(serve=lambda: serve(settings))

    return PROGRAM.run(PROGRAM.parser().parse_args(arguments), prepare)


if __name__ == "__main__":
    sys.exit(main())
