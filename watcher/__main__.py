"""`python -m watcher`: the watcher as a service of its own, beside an object store, Kafka and a Kubernetes cluster.

It answers /health, /ready and /metrics from the first moment, and waits for what it needs with a line in the log that
says for what, since services are started in any order. Only settings that can never work end it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import TypeVar

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector

from penstock import __version__
from penstock.adapters.kubernetes import KubernetesRegistry
from penstock.collectors import KubernetesCollector
from penstock.errors import Forbidden, Unavailable
from penstock.probes import add_probes, serving
from penstock.production import check_service, kubernetes_client, s3_store, shared_log, state_folder
from penstock.program import Program, Work, until_signal
from penstock.settings import Settings, override
from watcher.options import check
from watcher.production import ProductionWatcher, open_watcher

log = structlog.get_logger("watcher")

T = TypeVar("T")

#: Seconds between tries to reach what is needed.
_RETRY_S = 2.0

PROGRAM = Program(
    module="watcher",
    description="Receives the events of an object store, finds what no event told of, and appends it to the log.",
    examples=(
        "python -m watcher --config /etc/penstock/penstock.toml",
        "python -m watcher --config penstock.toml --check",
        (
            "PENSTOCK_S3_ENDPOINT=http://minio:9000 PENSTOCK_KAFKA_SERVERS=kafka:9092 \\\n"
            "    PENSTOCK_S3_CREDENTIALS_DIR=/run/secrets/store PENSTOCK_NOTIFY_LISTEN=0.0.0.0:9091 \\\n"
            "    PENSTOCK_NOTIFY_TOKEN_FILE=/run/secrets/webhook python -m watcher"
        ),
    ),
    pages="The object store needs one webhook target, whose URL is http://HOST:PORT/events (notify.listen,\n"
    "notify.path) and whose ARN is notify.arn; docs/operations/events.md says how.\n"
    "Settings: docs/reference/settings.md.",
)


class Service:
    """One life of the process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._waiting = "starting"
        self._watcher: ProductionWatcher | None = None

    def waiting_for(self) -> list[str]:
        if self._waiting or self._watcher is None:
            return [self._waiting]
        return self._watcher.waiting_for()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`; raises what ended it otherwise."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        app = web.Application()
        add_probes(app, registry=registry, waiting_for=self.waiting_for, service="watcher")
        async with AsyncExitStack() as stack:
            address = await stack.enter_async_context(serving(app, self._settings.service.listen))
            log.info("the watcher starts", action="start", version=__version__, address=address)
            opening = asyncio.create_task(self._open(stack, registry), name="open")
            if not await _unless(stop, opening):
                return
            watcher = self._watcher = opening.result()
            self._waiting = ""
            ready = asyncio.Event()
            running = asyncio.create_task(watcher.run(ready), name="run")
            telling = asyncio.create_task(_tell(ready), name="tell")
            try:
                if await _unless(stop, running, cancel=False):
                    return
                log.info("stopping: requests under way are answered", action="drain")
                if not await watcher.drain(self._settings.notify.drain_s):
                    log.warning("some requests were not answered in time", action="drain_timeout")
            finally:
                for task in (telling, running):
                    task.cancel()
                await asyncio.wait({telling, running})

    async def _open(self, stack: AsyncExitStack, metrics: CollectorRegistry) -> ProductionWatcher:
        settings = self._settings
        data = state_folder(settings)
        store = await stack.enter_async_context(s3_store(settings))
        api = await stack.enter_async_context(kubernetes_client(settings))
        metrics.register(KubernetesCollector(api.use, lambda: api.pressure.allowed))
        functions = KubernetesRegistry(api, namespace=settings.kubernetes.namespace)
        stack.push_async_callback(functions.close)
        events = await self._patiently("the log", lambda: stack.enter_async_context(shared_log(settings)))
        watcher = await self._patiently(
            "the object store's topic",
            lambda: open_watcher(settings, store=store, log=events, registry=functions, metrics=metrics, data=data),
        )
        stack.push_async_callback(watcher.close)
        return watcher

    async def _patiently(self, what: str, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat while it is away, saying so once per reason."""
        while True:
            try:
                return await call()
            except (Unavailable, Forbidden) as error:
                sentence = f"waiting for {what}: {error.message}"
                if sentence != self._waiting:
                    log.warning(sentence, action="waiting")
                self._waiting = sentence
            await asyncio.sleep(_RETRY_S)


async def _tell(ready: asyncio.Event) -> None:
    await ready.wait()
    log.info("every input is watched", action="ready")


async def _unless(stop: asyncio.Event, task: asyncio.Task[T], *, cancel: bool = True) -> bool:
    """Wait for a task and raise what it raised; False when told to stop first."""
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        return False
    finally:
        stopping.cancel()
        if cancel and not task.done():
            task.cancel()
            await asyncio.wait({task})


async def serve(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; a second signal cuts the draining short."""
    stop = asyncio.Event()
    await until_signal(Service(settings).run(stop), stop.set)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = PROGRAM.parser()
    parser.add_argument("--listen", metavar="HOST:PORT", help="address of the webhook (notify.listen)")
    given = parser.parse_args(arguments)

    def prepare(loaded: Settings) -> Work:
        settings = override(loaded, "notify", listen=given.listen)
        check_service(settings)
        check(settings)
        return Work(serve=lambda: serve(settings))

    return PROGRAM.run(given, prepare)


if __name__ == "__main__":
    sys.exit(main())
