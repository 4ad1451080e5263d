"""`python -m watcher`: the watcher as a service of its own, beside an object store, Kafka and a Kubernetes cluster.

It answers /health, /ready and /metrics from the first moment, and waits for what it needs with a line in the log that
says for what, since services are started in any order. Only settings that can never work end it.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector

from penstock import __version__
from penstock.adapters.kubernetes import KubernetesRegistry
from penstock.collectors import KubernetesCollector
from penstock.errors import Forbidden, InvalidInput, PenstockError, Unavailable
from penstock.observability import configure_logging
from penstock.probes import add_probes, serving
from penstock.production import kubernetes_client, s3_store, shared_log, state_folder
from penstock.settings import Settings, load, override
from watcher.options import check
from watcher.production import ProductionWatcher, open_watcher

log = structlog.get_logger("watcher")

T = TypeVar("T")

#: Seconds between tries to reach what is needed.
_RETRY_S = 2.0
#: Exit codes: a part failed; the settings cannot work.
FAILED, UNUSABLE = 1, 2

_EXAMPLES = """examples:
  python -m watcher --config /etc/penstock/penstock.toml
  python -m watcher --config penstock.toml --check
  PENSTOCK_S3_ENDPOINT=http://minio:9000 PENSTOCK_KAFKA_SERVERS=kafka:9092 \\
    PENSTOCK_NOTIFY_LISTEN=0.0.0.0:9091 PENSTOCK_NOTIFY_TOKEN_FILE=/run/secrets/webhook python -m watcher

The object store needs one webhook target, whose URL is http://HOST:PORT/events (notify.listen, notify.path) and whose
ARN is notify.arn; docs/operations/events.md says how. Every setting is in docs/reference/settings.md.
exit codes: 0 stopped by a signal, 1 a part failed, 2 the settings cannot work
"""


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
    loop = asyncio.get_running_loop()
    me = asyncio.current_task()

    def came() -> None:
        if stop.is_set() and me is not None:
            me.cancel()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, came)
    try:
        await Service(settings).run(stop)
    except asyncio.CancelledError:
        log.warning("stopped by a second signal", action="forced")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m watcher",
        description="Receives the events of an object store, finds what no event told of, and appends it to the log.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML; the environment wins over it")
    parser.add_argument("--listen", metavar="HOST:PORT", help="address of the webhook (notify.listen)")
    parser.add_argument("--check", action="store_true", help="say whether the settings can be used, and end")
    parser.add_argument("--version", action="version", version=f"penstock {__version__}")
    given = parser.parse_args(arguments)
    try:
        settings = override(load(given.config), "notify", listen=given.listen)
        configure_logging(settings.log)
        if given.check:
            check(settings)
            print("the settings can be used")  # noqa: T201 - the answer to a question
            return 0
        asyncio.run(serve(settings))
    except InvalidInput as error:
        print(f"watcher: {error}", file=sys.stderr)  # noqa: T201 - for whoever started it
        return UNUSABLE
    except PenstockError as error:
        print(f"watcher: {error}", file=sys.stderr)  # noqa: T201
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
