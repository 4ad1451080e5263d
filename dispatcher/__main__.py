"""`python -m dispatcher`: from the log to Jobs on a cluster, as one of several processes that take turns.

Nothing that is away at the start ends it: it says in `/ready` what it waits for and tries again. It exits with 0 after
SIGTERM or SIGINT, with 1 when only a person can mend what is wrong, and with 2 for settings that cannot work.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

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
from penstock.errors import InvalidInput, PenstockError, Unavailable
from penstock.observability import configure_logging
from penstock.probes import add_probes, serving
from penstock.production import kafka_log, kafka_settings, kubernetes_client, s3_credentials, s3_store, state_folder
from penstock.settings import Settings, load

log = structlog.get_logger("dispatcher")

LEDGER = "dispatcher.sqlite"


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
            log.info("dispatcher starts", action="start", version=__version__, probes=address)
            async with s3_store(settings) as store, kubernetes_client(settings) as client, self._opened() as parts:
                if parts is not None:
                    await self._lead(store, client, *parts)
        log.info("dispatcher has stopped", action="stopped")

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[tuple[KafkaEventLog, SqliteLedger] | None]:
        """Log and ledger, however long the brokers are away; None = it is time to stop."""
        if not self._settings.kafka.servers:
            raise InvalidInput(
                "names no broker: a dispatcher that is a process of its own needs Kafka; without it, run the edge "
                "profile, which is one process",
                where="kafka.servers",
            )
        async with contextlib.AsyncExitStack() as stack:
            while not self._stopping.is_set():
                try:
                    event_log = await stack.enter_async_context(kafka_log(self._settings, writer=True))
                    self._waits = "its ledger is being brought up to date"
                    ledger = await open_view(state_folder(self._settings) / LEDGER, event_log)
                except Unavailable as error:
                    self._waits = error.message
                    log.warning("the log is not there yet", action="start_delayed", error=error.message)
                    await stack.aclose()
                    await self._pause()
                    continue
                stack.push_async_callback(ledger.close)
                self._waits, self._log = "", event_log
                yield event_log, ledger
                return
            yield None

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


async def _serve(settings: Settings) -> None:
    service = Service(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.stop)
    await service.run()


_EXAMPLES = """examples:
  python -m dispatcher --config /etc/penstock/penstock.toml
  python -m dispatcher --config penstock.toml --check
  PENSTOCK_S3_ENDPOINT=http://minio:9000 PENSTOCK_KAFKA_SERVERS=kafka:9092 python -m dispatcher

Several may run: one is active, the others stand by. Every setting is in docs/reference/settings.md, the rights that it
needs are in docs/operations/dispatcher.md.
exit codes: 0 stopped by a signal, 1 only a person can mend what is wrong, 2 the settings cannot work
"""


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m dispatcher",
        description="Turns what is in the log into Jobs on a Kubernetes cluster, and their ends into history.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML; the environment wins over it")
    parser.add_argument("--check", action="store_true", help="say whether the settings can be used, and end")
    parser.add_argument("--version", action="version", version=f"penstock {__version__}")
    return parser.parse_args(arguments)


def check(settings: Settings) -> None:
    """Refuse what can never work. Raises InvalidInput."""
    kafka_settings(settings, writer=True)
    s3_credentials(settings)
    runner_settings(settings)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    given = _parsed(arguments)
    try:
        settings = load(given.config)
        configure_logging(settings.log)
        if given.check:
            check(settings)
            print("the settings can be used")  # noqa: T201 - the answer to a question
            return 0
        asyncio.run(_serve(settings))
    except InvalidInput as error:
        print(f"error: {error.message}", file=sys.stderr)  # noqa: T201 - the log may not be set up yet
        return 2
    except PenstockError as error:
        log.error("the dispatcher cannot go on", action="failed", error=error.message, kind=error.code)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
